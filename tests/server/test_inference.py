"""Classify, Regress and MultiInference: from request to call, from outputs to result."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_models import LABELS, example_of, input_of
from tensorflow_serving.apis import inference_pb2

from keras_cls.contract import METHOD_CLASSIFY, METHOD_PREDICT, METHOD_REGRESS
from keras_cls.contract.messages import Input, MultiInferenceRequest
from keras_cls.contract.tensors import FLOAT, STRING
from keras_cls.server.inference import (
    check_tasks,
    classification_call,
    classification_result,
    find_signature,
    multi_inference_response,
    read_examples,
    regression_call,
    regression_result,
    task_calls,
)
from keras_cls.server.loading import LoadedModel, latest_version
from keras_cls.server.signatures import Signature, TensorSpec
from keras_cls.server.status import Code, RequestError


@pytest.fixture(scope="module")
def model(base_path):
    loaded = LoadedModel("shades", latest_version(base_path))
    yield loaded
    loaded.close()


def run(model, call):
    return model.run(call.signature, call.inputs, call.outputs)


def ours(message, message_type=Input):
    return message_type.FromString(message.SerializeToString())


def examples_of(*examples, context=None):
    return read_examples(ours(input_of(*examples, context=context)))


def refused(function, *arguments, **options):
    with pytest.raises(RequestError) as caught:
        function(*arguments, **options)
    return caught.value.code, caught.value.message


def signature_of(inputs=None, outputs=(), method=METHOD_PREDICT):
    strings = TensorSpec("inputs:0", STRING.number, (None,))
    return Signature(
        name="odd",
        method=method,
        inputs={"inputs": strings} if inputs is None else inputs,
        outputs={name: TensorSpec(f"{name}:0", FLOAT.number, (None, None)) for name in outputs},
        defaults={},
    )


# Requests.


def test_examples_are_classified(model):
    examples = examples_of(example_of(image=0), example_of(image=255))
    call = classification_call(find_signature(model.signatures, "classify"), examples)
    assert call.outputs == ("classes", "scores")
    result = classification_result(run(model, call), 2)
    dark, bright = result.classifications
    assert [found.label for found in dark.classes] == LABELS
    assert [found.label for found in bright.classes] == LABELS[::-1]
    scores = [found.score for found in bright.classes]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1)


def test_numbers_are_found_for_examples(model):
    examples = examples_of(example_of(x=1), example_of(x=-2, y=5))
    result = regression_result(
        run(model, regression_call(find_signature(model.signatures, "regress"), examples)), 2
    )
    assert [found.value for found in result.regressions] == [100, -195]


def test_a_context_fills_in_what_examples_lack(model):
    context = example_of(x=7, y=3)
    examples = examples_of(example_of(y=1), example_of(), example_of(x=1), context=context)
    call = regression_call(model.signatures["regress"], examples)
    assert run(model, call)["outputs"][:, 0].tolist() == [701, 703, 103]


keys = st.sampled_from(["a", "b", "c", "image/encoded"])
feature_values = st.one_of(
    st.lists(st.binary(max_size=4), max_size=3).map(
        lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    ),
    st.lists(st.floats(width=32, allow_nan=False), max_size=3).map(
        lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values))
    ),
    st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3).map(
        lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    ),
    st.builds(tf.train.Feature),
)
examples_strategy = st.builds(
    lambda features: tf.train.Example(features=tf.train.Features(feature=features)),
    st.dictionaries(keys, feature_values),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(examples_strategy, min_size=1, max_size=4), examples_strategy)
def test_merged_examples_are_those_of_the_original(examples, context):
    merged = [tf.train.Example.FromString(e) for e in examples_of(*examples, context=context)]
    for example, found in zip(examples, merged, strict=True):
        # What the original sends: the bytes of both, one behind the other.
        both = context.SerializeToString() + example.SerializeToString()
        assert found == tf.train.Example.FromString(both)
        wanted = {**context.features.feature, **example.features.feature}
        assert dict(found.features.feature) == wanted
    alone = examples_of(*examples)
    assert [tf.train.Example.FromString(e) for e in alone] == examples


@pytest.mark.parametrize(
    "empty", [input_of(), input_of(context=example_of(x=1)), type(input_of())()], ids=str
)
def test_no_example_is_refused(empty):
    assert refused(read_examples, ours(empty)) == (Code.INVALID_ARGUMENT, "Input is empty.")


def test_strings_arrive_as_they_are(model):
    call = regression_call(model.signatures["regress"], [b"a\0", b"", b"\xff\0\0"])
    assert call.inputs["inputs"].tolist() == [b"a\0", b"", b"\xff\0\0"]


def test_the_graph_refuses_what_is_no_example(model):
    call = regression_call(model.signatures["regress"], [b"no example"])
    code, message = refused(run, model, call)
    assert code is Code.INVALID_ARGUMENT
    assert "Could not parse example input" in message


def test_a_feature_that_is_missing_is_named(model):
    call = classification_call(model.signatures["classify"], examples_of(example_of(x=1)))
    code, message = refused(run, model, call)
    assert code is Code.INVALID_ARGUMENT
    assert "image/encoded" in message


def test_signatures_are_found_by_name(model):
    assert find_signature(model.signatures, "").name == "serving_default"
    assert refused(find_signature, model.signatures, "nope") == (
        Code.INVALID_ARGUMENT,
        "No signature was found with the name: nope",
    )
    assert refused(find_signature, {}, "") == (
        Code.INVALID_ARGUMENT,
        "No signature was found with the name: serving_default",
    )


TWO_INPUTS = {name: TensorSpec(f"{name}:0", STRING.number, (None,)) for name in ("inputs", "b")}


@pytest.mark.parametrize(
    ("make_call", "signature", "code", "words"),
    [
        (classification_call, signature_of(TWO_INPUTS, ["classes"]), 3, "Expected one input Tens"),
        (regression_call, signature_of(TWO_INPUTS, ["outputs"]), 3, "Expected one input Tensor."),
        (classification_call, signature_of({}, ["classes"]), 3, "Expected one input Tensor."),
        (
            classification_call,
            signature_of(outputs=["classes", "scores", "more"]),
            3,
            "Expected one or two output Tensors, found 3",
        ),
        (
            classification_call,
            signature_of(outputs=["probabilities"]),
            9,
            "Expected classification signature outputs to contain at least one of "
            '"classes" or "scores". Signature was: odd, inputs {inputs: string [?]}, '
            "outputs {probabilities: float [?,?]}",
        ),
        (regression_call, signature_of(outputs=["outputs", "b"]), 3, "Expected one output Tensor."),
        (
            regression_call,
            signature_of(outputs=["scores"]),
            9,
            "No regression outputs found in SignatureDef: odd, inputs",
        ),
        (
            regression_call,
            signature_of({"x": TWO_INPUTS["b"]}, ["outputs"]),
            9,
            "No regression inputs found in SignatureDef: odd, inputs {x: string [?]}",
        ),
        (
            classification_call,
            signature_of({"x": TWO_INPUTS["b"]}, ["scores"]),
            9,
            "No classification inputs found in SignatureDef: odd",
        ),
        (
            classification_call,
            signature_of({"inputs": TensorSpec("i:0", FLOAT.number, (None,))}, ["scores"]),
            3,
            'Type mismatch: actual string vs. expect float for input "inputs"',
        ),
        (
            regression_call,
            signature_of({"inputs": TensorSpec("i:0", STRING.number, (None, 3))}, ["outputs"]),
            3,
            'Shape mismatch: actual [1] vs. expect [?,3] for input "inputs"',
        ),
    ],
)
def test_signatures_that_cannot_do_it(make_call, signature, code, words):
    found, message = refused(make_call, signature, [b"example"])
    assert (found, message[: len(words)]) == (code, words)


def test_the_method_that_a_signature_declares_counts_where_it_is_wanted(model):
    signatures = model.signatures
    for name, make_call in (("classify", classification_call), ("regress", regression_call)):
        assert make_call(signatures[name], [b""], check_method=True).signature.name == name
    odd = signature_of(outputs=["scores"])
    assert classification_call(odd, [b""]).outputs == ("scores",)
    assert refused(classification_call, odd, [b""], check_method=True) == (
        Code.INVALID_ARGUMENT,
        "Expected classification signature method_name to be tensorflow/serving/classify. "
        "Was: tensorflow/serving/predict",
    )
    assert refused(regression_call, signatures["classify"], [b""], check_method=True) == (
        Code.INVALID_ARGUMENT,
        "Expected regression signature method_name to be tensorflow/serving/regress. "
        "Was: tensorflow/serving/classify",
    )


# Results.


def strings(*rows):
    return np.array(rows, dtype=object)


def test_classes_without_scores_and_scores_without_classes():
    result = classification_result({"classes": strings([b"\xc3\xa9", b""])}, 1)
    assert [(c.label, c.score) for c in result.classifications[0].classes] == [("é", 0), ("", 0)]
    result = classification_result({"scores": np.float32([[0.5, 0.25], [np.inf, -1]])}, 2)
    assert [[(c.label, c.score) for c in row.classes] for row in result.classifications] == [
        [("", 0.5), ("", 0.25)],
        [("", np.inf), ("", -1)],
    ]
    assert len(classification_result({"scores": np.zeros((3, 0), np.float32)}, 3).classifications)


SCORES = np.ones((2, 3), np.float32)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            {"classes": strings(b"a", b"b")},
            'Expected Tensor shape: [batch_size num_classes] but got [2] for output "classes"',
        ),
        (
            {"scores": np.float32(4)},
            'Expected Tensor shape: [batch_size num_classes] but got [] for output "scores"',
        ),
        ({"classes": SCORES}, "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ({"scores": SCORES.astype(float)}, "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ({"scores": SCORES.astype(int)}, "Expected scores Tensor of DT_FLOAT. Got: DT_INT64"),
        ({"scores": SCORES[:1]}, "Expected scores output batch size of 2. Got: 1"),
        ({"classes": strings([b"a"])}, "Expected classes output batch size of 2. Got: 1"),
        (
            {"classes": strings([b"a"], [b"b"]), "scores": SCORES},
            "Tensors class and score should match in dim_size(1). Got 1 vs. 3",
        ),
    ],
)
def test_odd_classifications(outputs, message):
    assert refused(classification_result, outputs, 2) == (Code.INVALID_ARGUMENT, message)


def test_labels_that_are_no_text():
    code, message = refused(classification_result, {"classes": strings([b"\xff"])}, 1)
    assert (code, message) == (Code.INTERNAL, "The model's label b'\\xff' is no UTF-8 text")


def test_regressions_are_flat_or_a_column():
    for values in (np.float32([1, 2]), np.float32([[1], [2]])):
        result = regression_result({"outputs": values}, 2)
        assert [found.value for found in result.regressions] == [1, 2]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        *(
            (
                np.zeros(shape, np.float32),
                "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but "
                f"got {text}",
            )
            for shape, text in [((2, 2), "[2,2]"), ((), "[]"), ((2, 1, 1), "[2,1,1]")]
        ),
        (np.zeros(3, np.float32), "Input batch size did not match output batch size: 2 vs. 3"),
        (np.zeros(2), "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
        (strings(b"", b""), "Expected output Tensor of DT_FLOAT.  Got: DT_STRING"),
    ],
)
def test_odd_regressions(array, message):
    assert refused(regression_result, {"outputs": array}, 2) == (Code.INVALID_ARGUMENT, message)


# Several tasks.


def multi_request(*tasks, examples=()):
    """Tasks are (model, signature, method)."""
    request = inference_pb2.MultiInferenceRequest(input=input_of(*examples))
    for name, signature, method in tasks:
        task = request.tasks.add(method_name=method)
        task.model_spec.name = name
        task.model_spec.signature_name = signature
    return ours(request, MultiInferenceRequest)


def test_tasks_are_answered_in_their_order(model):
    request = multi_request(
        ("shades", "regress", METHOD_REGRESS),
        ("shades", "classify", METHOD_CLASSIFY),
        examples=[example_of(image=255, x=3), example_of(image=0, x=4)],
    )
    request.tasks[0].model_spec.version.value = 3
    assert check_tasks(request).version.value == 3
    examples = read_examples(request.input)
    calls = task_calls(request, model.signatures, examples, check_method=True)
    response = multi_inference_response(request, 3, [run(model, call) for call in calls], 2)
    theirs = inference_pb2.MultiInferenceResponse.FromString(response.SerializeToString())
    regressed, classified = theirs.results
    assert [found.value for found in regressed.regression_result.regressions] == [300, 400]
    assert [
        found.classes[0].label for found in classified.classification_result.classifications
    ] == ["bright", "dark"]
    for result, name in ((regressed, "regress"), (classified, "classify")):
        assert result.model_spec.name == "shades"
        assert result.model_spec.signature_name == name
        assert result.model_spec.version.value == 3


CLASSIFY = ("shades", "classify", METHOD_CLASSIFY)


@pytest.mark.parametrize(
    ("tasks", "code", "message"),
    [
        ([], 3, "ModelSpec has no name specified."),
        ([("", "classify", METHOD_CLASSIFY)], 3, "ModelSpec has no name specified."),
        (
            [CLASSIFY, ("", "regress", METHOD_REGRESS)],
            3,
            "Found ModelSpec with an empty model name.",
        ),
        (
            [CLASSIFY, ("pets", "regress", METHOD_REGRESS)],
            3,
            "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
        ),
        ([CLASSIFY, CLASSIFY], 3, "Duplicate evaluation of signature: classify"),
        (
            [("shades", "", METHOD_CLASSIFY), ("shades", "serving_default", METHOD_REGRESS)],
            3,
            "Duplicate evaluation of signature: serving_default",
        ),
        (
            [CLASSIFY, ("shades", "images", METHOD_PREDICT)],
            12,
            "Unsupported signature method_name: tensorflow/serving/predict",
        ),
        ([("shades", "classify", "")], 12, "Unsupported signature method_name: "),
    ],
)
def test_tasks_that_do_not_go_together(tasks, code, message):
    assert refused(check_tasks, multi_request(*tasks)) == (code, message)


def test_a_task_s_signature_must_be_there_and_fit(model):
    request = multi_request(CLASSIFY, ("shades", "nope", METHOD_REGRESS))
    assert refused(task_calls, request, model.signatures, [b""]) == (
        Code.INVALID_ARGUMENT,
        "Requested signature not found in model graph: nope",
    )
    request = multi_request(("shades", "classify", METHOD_REGRESS))
    assert refused(task_calls, request, model.signatures, [b""]) == (
        Code.INVALID_ARGUMENT,
        "Expected one output Tensor.",
    )
