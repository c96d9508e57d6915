"""The text files of TensorFlow Serving's flags: what they say, and how their mistakes are told."""

import logging
import subprocess
from pathlib import Path

import grpc
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving_models import request_for, stubs_for
from tensorflow_serving.apis import prediction_service_pb2_grpc
from tensorflow_serving.config import model_server_config_pb2

from keras_cls.contract.messages import BatchingParameters, ModelServerConfig
from keras_cls.errors import ConfigError
from keras_cls.server import BatchingOptions, ModelServer
from keras_cls.server.settings import (
    All,
    Latest,
    ModelSettings,
    Specific,
    model_settings,
    read_batching_parameters,
    read_model_config,
    read_monitoring_config,
    read_ssl_config,
    read_version_batching,
)


def written(tmp_path, text):
    path = tmp_path / "settings.pbtxt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def mistake(read, path):
    with pytest.raises(ConfigError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    return message.removeprefix(str(path))


PETS = 'name: "pets" base_path: "/models/pets" model_platform: "tensorflow"'


def config_of(*models):
    listed = "\n".join(f"  config {{ {model} }}" for model in models)
    return f"model_config_list {{\n{listed}\n}}\n"


# Models.


def test_models_are_read(tmp_path):
    text = """
    # Everything that a file may say.
    model_config_list: {
      config: {
        name: 'pets', base_path: "/models/pets"; model_platform: "tensorflow"
        model_version_policy: { specific { versions: 4 versions: [2, 4] } }
        version_labels { key: "stable" value: 2 }
        version_labels { key: "canary" value: 4 }
      }
      config {
        name: "dogs"  base_path: "/models/"
                                 "dogs"
        model_type: TENSORFLOW
        model_version_policy { latest { num_versions: 3 } }
        logging_config { sampling_config { sampling_rate: 0.1 } }
      }
      config { name: "a" base_path: "/a" model_platform: "tensorflow"
               model_version_policy { all {} } }
      config { name: "b" base_path: "/b" model_platform: "tensorflow"
               model_version_policy { latest { num_versions: 0 } } }
      config { name: "c" base_path: "/c" model_platform: "tensorflow" model_version_policy {} }
    }
    """
    assert read_model_config(written(tmp_path, text)) == [
        ModelSettings("pets", Path("/models/pets"), Specific((4, 2)), {"stable": 2, "canary": 4}),
        ModelSettings("dogs", Path("/models/dogs"), Latest(3)),
        ModelSettings("a", Path("/a"), All()),
        ModelSettings("b", Path("/b"), Latest(1)),
        ModelSettings("c", Path("/c"), Latest(1)),
    ]


def test_an_empty_list_is_no_mistake(tmp_path):
    assert read_model_config(written(tmp_path, "model_config_list {}")) == []


def test_requests_are_not_logged_and_that_is_told(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        read_model_config(written(tmp_path, config_of(f"{PETS} logging_config {{}}")))
    assert "model pets: logging_config is not followed" in caplog.text


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ('base_path: "/a"', "config 2 of model_config_list has no name"),
        (PETS, "Illegal to list model pets multiple times in config list"),
        ('name: "a" model_platform: "tensorflow"', "model a: base_path is missing"),
        (
            'name: "a" model_platform: "tensorflow" base_path: "models/a"',
            "model a: base_path must be an absolute path, not models/a",
        ),
        (
            'name: "a" model_platform: "tensorflow" base_path: "s3://bucket/a"',
            "model a: base_path must be a folder of this machine, not the address s3://bucket/a",
        ),
        (
            'name: "a" model_platform: "tensorflow" base_path: "/a\\0b"',
            "model a: base_path cannot be a folder's name",
        ),
        ('name: "a" base_path: "/a"', "model a: model_platform is missing: write model_pl"),
        (
            'name: "a" base_path: "/a" model_platform: "tflite"',
            'model a: model_platform must be "tensorflow", not "tflite"',
        ),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" model_type: TENSORFLOW',
            "model a: Illegal setting both model_type (deprecated) and model_platform",
        ),
        ('name: "a" base_path: "/a" model_type: OTHER', "model a: model_type must be TENSORFLOW"),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" '
            "model_version_policy { specific {} }",
            "model a: the specific version policy needs at least one version's number",
        ),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" '
            "model_version_policy { specific { versions: -1 } }",
            "model a: a version must be a whole number of 0 to 9223372036854775807, not -1",
        ),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" '
            'version_labels { key: "stable" value: -2 }',
            "model a: version_labels 'stable': its version must be a whole number of 0 to",
        ),
        (
            'name: "a" base_path: "/a" model_platform: "tensorflow" version_labels { value: 2 }',
            "model a: version_labels has a label that is empty",
        ),
    ],
)
def test_models_that_make_no_sense(tmp_path, model, words):
    text = config_of(PETS, model)
    assert mistake(read_model_config, written(tmp_path, text)).startswith(f": {words}")
    # A reload brings the same as a message.
    with pytest.raises(ConfigError) as caught:
        model_settings(text_format.Parse(text, ModelServerConfig()))
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ": no model_config_list: list the models in model_config_list { config { ... } }"),
        (
            "custom_model_config { [type.googleapis.com/tensorflow.serving.ModelSpec] {} }",
            ": custom_model_config is not supported: list the models",
        ),
        (
            "custom_model_config { [type.googleapis.com/no.Such] {} }",
            ": Type no.Such not found in descriptor pool",
        ),
        (
            'model_config_list {\n  config {\n    name: "pets"\n    basepath: "/a"\n  }\n}',
            ':4:5: unknown field "basepath" in ModelConfig, which has name, base_path, ',
        ),
        (
            "model_config_list {\n  config {\n    name: pets\n  }\n}",
            ":3:11: Expected string but found: 'pets'",
        ),
        ('model_config_list {\n  config { name: "p', ":2:18: String missing ending quote: '\"p'"),
        ("model_config_list {\n", ':1:19: Expected "}".'),
        (
            "model_config_list { config { model_version_policy { latest {} all {} } } }",
            ':1:63: Field "all" is specified along with field "latest"',
        ),
        (
            "model_config_list { config { version_labels { value: 9999999999999999999 } } }",
            ":1:54: Value out of range: 9999999999999999999",
        ),
        ('{"model_config_list": {}}', ":1:1: Expected identifier or number, got {"),
        (b"model_config_list {}\xff", ": not a text file: the byte at 20 is no UTF-8"),
        (
            "custom_model_config { [a.b/tensorflow.serving.ModelServerConfig] {" * 900,
            ": messages are nested too deep",
        ),
    ],
)
def test_mistakes_are_told_with_their_place(tmp_path, text, words):
    assert mistake(read_model_config, written(tmp_path, text)).startswith(words)


def test_files_that_cannot_be_read(tmp_path):
    for read in (
        *(read_model_config, read_batching_parameters, read_monitoring_config, read_ssl_config),
    ):
        assert mistake(read, tmp_path / "nowhere") == ": no such file or directory"
        assert mistake(read, tmp_path) == ": is a directory"


def test_a_byte_order_mark_does_no_harm(tmp_path):
    path = written(tmp_path, b"\xef\xbb\xbf" + config_of(PETS).encode())
    assert [model.name for model in read_model_config(path)] == ["pets"]


names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
versions = st.integers(0, 2**63 - 1)
policies = st.one_of(
    st.integers(1, 2**32 - 1).map(Latest),
    st.just(All()),
    st.lists(versions, min_size=1, max_size=4, unique=True).map(lambda v: Specific(tuple(v))),
)
folders = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
model_lists = st.lists(
    st.builds(
        ModelSettings,
        names,
        folders.map(lambda name: Path("/models") / name),
        policies,
        st.dictionaries(names, versions, max_size=3),
    ),
    unique_by=lambda model: model.name,
    max_size=4,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(model_lists, st.booleans())
def test_what_tensorflow_serving_s_own_messages_write_is_read(tmp_path, models, as_utf8):
    config = model_server_config_pb2.ModelServerConfig()
    config.model_config_list.SetInParent()
    for model in models:
        entry = config.model_config_list.config.add(
            name=model.name, base_path=str(model.base_path), model_platform="tensorflow"
        )
        entry.version_labels.update(model.labels)
        policy = entry.model_version_policy
        if isinstance(model.policy, Latest):
            policy.latest.num_versions = model.policy.num_versions
        elif isinstance(model.policy, Specific):
            policy.specific.versions.extend(model.policy.versions)
        else:
            policy.all.SetInParent()
    text = text_format.MessageToString(config, as_utf8=as_utf8)
    assert read_model_config(written(tmp_path, text)) == models


READERS = (*(read_model_config, read_batching_parameters, read_monitoring_config, read_ssl_config),)
words = st.sampled_from(
    [
        *("model_config_list", "config", "name", "base_path", "model_version_policy", "specific"),
        *("versions", "latest", "custom_model_config", "version_labels", "key", "value"),
        *("max_batch_size", "allowed_batch_sizes", "prometheus_config", "enable", "path"),
        *("server_key", "server_cert", "client_verify", "[type.googleapis.com/a.B]", "true"),
        *("{", "}", "[", "]", "<", ">", ":", ",", ";", "\n", '"', "'", "-", "\\", "#", "\0"),
        *(
            '"text"',
            '"/path"',
            '"tensorflow"',
            "0",
            "7",
            "-1",
            "1e9",
            "0x10",
            "99999999999999999999",
        ),
    ]
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.one_of(
        st.binary(max_size=60),
        st.lists(words, max_size=25).map(lambda found: " ".join(found).encode()),
    ),
    st.sampled_from(READERS),
)
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path, content, read):
    path = written(tmp_path, content)
    try:
        read(path)
    except ConfigError as error:
        assert str(error).startswith(str(path))
        assert len(str(error)) < len(str(path)) + 600


# Batching.


def test_what_a_batching_file_leaves_out_is_as_in_the_original(tmp_path):
    options = read_batching_parameters(written(tmp_path, "# nothing\n"))
    assert options == BatchingOptions(
        max_batch_size=1000,
        max_execution_batch_size=1000,
        batch_timeout_micros=0,
        max_enqueued_batches=10,
        enable_large_batch_splitting=False,
    )


def test_batching_parameters_are_read(tmp_path):
    text = """
    max_batch_size { value: 64 }
    batch_timeout_micros { value: 500 }
    max_enqueued_batches { value: 7 }
    num_batch_threads { value: 3 }
    thread_pool_name { value: "ours" }
    allowed_batch_sizes: 2
    allowed_batch_sizes: [8, 16]
    pad_variable_length_inputs: true
    enable_large_batch_splitting { value: true }
    max_execution_batch_size { value: 16 }
    """
    options = BatchingOptions(
        max_batch_size=64,
        max_execution_batch_size=16,
        batch_timeout_micros=500,
        max_enqueued_batches=7,
        num_batch_threads=3,
        allowed_batch_sizes=(2, 8, 16),
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
    )
    assert read_batching_parameters(written(tmp_path, text)) == options
    assert read_version_batching(tmp_path) is None
    (tmp_path / "batching_params.pbtxt").write_text(text)
    assert read_version_batching(tmp_path) == options


def test_without_splitting_the_execution_size_does_nothing(tmp_path, caplog):
    text = "max_batch_size { value: 8 } max_execution_batch_size { value: 4 }"
    with caplog.at_level(logging.WARNING):
        options = read_batching_parameters(written(tmp_path, text))
    assert (options.max_batch_size, options.max_execution_batch_size) == (8, 8)
    assert "max_execution_batch_size does nothing without splitting" in caplog.text


SPLIT = "enable_large_batch_splitting { value: true }"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "max_batch_size { value: 8 } allowed_batch_sizes: [2, 4]",
            ": Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 8",
        ),
        (
            "allowed_batch_sizes: 4",
            ": Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; "
            "expected 1000",
        ),
        (
            f"{SPLIT} max_execution_batch_size {{ value: 8 }} allowed_batch_sizes: 4",
            ": Last entry in allowed_batch_sizes must match max_execution_batch_size; "
            "last entry was 4; expected 8",
        ),
        (
            "max_batch_size { value: 4 } allowed_batch_sizes: [8, 4]",
            ": allowed_batch_sizes must be ascending, not [8, 4]",
        ),
        (
            f"{SPLIT} max_batch_size {{ value: 4 }} max_execution_batch_size {{ value: 8 }}",
            ": max_execution_batch_size 8 must not exceed max_batch_size 4",
        ),
        ("num_batch_threads {}", ": num_batch_threads must be a whole number of at least 1, not 0"),
        (
            "batch_timeout_micros { value: -1 }",
            ": batch_timeout_micros must be a whole number of at least 0, not -1",
        ),
        ("max_batch_size { value: 0 }", ": max_batch_size must be a whole number of at least 1"),
        ("max_batch_size: 8", ':1:17: Expected "{".'),
        (
            "max_batchsize { value: 8 }",
            ':1:1: unknown field "max_batchsize" in BatchingParameters, which has max_batch_size, ',
        ),
    ],
)
def test_batching_that_makes_no_sense(tmp_path, text, message):
    assert mistake(read_batching_parameters, written(tmp_path, text)).startswith(message)
    (tmp_path / "batching_params.pbtxt").write_text(text)
    with pytest.raises(ConfigError, match=r"batching_params\.pbtxt:"):
        read_version_batching(tmp_path)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.sets(st.integers(1, 1 << 40), max_size=5).map(sorted),
    st.booleans(),
    st.integers(1, 1 << 40),
    st.booleans(),
)
def test_batching_parameters_come_back(tmp_path, sizes, splits, at_once, pads):
    parameters = BatchingParameters(allowed_batch_sizes=sizes, pad_variable_length_inputs=pads)
    at_once = sizes[-1] if sizes else at_once
    parameters.max_batch_size.value = at_once + 5 if splits else at_once
    if splits:
        parameters.enable_large_batch_splitting.value = True
        parameters.max_execution_batch_size.value = at_once
    path = written(tmp_path, text_format.MessageToString(parameters))
    options = read_batching_parameters(path)
    assert options.allowed_batch_sizes == tuple(sizes)
    assert options.max_execution_batch_size == at_once
    assert options.enable_large_batch_splitting is splits
    assert options.pad_variable_length_inputs is pads


# Monitoring.


@pytest.mark.parametrize(
    ("text", "page"),
    [
        ("", None),
        ("prometheus_config { enable: false path: '/metrics' }", None),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config: { enable: true, path: '/metrics' }", "/metrics"),
    ],
)
def test_monitoring(tmp_path, text, page):
    assert read_monitoring_config(written(tmp_path, text)) == page


@pytest.mark.parametrize("page", ["metrics", "/met rics", "/metrics?x=1", "/#", "http://host/a"])
def test_pages_that_cannot_be(tmp_path, page):
    path = written(tmp_path, f"prometheus_config {{ enable: true path: '{page}' }}")
    assert mistake(read_monitoring_config, path).startswith(
        ": prometheus_config.path must begin with / and hold no blank"
    )


# TLS.


def openssl(*arguments):
    try:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("no openssl to make a certificate with")


@pytest.fixture(scope="module")
def pems(tmp_path_factory):
    """Names to PEM texts: an authority, a server's and a client's pair that it signed."""
    folder = tmp_path_factory.mktemp("pems")
    authority = (folder / "ca.key", folder / "ca.pem")
    openssl(
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 1, "-subj", "/CN=authority"),
        *("-keyout", authority[0], "-out", authority[1]),
    )
    for name in ("server", "client"):
        openssl(
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", 1, "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
            *("-CA", authority[1], "-CAkey", authority[0]),
            *("-keyout", folder / f"{name}.key", "-out", folder / f"{name}.pem"),
        )
    openssl(
        *("pkey", "-in", folder / "server.key", "-aes256", "-passout", "pass:secret"),
        *("-out", folder / "encrypted.key"),
    )
    openssl(
        *("pkey", "-in", folder / "server.key", "-traditional", "-out", folder / "old.key"),
    )
    return {path.name: path.read_text() for path in folder.iterdir()}


def ssl_config(**values):
    """The text of an SSLConfig: strings as C would quote them, the rest as it is."""
    lines = []
    for name, value in values.items():
        if isinstance(value, str):
            value = '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        lines.append(f"{name}: {value}")
    return "\n".join(lines)


def ask(server, **credentials):
    channel = grpc.secure_channel(server.address, grpc.ssl_channel_credentials(**credentials))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    try:
        return stub.Predict(request_for("divide", x=[4.0]), timeout=10).outputs["quotient"]
    finally:
        channel.close()


@pytest.mark.parametrize("key", ["server.key", "old.key"])
def test_a_server_s_certificate(tmp_path, pems, base_path, key):
    text = ssl_config(server_key=pems[key], server_cert=pems["server.pem"])
    credentials = read_ssl_config(written(tmp_path, text))
    with ModelServer(base_path, host="127.0.0.1", port=0, credentials=credentials) as server:
        answer = ask(server, root_certificates=pems["ca.pem"].encode())
        assert answer.float_val[:] == [0.25]
        plain = stubs_for(server.address)
        with pytest.raises(grpc.RpcError):
            plain.prediction.Predict(request_for("divide", x=[4.0]), timeout=5)
        plain.channel.close()


def test_clients_certificates(tmp_path, pems, base_path):
    text = ssl_config(
        server_key=pems["server.key"],
        server_cert=pems["server.pem"] + pems["ca.pem"],
        custom_ca=pems["ca.pem"],
        client_verify="true",
    ).replace('"true"', "true")
    credentials = read_ssl_config(written(tmp_path, text))
    roots = pems["ca.pem"].encode()
    with ModelServer(base_path, host="127.0.0.1", port=0, credentials=credentials) as server:
        answer = ask(
            server,
            root_certificates=roots,
            private_key=pems["client.key"].encode(),
            certificate_chain=pems["client.pem"].encode(),
        )
        assert answer.float_val[:] == [0.25]
        with pytest.raises(grpc.RpcError):
            ask(server, root_certificates=roots)


def spoilt(pem):
    """The same without some of its middle."""
    return pem[: len(pem) // 2 - 40] + pem[len(pem) // 2 :]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"server_key": ""}, "server_key is missing: the private key's PEM text"),
        ({"server_cert": " \n"}, "server_cert is missing: the certificate's PEM text"),
        ({"server_key": "/tls/key.pem"}, "server_key is no PEM text of a private key"),
        ({"server_key": "server.pem"}, "server_key is no PEM text of a private key"),
        ({"server_cert": "/tls/cert.pem"}, "server_cert is no PEM text of a certificate"),
        ({"server_cert": "server.key"}, "server_cert is no PEM text of a certificate"),
        ({"custom_ca": "/tls/ca.pem"}, "custom_ca is no PEM text of a certificate"),
        ({"server_key": "encrypted.key"}, "server_key is encrypted: give it without a passphr"),
        ({"server_key": "client.key"}, "server_key does not belong to server_cert"),
        ({"server_key": "!server.key"}, "server_key is a damaged private key"),
        ({"server_cert": "!server.pem"}, "server_cert is a damaged certificate"),
        ({"custom_ca": "!ca.pem"}, "custom_ca is a damaged certificate"),
        ({"client_verify": True}, "client_verify needs custom_ca, the PEM text of the authority"),
    ],
    ids=str,
)
def test_certificates_that_will_not_do(tmp_path, pems, change, words):
    values = {"server_key": "server.key", "server_cert": "server.pem", **change}
    texts = {}
    for name, value in values.items():
        if value is True:
            texts[name] = "true"
        elif value.startswith("!"):
            texts[name] = spoilt(pems[value[1:]])
        else:
            texts[name] = pems.get(value, value)
    text = ssl_config(**texts).replace('client_verify: "true"', "client_verify: true")
    message = mistake(read_ssl_config, written(tmp_path, text))
    assert message.startswith(f": {words}")


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("server_key", "serverkey"),
        lambda text: text.replace("server_key: ", "server_key: x"),
        lambda text: text.replace('"', "'", 1),
        lambda text: text.replace("\\n", "\n"),
        lambda text: text.replace('server_key: "', "server_key: "),
        lambda text: text.replace('server_key: "', "[server.key] { "),
        lambda text: text.replace("server_key: ", "client_verify: "),
        lambda text: text.replace("\\n", "\\xff"),
    ],
)
def test_a_mistake_does_not_tell_the_key(tmp_path, pems, damage):
    key = pems["server.key"]
    text = damage(ssl_config(server_key=key, server_cert=pems["server.pem"]))
    message = mistake(read_ssl_config, written(tmp_path, text))
    body = "".join(line for line in key.splitlines() if "-" not in line)
    assert not any(body[i : i + 30] in message for i in range(len(body) - 30))
    assert len(message) < 300
