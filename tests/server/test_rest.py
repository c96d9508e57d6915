"""The REST API over real sockets: routes, codes, texts, and what hostile bodies come to."""

import asyncio
import base64
import gzip
import http.client
import json
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Thread
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from aiohttp import web
from serving_models import image_of

from keras_cls.errors import ConfigError
from keras_cls.server import BatchingOptions, ModelServer, ServerOptions
from keras_cls.server.core import Core
from keras_cls.server.rest import RestSettings, rest_app, rest_runner
from keras_cls.server.status import Code, RequestError

SHADES = "/v1/models/shades"
PREDICT = f"{SHADES}:predict"
EMPTY_GZIP = gzip.compress(b"{}", mtime=0)  # the time would give every test process other names


class ExamplesModel(tf.Module):
    """Classifies and regresses the feature ``x`` of examples."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def classify(self, inputs):
        x = self._parse(inputs)
        labels = tf.repeat(tf.constant([["small", "large"]]), tf.size(x), axis=0)
        return {"classes": labels, "scores": tf.stack([1 - x, x], axis=1)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(self, inputs):
        return {"outputs": 2 * self._parse(inputs)}

    def _parse(self, inputs):
        feature = tf.io.FixedLenFeature([], tf.float32)
        return tf.io.parse_example(inputs, {"x": feature})["x"]


METRICS_PATH = "/monitoring/prometheus/metrics"


@contextmanager
def rest_server(base_path, **settings):
    """The REST port of a server of the test model, with its REST settings."""
    options = ServerOptions(rest=RestSettings(**settings))
    with ModelServer(
        base_path, host="127.0.0.1", port=0, rest_api_port=0, options=options
    ) as running:
        yield running.rest_port


@contextmanager
def bare_rest(core, extra_routes=()):
    """The REST API alone on a real socket, on an event loop in a thread of its own; its port."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start():
        runner = rest_runner(rest_app(core, RestSettings(), extra_routes))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return runner, runner.addresses[0][1]

    runner, port = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield port
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="module")
def port(base_path, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    model = ExamplesModel()
    signatures = {"serving_default": model.classify, "double": model.regress}
    tf.saved_model.save(model, str(folder / "sizes" / "1"), signatures=signatures)
    models = "".join(
        f'config {{ name: "{path.name}" base_path: "{path}" model_platform: "tensorflow" }}\n'
        for path in (base_path, folder / "sizes")
    )
    file = folder / "models.pbtxt"
    file.write_text(f"model_config_list {{ {models} }}")
    options = ServerOptions(model_config_file=file, rest=RestSettings(metrics_path=METRICS_PATH))
    with ModelServer(host="127.0.0.1", port=0, rest_api_port=0, options=options) as running:
        yield running.rest_port


def ask(port, method, path, body=None, **headers):
    """Status, headers, and the body as text."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body, names)
        response = connection.getresponse()
        text = response.read().decode()
        return SimpleNamespace(status=response.status, headers=response.headers, text=text)
    finally:
        connection.close()


def post(port, path, body, **headers):
    payload = body if isinstance(body, bytes | str) else json.dumps(body)
    return ask(port, "POST", path, payload, **headers)


def answer(port, body, path=PREDICT):
    response = post(port, path, body)
    assert response.status == 200, response.text
    assert response.headers["Content-Type"] == "application/json"
    return json.loads(response.text)


def refusal(response):
    """The status and the text of a refusal, which is always in JSON."""
    body = json.loads(response.text)
    assert list(body) == ["error"]
    assert response.headers["Content-Type"] == "application/json"
    return response.status, body["error"]


def b64(data):
    return {"b64": base64.b64encode(data).decode()}


def png(brightness):
    return tf.io.encode_png(image_of(brightness)).numpy()


def divide(**members):
    return {"signature_name": "divide", **members}


# --- predict ----------------------------------------------------------------------------------


def test_images_in_base64(port):
    found = answer(port, {"instances": [b64(png(0))]})
    (row,) = found["predictions"]
    assert row["classes"] == ["dark", "medium", "bright"]
    assert sorted(row["scores"], reverse=True) == row["scores"]
    rows = answer(port, {"instances": [{"image_bytes": b64(png(v))} for v in (0, 255)]})
    assert [each["classes"][0] for each in rows["predictions"]] == ["dark", "bright"]
    columns = answer(port, {"inputs": {"image_bytes": [b64(png(0)), b64(png(255))]}})
    assert [each[0] for each in columns["outputs"]["classes"]] == ["dark", "bright"]
    assert columns["outputs"]["scores"] == [each["scores"] for each in rows["predictions"]]


def test_dense_images(port):
    pixels = np.stack([image_of(30), image_of(200)]).tolist()
    rows = answer(port, {"signature_name": "images", "instances": pixels})["predictions"]
    columns = answer(port, {"signature_name": "images", "inputs": pixels})["outputs"]
    assert rows == columns
    assert np.shape(rows) == (2, 3)
    np.testing.assert_allclose(np.sum(rows, axis=1), 1, rtol=1e-6)


def test_several_inputs(port):
    by_rows = answer(
        port,
        {"signature_name": "pair", "instances": [{"a": [1, 2], "b": 3}, {"b": 4, "a": [5, 6]}]},
    )
    assert [row["total"] for row in by_rows["predictions"]] == [6, 15]
    by_columns = answer(
        port, {"signature_name": "pair", "inputs": {"a": [[1, 2], [5, 6]], "b": [3, 4]}}
    )
    assert by_columns["outputs"]["total"] == [6, 15]


def test_a_scalar(port):
    assert answer(port, {"signature_name": "scalar", "inputs": 2}) == {"outputs": 3}
    assert refusal(post(port, PREDICT, {"signature_name": "scalar", "instances": [2]})) == (
        400,
        'Shape mismatch: actual [1] vs. expect [] for input "x"',
    )


def test_numbers_that_are_none(port):
    response = post(port, PREDICT, '{"signature_name": "scalar", "inputs": -Infinity}')
    assert (response.status, response.text) == (200, '{\n    "outputs": -Infinity\n}')


def test_the_layout_of_an_answer(port):
    response = post(port, PREDICT, divide(instances=[2, 4]))
    assert response.text == (
        """{
    "predictions": [
        {
            "batch_rows": 2,
            "quotient": 0.5
        },
        {
            "batch_rows": 2,
            "quotient": 0.25
        }
    ]
}"""
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/shades/versions/3:predict",
        "/v1/models/shades/versions/0003:predict",
        "/V1/Models/shades:PREDICT",
        "/v1/models/%73hades:predict",
        "/v1/models/shades:predict?why=not",
    ],
)
def test_paths_that_mean_the_model(port, path):
    found = answer(port, divide(instances=[2]), path)
    assert found["predictions"][0]["quotient"] == 0.5


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models/dogs:predict", 404, "Servable not found for request: Latest(dogs)"),
        (
            "/v1/models/shades/versions/4:predict",
            404,
            "Servable not found for request: Specific(shades, 4)",
        ),
        (
            "/v1/models/shades/labels/stable:predict",
            400,
            "Unrecognized servable version label: stable",
        ),
        (
            "/v1/models/shades/versions/9223372036854775808:predict",
            400,
            "Failed to convert version: 9223372036854775808 to numeric.",
        ),
        (
            f"/v1/models/shades/versions/{'9' * 5000}:predict",
            400,
            f"Failed to convert version: {'9' * 5000} to numeric.",
        ),
        ("/v1/models/%ff:predict", 400, "Failed to decode model name:%ff"),
        (
            "/v1/models/shades/labels/%ff:predict",
            400,
            "Failed to decode model version label:%ff",
        ),
        ("/v1/models/a%00b:predict", 404, "Servable not found for request: Latest(a\0b)"),
    ],
)
def test_models_that_are_not_there(port, path, status, text):
    assert refusal(post(port, path, divide(instances=[1]))) == (status, text)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            {"signature_name": "nope", "instances": [1]},
            'Serving signature name: "nope" not found in signature def',
        ),
        (
            {"signature_name": "__saved_model_init_op", "instances": [1]},
            "Failed to get input map for signature: __saved_model_init_op",
        ),
        (divide(instances=[1], inputs=[1]), "Not formatted correctly expecting only one of"),
        (divide(), "Missing 'inputs' or 'instances' key"),
        (divide(instances=[]), "No values in 'instances' array"),
        (
            divide(instances=["a"]),
            "Failed to process element: 0 of 'instances' list. Error: INVALID_ARGUMENT: JSON "
            'Value: "a" Type: String is not of expected type: float',
        ),
        (
            divide(instances=[[1], [1, 2]]),
            "Expecting tensor size: 1 but got: 2",
        ),
        (
            divide(inputs=[[1]]),
            'Shape mismatch: actual [1,1] vs. expect [?] for input "x"',
        ),
        (
            {"signature_name": "pair", "instances": [{"a": [1]}]},
            "keys must be equal to: a,b",
        ),
        (
            {"signature_name": "pair", "inputs": {"a": [[1], [2]], "b": [1]}},
            "Batching Run() input tensors must have equal 0th-dimension size",
        ),
        (
            {"signature_name": "images", "instances": image_of(0).tolist()},
            'Shape mismatch: actual [8,8,3] vs. expect [?,8,8,3] for input "images"',
        ),
        (
            {"signature_name": "images", "instances": [[[[0.0]]]]},
            "JSON Value: 0.0 Type: Number is not of expected type: uint8",
        ),
        (divide(inputs=[1.0] * 1001), "Task size 1001 is larger than maximum input batch size"),
        (divide(inputs=[0]), "division by zero : Tensor had Inf values"),
        (
            {"signature_name": "wait", "instances": [0.01, 0.01]},
            "Tensor name: waited has inconsistent batch size: 2 expecting: 1",
        ),
    ],
)
def test_requests_that_are_refused(port, body, text):
    status, found = refusal(post(port, PREDICT, body))
    assert status == 400
    assert text in found


def test_types_that_json_cannot_carry(port):
    body = {"signature_name": "brain_float", "inputs": [1]}
    assert refusal(post(port, PREDICT, body)) == (
        501,
        "Conversion of JSON Value: 1 to type: bfloat16",
    )


# --- classify and regress ---------------------------------------------------------------------


def test_classify(port):
    response = post(port, "/v1/models/sizes:classify", {"examples": [{"x": 0.25}, {"x": [1.0]}]})
    assert response.status == 200
    assert response.text == (
        '{\n    "results": [[["small", 0.75], ["large", 0.25]], [["small", 0.0], ["large", 1.0]]\n'
        "    ]\n}"
    )


def test_regress(port):
    body = {"signature_name": "double", "examples": [{"x": 0.25}, {"x": 1.5}]}
    response = post(port, "/v1/models/sizes/versions/1:regress", body)
    assert (response.status, response.text) == (200, '{\n    "results": [0.5, 3.0]\n}')


def test_examples_that_are_refused(port):
    assert refusal(post(port, "/v1/models/sizes:classify", {"examples": [1]})) == (
        400,
        "Example must be JSON object but got JSON Number",
    )
    assert refusal(post(port, "/v1/models/dogs:regress", {"examples": [{}]})) == (
        404,
        "Servable not found for request: Latest(dogs)",
    )


# --- status, metadata, other routes -----------------------------------------------------------


@pytest.mark.parametrize("path", [SHADES, f"{SHADES}/versions/3", f"{SHADES}/labels/whatever"])
def test_status(port, path):
    response = ask(port, "GET", path)
    assert response.status == 200
    assert response.text == (
        """{
 "model_version_status": [
  {
   "version": "3",
   "state": "AVAILABLE",
   "status": {
    "error_code": "OK",
    "error_message": ""
   }
  }
 ]
}
"""
    )


def test_metadata(port):
    for path in (f"{SHADES}/metadata", f"{SHADES}/versions/3/metadata"):
        body = json.loads(ask(port, "GET", path).text)
        assert body["model_spec"] == {"name": "shades", "signature_name": "", "version": "3"}
        signatures = body["metadata"]["signature_def"]["signature_def"]
        assert "__saved_model_init_op" in signatures
        divide = signatures["divide"]
        assert divide["method_name"] == "tensorflow/serving/predict"
        assert divide["inputs"]["x"] == {
            "dtype": "DT_FLOAT",
            "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
            "name": "divide_x:0",
        }


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/models", 400, "Missing model name in request."),
        ("/v1/models/versions/3", 400, "Missing model name in request."),
        ("/v1/models/metadata", 404, "Could not find any versions of model metadata"),
        ("/v1/models/dogs", 404, "Could not find any versions of model dogs"),
        (f"{SHADES}/versions/4", 404, "Could not find version 4 of model shades"),
        ("/v1/models/dogs/metadata", 404, "Servable not found for request: Latest(dogs)"),
        (f"{SHADES}/labels/x/metadata", 400, "Unrecognized servable version label: x"),
    ],
)
def test_questions_that_are_refused(port, path, status, text):
    assert refusal(ask(port, "GET", path)) == (status, text)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PREDICT),
        ("POST", SHADES),
        ("POST", "/v1/models/shades/versions/x:predict"),
        ("POST", "/v1/models/shades:explain"),
        ("POST", "/v1/models/:predict"),
        ("POST", "/v1/models/shades/versions/3/labels/a:predict"),
        ("GET", "/v1/"),
        ("GET", "/v1/models/shades/"),
        ("GET", "/v1/models/shades/versions/%D9%A3"),
        ("PUT", PREDICT),
        ("DELETE", SHADES),
        ("OPTIONS", PREDICT),
        ("PATCH", "/v1/models/shades?a=b"),
    ],
)
def test_malformed_requests(port, method, path):
    expected = (400, f"Malformed request: {method} {path}")
    assert refusal(ask(port, method, path, b"{}" if method == "POST" else None)) == expected


@pytest.mark.parametrize(
    "path", ["/models", "/v1", "/v2/models/shades", "/favicon.ico", "/metrics"]
)
def test_outside_the_api_is_a_page(port, path):
    response = ask(port, "GET", path)
    assert response.status == 404
    assert response.headers["Content-Type"].startswith("text/html")
    assert "<H1>Not Found</H1>" in response.text


def test_a_get_with_a_body(port):
    assert ask(port, "GET", SHADES, b'{"a": 1}' * 1000).status == 200
    assert ask(port, "GET", SHADES).status == 200


def test_health_and_readiness(port):
    assert ask(port, "GET", "/healthz").status == 200
    assert ask(port, "GET", "/readyz").status == 200
    assert ask(port, "POST", "/readyz", b"").status == 404


# --- bodies -----------------------------------------------------------------------------------


def test_what_is_read_without_complaint(port):
    body = json.dumps(divide(instances=[2], extra={"a": [[]]}))
    expected = answer(port, body)
    for variant in (body + "}", body + "\0 junk", "\ufeff" + body):
        assert answer(port, variant.encode()) == expected
    for kind in ("text/plain", "image/png", "nonsense", "application/x-www-form-urlencoded"):
        assert json.loads(post(port, PREDICT, body, Content_Type=kind).text) == expected


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b'{"instances": [1', "JSON Parse error: Missing a comma or ] after an array element."),
        (b"\0" * 10, "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"instances": ["a\0"]}', "JSON Parse error: Invalid encoding in string."),
        (b"\xff\xfe{}", "JSON Parse error: Invalid value. at offset: 0"),
        (b'{"inputs": "\xff"}', "Unable to decode"),
        (b'{"signature_name": "\xff"}', "JSON Parse error: Invalid encoding in string."),
        (b'{"signature_name": "divide", "inputs": [1e999]}', "Number too big to be stored"),
        (b'{"inputs": [' + b"9" * 100_000 + b"]}", "Number too big to be stored"),
        (b'{"inputs": ' + b"[" * 500_000, "nested deeper than 64 levels"),
        (b'{"inputs": ' + b'{"a":' * 500_000, "nested deeper than 64 levels"),
        (b'["instances"]', "Is not object"),
        (b"instances=1", "JSON Parse error: Invalid value."),
    ],
)
@pytest.mark.parametrize("method", ["predict", "classify", "regress"])
def test_hostile_bodies(port, body, text, method):
    status, found = refusal(post(port, f"{SHADES}:{method}", body))
    assert status == 400
    if method == "predict" and b"\xff" not in body:
        assert text in found
    assert ask(port, "GET", SHADES).status == 200


def test_bodies_in_gzip(port):
    body = json.dumps(divide(instances=[2])).encode()
    large = json.dumps(divide(instances=[2], padding="0123456789" * 100_000)).encode()
    for payload in (gzip.compress(body), gzip.compress(large, 0)):
        response = post(port, PREDICT, payload, Content_Encoding="gzip")
        assert json.loads(response.text)["predictions"][0]["quotient"] == 0.5


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", "The request's body is no gzip, as its Content-Encoding says"),
        (zlib.compress(b"{}"), "The request's body is no gzip, as its Content-Encoding says"),
        (EMPTY_GZIP[:-4], "The gzip of the request's body ends early"),
        (EMPTY_GZIP + b"\0", "The gzip of the request's body goes on behind its end"),
        (b"", "The gzip of the request's body ends early"),
    ],
)
def test_wrong_gzip(port, body, text):
    status, found = refusal(post(port, PREDICT, body, Content_Encoding="gzip"))
    assert status == 400
    assert found.startswith(text)


def test_other_encodings_are_refused(port):
    assert refusal(post(port, PREDICT, b"{}", Content_Encoding="br")) == (
        415,
        "Content-Encoding br is not supported: send the body as it is, or in gzip",
    )


def test_limits_on_bodies(base_path):
    text = "The request's body is larger than 1000 bytes, the most that this server takes"
    with rest_server(base_path, max_body_bytes=1000) as port:
        bomb = gzip.compress(b'{"instances": [' + b" " * 50_000_000)
        assert len(bomb) > 1000
        small_bomb = gzip.compress(b" " * 100_000)
        assert len(small_bomb) < 1000
        assert refusal(post(port, PREDICT, small_bomb, Content_Encoding="gzip")) == (413, text)
        assert refusal(post(port, PREDICT, b" " * 1001)) == (413, text)
        chunks = iter([b" " * 600, b" " * 600])
        assert refusal(ask(port, "POST", PREDICT, chunks)) == (413, text)
        fitting = json.dumps(divide(instances=[2])).ljust(1000)
        assert answer(port, fitting)["predictions"][0]["quotient"] == 0.5
    with rest_server(base_path, max_body_bytes=1_000_000) as port:
        assert refusal(post(port, PREDICT, bomb, Content_Encoding="gzip"))[0] == 413


def test_a_large_body_holds_nobody_up(port):
    """What takes seconds to read is read while others are answered."""
    rows = b",".join([b'{"b64": ""}'] * 400_000)
    with ThreadPoolExecutor(1) as pool:
        start = last = time.monotonic()
        large = pool.submit(post, port, PREDICT, b'{"instances": [' + rows + b"]}")
        longest = 0.0
        while not large.done():
            assert ask(port, "GET", "/healthz").status == 200
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        text = "Task size 400000 is larger than maximum input batch size 1000"
        assert refusal(large.result()) == (400, text)
    assert longest < (last - start) / 2


def test_large_bodies_and_answers_are_as_small_ones(port):
    comment = "x" * (2 << 20)
    body = {"signature_name": "divide", "inputs": [2] * 1000, "comment": comment}
    assert answer(port, body)["outputs"]["quotient"] == pytest.approx([0.5] * 1000)
    body = {"signature_name": "no", "instances": [2], "comment": comment}
    status, text = refusal(post(port, PREDICT, body))
    assert (status, 'signature name: "no" not found' in text) == (400, True)
    examples = {"examples": [{"x": 0.25}], "comment": comment}
    found = answer(port, examples, "/v1/models/sizes:classify")
    assert found == {"results": [[["small", 0.75], ["large", 0.25]]]}
    examples = {**examples, "signature_name": "double"}
    assert answer(port, examples, "/v1/models/sizes:regress") == {"results": [0.5]}


def test_a_limit_on_depth(base_path):
    with rest_server(base_path, max_depth=3) as port:
        assert post(port, PREDICT, divide(inputs=[2])).status == 200
        status, text = refusal(post(port, PREDICT, divide(inputs=[[[2]]])))
        assert (status, "deeper than 3 levels" in text) == (400, True)


def test_a_body_that_never_comes(base_path):
    with rest_server(base_path, timeout_in_ms=200) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(
                f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{{".encode()
            )
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(
                f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{{".encode()
            )
        assert ask(port, "GET", SHADES).status == 200


def test_chunks_that_are_none(port):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        connection.sendall(head.encode() + b"zz\r\n")
        assert b" 400 " in connection.recv(100)
    assert ask(port, "GET", SHADES).status == 200


@pytest.mark.parametrize(
    "line",
    [
        b"GET //v1/models/shades",
        b"GET http://a/v1/models/shades",
        b"OPTIONS *",
        b"CONNECT a:1",
        b"GET /v1/models/\xff",
        b"GET /v1/models/%",
        b"POST /v1/models/%00%0a:predict",
        b"FOO /v1/models",
    ],
)
def test_odd_request_lines(port, line, caplog):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(line + b" HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        status = int(connection.recv(100).split()[1])
    assert status in (200, 400, 404)
    assert "failed" not in caplog.text


# --- time, load, options ----------------------------------------------------------------------


def test_requests_that_take_too_long(base_path):
    with rest_server(base_path, timeout_in_ms=200) as port:
        body = {"signature_name": "wait", "inputs": [0.8]}
        assert refusal(post(port, PREDICT, body)) == (504, "Timed out waiting for notification")
    with rest_server(base_path, timeout_in_ms=0) as port:
        assert post(port, PREDICT, {"signature_name": "wait", "inputs": [0.3]}).status == 200


def test_a_full_queue(base_path):
    batching = BatchingOptions(
        num_batch_threads=1, max_enqueued_batches=1, max_execution_batch_size=1
    )
    responses = []
    body = {"signature_name": "wait", "inputs": [0.5]}
    with ModelServer(
        base_path, host="127.0.0.1", port=0, rest_api_port=0, batching=batching
    ) as running:
        port = running.rest_port
        threads = [
            Thread(target=lambda: responses.append(post(port, PREDICT, body))) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
            time.sleep(0.05)
        for thread in threads:
            thread.join()
    refused = [refusal(each) for each in responses if each.status != 200]
    assert len(refused) == 2
    for status, text in refused:
        assert status == 503
        assert text.startswith(
            "The batch scheduling queue to which this task was submitted is full"
        )


def test_a_caller_who_has_gone_is_forgotten(base_path):
    body = json.dumps({"signature_name": "wait", "inputs": [30]}).encode()
    head = f"POST {PREDICT} HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    with rest_server(base_path, metrics_path=METRICS_PATH) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(head.encode() + body)
            time.sleep(0.2)
        time.sleep(0.2)
        text = ask(port, "GET", METRICS_PATH).text
    count = ':tensorflow:serving:request_count{model_name="shades",status="CANCELLED"} 1'
    assert count in text.splitlines()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *((Code.INVALID_ARGUMENT, 400), (Code.FAILED_PRECONDITION, 400), (Code.OUT_OF_RANGE, 400)),
        *((Code.NOT_FOUND, 404), (Code.UNAVAILABLE, 503), (Code.RESOURCE_EXHAUSTED, 429)),
        *((Code.DEADLINE_EXCEEDED, 504), (Code.UNIMPLEMENTED, 501), (Code.CANCELLED, 499)),
        *((Code.ABORTED, 409), (Code.ALREADY_EXISTS, 409), (Code.PERMISSION_DENIED, 403)),
        *((Code.UNAUTHENTICATED, 401), (Code.INTERNAL, 500), (Code.UNKNOWN, 500)),
        (Code.DATA_LOSS, 500),
    ],
)
def test_codes(code, status):
    class Refusing(Core):
        def __init__(self):
            pass

        async def get_model_status(self, request, deadline):
            raise RequestError(code, "x" * 2000)

    with bare_rest(Refusing()) as port:
        assert refusal(ask(port, "GET", SHADES)) == (status, "x" * 2000)  # not cut, as on gRPC


def test_a_fault_of_ours_is_told_and_logged(caplog):
    class Faulty(Core):
        def __init__(self):
            pass

        async def get_model_status(self, request, deadline):
            raise ZeroDivisionError("oops")

    with bare_rest(Faulty()) as port:
        assert refusal(ask(port, "GET", SHADES)) == (500, "ZeroDivisionError: oops")
    assert "GET /v1/models/shades failed" in caplog.text


def test_cross_origin_requests(base_path, port):
    plain = ask(port, "GET", SHADES, Origin="https://a.example")
    assert "Access-Control-Allow-Origin" not in plain.headers
    with rest_server(base_path, enable_cors=True) as open_port:
        preflight = ask(open_port, "OPTIONS", PREDICT, Origin="https://a.example")
        assert preflight.status == 200
        for response in (preflight, ask(open_port, "GET", SHADES), ask(open_port, "GET", "/v1/")):
            assert response.headers["Access-Control-Allow-Origin"] == "*"
            assert response.headers["Access-Control-Allow-Methods"] == "POST, GET"
            assert response.headers["Access-Control-Allow-Headers"] == "Content-Type"
        for headers in ({}, {"Origin": "null"}):
            assert refusal(ask(open_port, "OPTIONS", PREDICT, **headers)) == (
                400,
                "Origin header is missing in CORS preflight",
            )


def count(text, line):
    """The number behind a line's name and labels; 0 where there is no such line."""
    found = [each for each in text.splitlines() if each.startswith(line + " ")]
    return float(found[0].split()[-1]) if found else 0


@pytest.mark.parametrize(
    ("path", "body", "api", "model", "signature"),
    [
        (PREDICT, divide(inputs=[1]), "Predict", "shades", "divide"),
        (
            "/v1/models/sizes:classify",
            {"examples": [{"x": 0.5}]},
            "Classify",
            "sizes",
            "serving_default",
        ),
        (
            "/v1/models/sizes:regress",
            {"signature_name": "double", "examples": [{"x": 0.5}]},
            "Regress",
            "sizes",
            "double",
        ),
    ],
)
def test_calls_are_counted_with_what_answered_them(port, path, body, api, model, signature):
    version = {"shades": 3, "sizes": 1}[model]
    latency = (
        f':tensorflow:serving:request_latency_count{{model_name="{model}",API="{api}",'
        'entrypoint="REST"}'
    )
    own = (
        f'keras_cls_requests_total{{model="{model}",version="{version}",signature="{signature}",'
        'status="%s"}'
    )
    before = ask(port, "GET", METRICS_PATH).text
    answer(port, body, path)
    status = post(port, path, {**body, "signature_name": "nope"}).status
    after = ask(port, "GET", METRICS_PATH).text
    assert status == 400
    assert count(after, latency) == count(before, latency) + 1
    assert count(after, own % "OK") == count(before, own % "OK") + 1
    nope = (
        f'keras_cls_requests_total{{model="{model}",version="{version}",signature="",'
        'status="INVALID_ARGUMENT"}'
    )
    assert count(after, nope) == count(before, nope) + 1


def test_the_metrics_page_is_the_core_s(port):
    """With what is looked at only when somebody asks: queues and readiness."""
    response = ask(port, "GET", METRICS_PATH)
    assert response.status == 200
    assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    lines = response.text.splitlines()
    assert "keras_cls_ready 1" in lines
    assert 'keras_cls_queue_depth{model="shades",version="3"} 0' in lines
    assert 'keras_cls_queue_depth{model="sizes",version="1"} 0' in lines


def test_an_unknown_model_is_counted_without_its_name(port):
    before = ask(port, "GET", METRICS_PATH).text
    assert post(port, "/v1/models/nobody:predict", divide(inputs=[1])).status == 404
    after = ask(port, "GET", METRICS_PATH).text
    line = ':tensorflow:serving:request_count{model_name="",status="NOT_FOUND"}'
    assert count(after, line) == count(before, line) + 1
    assert "nobody" not in after


def test_other_pages_come_first():
    async def page(_request):
        return web.Response(text="hello")

    class Empty(Core):
        def __init__(self):
            pass

    with bare_rest(Empty(), [web.get("/", page)]) as port:
        assert ask(port, "GET", "/").text == "hello"
        assert ask(port, "GET", METRICS_PATH).status == 404


def test_settings_that_make_no_sense():
    for wrong in (
        {"max_depth": 65},
        {"max_depth": 0},
        {"max_body_bytes": 0},
        {"timeout_in_ms": 1.5},
        {"metrics_path": "metrics"},
    ):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            RestSettings(**wrong)
