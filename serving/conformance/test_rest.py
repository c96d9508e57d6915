"""The REST API: routes, bodies, codes, values."""

import base64
import gzip
import json
import math

import pytest


def predicted(server, document, signature=None):
    if signature is not None:
        document = {"signature_name": signature, **document}
    answer = server.rest("numbers:predict", document)
    assert answer.status == 200, answer.text
    return answer.json


def refused(server, document, path="numbers:predict"):
    answer = server.rest(path, document)
    assert list(answer.json) == ["error"]
    return answer.status, answer.json["error"]


def test_rows(server):
    assert predicted(server, {"instances": [1.0, 3]}) == {"predictions": [1.5, 2.5]}


def test_columns(server):
    assert predicted(server, {"inputs": [1.0, 3]}) == {"outputs": [1.5, 2.5]}
    assert predicted(server, {"inputs": {"x": [1.0]}}) == {"outputs": [1.5]}


def test_rows_with_names(server):
    rows = [{"a": 1, "b": 2}, {"a": 3, "b": 4}]
    assert predicted(server, {"instances": rows}, "add") == {"predictions": [3.0, 7.0]}


def test_several_outputs(server):
    assert predicted(server, {"instances": [3]}, "two_outputs") == {
        "predictions": [{"double": 6.0, "square": 9.0}]
    }
    assert predicted(server, {"inputs": [3]}, "two_outputs") == {
        "outputs": {"double": [6.0], "square": [9.0]}
    }


def test_how_an_answer_is_laid_out(server):
    rows = server.rest("numbers:predict", {"instances": [1, 2]})
    assert rows.text == '{\n    "predictions": [1.5, 2.0\n    ]\n}'
    columns = server.rest("numbers:predict", {"inputs": [1, 2]})
    assert columns.text == '{\n    "outputs": [\n        1.5,\n        2.0\n    ]\n}'
    assert rows.headers["Content-Type"] == "application/json"


def test_other_keys_and_what_comes_behind_are_passed_over(server):
    assert predicted(server, {"instances": [1], "comment": {}}) == {"predictions": [1.5]}
    answer = server.rest("numbers:predict", '{"instances": [1]} and more')
    assert answer.json == {"predictions": [1.5]}


@pytest.mark.parametrize("data_type", ["int8", "int16", "int32", "int64", "uint8"])
def test_whole_numbers(server, data_type):
    assert predicted(server, {"instances": [7]}, data_type) == {"predictions": [7]}
    document = {"signature_name": data_type, "instances": [1.0]}
    assert refused(server, document)[0] == 400


@pytest.mark.parametrize("data_type", ["uint32", "uint64"])
def test_larger_whole_numbers(server, data_type):
    assert predicted(server, {"instances": [7]}, data_type) == {"predictions": [7]}


@pytest.mark.parametrize("data_type", ["float16", "uint16"])
def test_types_without_a_json_form(server, data_type):
    status, text = refused(server, {"signature_name": data_type, "inputs": [1]})
    assert status == 501
    assert text.startswith("Conversion of JSON Value: 1 to type: ")
    # Among rows, whatever is wrong with one is an invalid argument.
    status, text = refused(server, {"signature_name": data_type, "instances": [1]})
    assert status == 400
    assert text.startswith("Failed to process element: 0 of 'instances' list. Error: ")


def test_doubles_and_truth_values(server):
    assert predicted(server, {"instances": [0.1]}, "float64") == {"predictions": [0.1]}
    assert predicted(server, {"instances": [True, False]}, "bool") == {"predictions": [True, False]}


def test_numbers_that_json_does_not_know(server):
    answer = server.rest(
        "numbers:predict",
        '{"signature_name": "float32", "instances": [NaN, Infinity, -Infinity]}',
    )
    nan, plus, minus = json.loads(answer.text)["predictions"]
    assert math.isnan(nan)
    assert (plus, minus) == (math.inf, -math.inf)


def test_strings(server):
    sent = {"b64": base64.b64encode(b"\x00\xff").decode()}
    assert predicted(server, {"instances": ["a", "grün"]}, "string") == {
        "predictions": ["a", "grün"]
    }
    # Only the name of the output decides how it is written.
    assert predicted(server, {"instances": [sent, "a"]}, "bytes") == {
        "predictions": [sent, {"b64": "YQ=="}]
    }


def test_classify_and_regress(server):
    answer = server.rest(
        "numbers:classify", {"signature_name": "classify", "examples": [{"x": 1.0}]}
    )
    assert answer.json == {"results": [[["small", 1.0], ["medium", 2.0], ["large", 3.0]]]}
    answer = server.rest(
        "numbers:regress",
        {"signature_name": "regress", "context": {"x": 2.0}, "examples": [{}, {"x": 3.0}]},
    )
    assert answer.json == {"results": [20.0, 30.0]}


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("no JSON", "JSON Parse error"),
        ("[]", ""),
        ({}, "Missing 'inputs' or 'instances' key"),
        ({"instances": [1], "inputs": [1]}, "expecting only one of 'inputs' or 'instances'"),
        ({"instances": 1}, ""),
        ({"instances": []}, "No values in 'instances' array"),
        ({"instances": ["a"]}, "is not of expected type: float"),
        ({"instances": [[1], [2, 3]]}, ""),
        ({"instances": [{"y": 1}]}, "does not have named input: y"),
        (
            {"signature_name": "nowhere", "instances": [1]},
            'Serving signature name: "nowhere" not found in signature def',
        ),
        ({"signature_name": "add", "instances": [1]}, "instances is a plain list"),
        ({"signature_name": "add", "inputs": {"a": [1]}}, "Missing named input: b in 'inputs'"),
        ({"signature_name": "divide", "instances": [0]}, "division by zero"),
        ({"instances": [1] * 9}, "Task size 9 is larger than maximum input batch size 8"),
        ({"signature_name": "to_scalar", "instances": [1]}, ""),
    ],
)
def test_bodies_that_are_refused(server, document, text):
    status, found = refused(server, document)
    assert status == 400
    assert text in found


def test_examples_that_are_refused(server):
    for method in ("classify", "regress"):
        status, text = refused(server, {"signature_name": method}, f"numbers:{method}")
        assert status == 400
        assert "'examples' is expected and was not found" in text
    status, text = refused(
        server, {"signature_name": "nowhere", "examples": [{"x": 1.0}]}, "numbers:classify"
    )
    assert (status, text) == (400, "No signature was found with the name: nowhere")


def test_versions_and_labels(server):
    document = {"instances": [0]}
    for path, version in {
        "chosen:predict": 3,
        "chosen/versions/1:predict": 1,
        "chosen/versions/0001:predict": 1,
        "chosen/labels/stable:predict": 1,
        "chosen/labels/canary:predict": 3,
        "chosen/VERSIONS/3:PREDICT": 3,
    }.items():
        assert server.rest(path, document).json == {"predictions": [version]}, path


def test_models_that_are_not_there(server):
    document = {"instances": [0]}
    assert refused(server, document, "nobody:predict") == (
        404,
        "Servable not found for request: Latest(nobody)",
    )
    assert refused(server, document, "chosen/versions/2:predict") == (
        404,
        "Servable not found for request: Specific(chosen, 2)",
    )
    assert refused(server, document, "chosen/labels/best:predict") == (
        400,
        "Unrecognized servable version label: best",
    )


def test_status(server):
    assert server.rest("numbers").json == {
        "model_version_status": [
            {
                "version": "1",
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }
    both = server.rest("chosen").json["model_version_status"]
    assert sorted(each["version"] for each in both) == ["1", "3"]
    (one,) = server.rest("chosen/versions/1").json["model_version_status"]
    assert one["version"] == "1"
    assert len(server.rest("chosen/labels/stable").json["model_version_status"]) == 2
    answer = server.rest("nobody")
    assert (answer.status, answer.json) == (
        404,
        {"error": "Could not find any versions of model nobody"},
    )
    assert server.rest("numbers/versions/9").status == 404


def test_metadata(server):
    found = server.rest("chosen/labels/stable/metadata").json
    spec = found["model_spec"]
    assert (spec["name"], spec["version"]) == ("chosen", "1")
    signature = found["metadata"]["signature_def"]["signature_def"]["serving_default"]
    assert signature["method_name"] == "tensorflow/serving/predict"
    assert signature["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert signature["inputs"]["x"]["tensor_shape"]["dim"][0]["size"] == "-1"
    assert server.rest("nobody/metadata").status == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/"),
        ("GET", "/v1/models/numbers:predict"),
        ("POST", "/v1/models/numbers"),
        ("POST", "/v1/models/numbers:explain"),
        ("POST", "/v1/models/numbers/versions/one:predict"),
        ("PUT", "/v1/models/numbers:predict"),
        ("GET", "/v1/models/numbers/versions"),
    ],
)
def test_paths_that_nobody_knows(server, method, path):
    answer = server.http(method, path, "{}" if method != "GET" else None)
    assert (answer.status, answer.json) == (400, {"error": f"Malformed request: {method} {path}"})


def test_no_name(server):
    answer = server.http("GET", "/v1/models")
    assert (answer.status, answer.json) == (400, {"error": "Missing model name in request."})


def test_pages_outside_of_the_api(server):
    answer = server.http("GET", "/v2/models")
    assert answer.status == 404
    assert "<html" in answer.text.lower()


def test_a_compressed_body(server):
    body = gzip.compress(b'{"instances": [1]}')
    answer = server.http("POST", "/v1/models/numbers:predict", body, {"Content-Encoding": "gzip"})
    assert answer.json == {"predictions": [1.5]}


def test_pages_of_other_origins(server):
    """With --rest_api_enable_cors_support."""
    path = "/v1/models/numbers:predict"
    answer = server.http("OPTIONS", path, None, {"Origin": "https://example.org"})
    assert answer.status == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    answer = server.http("POST", path, '{"instances": [1]}')
    assert answer.headers["Access-Control-Allow-Origin"] == "*"


def test_long_texts_are_not_cut(server):
    status, text = refused(server, {"signature_name": "s" * 3000, "instances": [1]})
    assert status == 400
    assert len(text) > 3000
