"""Classify, Regress and MultiInference by gRPC."""

import math

import pytest
from tensorflow_serving.apis import classification_pb2, regression_pb2

from serving.conformance.asking import SECONDS, classification, refusal, regression, tasks
from serving.conformance.models import LABELS


def classified(server, signature, *numbers, **others):
    request = classification(signature, *numbers, **others)
    response = server.prediction.Classify(request, timeout=SECONDS)
    return [
        [(each.label, each.score) for each in row.classes]
        for row in response.result.classifications
    ]


def regressed(server, signature, *numbers, **others):
    request = regression(signature, *numbers, **others)
    response = server.prediction.Regress(request, timeout=SECONDS)
    return [each.value for each in response.result.regressions]


def pairs(first):
    return list(zip(LABELS, (first, first + 1, first + 2), strict=True))


def test_classify(server):
    assert classified(server, "classify", 1.0, 5.0) == [pairs(1.0), pairs(5.0)]


def test_classify_names_the_model(server):
    response = server.prediction.Classify(classification("classify", 1.0), timeout=SECONDS)
    spec = response.model_spec
    assert (spec.name, spec.signature_name, spec.version.value) == ("numbers", "classify", 1)


def test_classes_without_scores_and_scores_without_classes(server):
    assert classified(server, "classes_only", 1.0) == [[(label, 0.0) for label in LABELS]]
    assert classified(server, "scores_only", 1.0) == [[("", 1.0), ("", 2.0), ("", 3.0)]]


def test_examples_with_a_context(server):
    # An example's own feature goes before the context's.
    assert classified(server, "classify", 1.0, math.nan, context=7.0) == [pairs(1.0), pairs(7.0)]


@pytest.mark.parametrize("signature", ["regress", "regress_flat"])
def test_regress(server, signature):
    assert regressed(server, signature, 1.0, 2.5) == [10.0, 25.0]


@pytest.mark.parametrize(
    ("method", "request_type"),
    [
        ("Classify", classification_pb2.ClassificationRequest),
        ("Regress", regression_pb2.RegressionRequest),
    ],
)
def test_what_every_method_wants(server, method, request_type):
    call = getattr(server.prediction, method)
    request = request_type()
    assert refusal(call, request) == ("INVALID_ARGUMENT", "Missing ModelSpec")
    request.model_spec.name = "nobody"
    assert refusal(call, request)[0] == "NOT_FOUND"
    request.model_spec.name = "numbers"
    request.model_spec.signature_name = "nowhere"
    request.input.CopyFrom(classification("", 1.0).input)
    found = refusal(call, request)
    assert found == ("INVALID_ARGUMENT", "No signature was found with the name: nowhere")


def test_no_examples(server):
    for call, request in (
        (server.prediction.Classify, classification("classify")),
        (server.prediction.Regress, regression("regress")),
    ):
        assert refusal(call, request) == ("INVALID_ARGUMENT", "Input is empty.")


@pytest.mark.parametrize(
    ("signature", "code", "text"),
    [
        ("add", "INVALID_ARGUMENT", "Expected one input Tensor"),
        ("serving_default", "FAILED_PRECONDITION", "No classification inputs found in "),
        (
            "other_names",
            "FAILED_PRECONDITION",
            "Expected classification signature outputs to contain at least one of ",
        ),
        ("flat_scores", "INVALID_ARGUMENT", "Expected Tensor shape: [batch_size num_classes]"),
    ],
)
def test_signatures_that_cannot_classify(server, signature, code, text):
    found = refusal(server.prediction.Classify, classification(signature, 1.0))
    assert found[0] == code
    assert found[1].startswith(text)


@pytest.mark.parametrize(
    ("signature", "code", "text"),
    [
        ("add", "INVALID_ARGUMENT", "Expected one input Tensor"),
        ("classify", "INVALID_ARGUMENT", "Expected one output Tensor"),
        ("scores_only", "FAILED_PRECONDITION", "No regression outputs found in SignatureDef"),
        (
            "regress_wide",
            "INVALID_ARGUMENT",
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1]",
        ),
    ],
)
def test_signatures_that_cannot_regress(server, signature, code, text):
    found = refusal(server.prediction.Regress, regression(signature, 1.0))
    assert found[0] == code
    assert found[1].startswith(text)


def test_what_an_example_lacks(server):
    code, text = refusal(server.prediction.Classify, classification("classify", math.nan))
    assert code == "INVALID_ARGUMENT"
    assert "Feature: x" in text


def test_several_tasks(server):
    request = tasks(("classify", "classify"), ("regress", "regress"), numbers=(2.0,))
    response = server.prediction.MultiInference(request, timeout=SECONDS)
    first, second = response.results
    assert first.model_spec.signature_name == "classify"
    assert first.model_spec.version.value == 1
    assert [each.score for each in first.classification_result.classifications[0].classes] == [
        2.0,
        3.0,
        4.0,
    ]
    assert [each.value for each in second.regression_result.regressions] == [20.0]


def test_tasks_that_do_not_go_together(server):
    call = server.prediction.MultiInference
    request = tasks(("classify", "classify"), ("regress", "regress"))
    request.tasks[1].model_spec.name = "every"
    assert refusal(call, request) == (
        "INVALID_ARGUMENT",
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    )
    twice = tasks(("classify", "classify"), ("classify", "classify"))
    assert refusal(call, twice) == (
        "INVALID_ARGUMENT",
        "Duplicate evaluation of signature: classify",
    )


def test_tasks_of_another_method(server):
    assert refusal(server.prediction.MultiInference, tasks(("serving_default", "predict"))) == (
        "UNIMPLEMENTED",
        "Unsupported signature method_name: tensorflow/serving/predict",
    )
