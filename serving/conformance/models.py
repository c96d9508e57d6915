"""Write the models and files that the conformance cases ask about.

    python -m serving.conformance.models FOLDER

writes them into a new folder and prints the commands that serve it, with the same arguments, by
TensorFlow Serving in a container and by the server of keras_cls.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

IMAGE = "tensorflow/serving:2.20.0"
"""Where the original comes from; serving/Dockerfile pins the same."""

GRPC_PORT, REST_PORT = 8500, 8501

MODEL_CONFIG = "models.config"
BATCHING = "batching.config"
MONITORING = "monitoring.config"
TEMPLATES = "templates"
"""Versions that the cases copy to where they want them; nothing is served from there."""

# The numbers that the cases of batching count on.
MAX_BATCH_SIZE = 8
MAX_ENQUEUED_BATCHES = 2
BATCH_THREADS = 2
ALLOWED_BATCH_SIZES = (4, 8)

DATA_TYPES = (
    *("float32", "float64", "float16", "bool", "string"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
"""Each has a signature of its name, which answers with its input."""

LABELS = ("small", "medium", "large")

_MODEL_CONFIG = """model_config_list {{
  config {{
    name: "numbers"
    base_path: "{folder}/numbers"
    model_platform: "tensorflow"
  }}
  config {{
    name: "latest_two"
    base_path: "{folder}/latest_two"
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 2 }} }}
  }}
  config {{
    name: "every"
    base_path: "{folder}/every"
    model_platform: "tensorflow"
    model_version_policy {{ all {{}} }}
  }}
  config {{
    name: "chosen"
    base_path: "{folder}/chosen"
    model_platform: "tensorflow"
    model_version_policy {{ specific {{ versions: 1 versions: 3 }} }}
    version_labels {{ key: "stable" value: 1 }}
    version_labels {{ key: "canary" value: 3 }}
  }}
  config {{
    name: "padded"
    base_path: "{folder}/padded"
    model_platform: "tensorflow"
  }}
}}
"""
_BATCHING = f"""max_batch_size {{ value: {MAX_BATCH_SIZE} }}
batch_timeout_micros {{ value: 0 }}
max_enqueued_batches {{ value: {MAX_ENQUEUED_BATCHES} }}
num_batch_threads {{ value: {BATCH_THREADS} }}
{"".join(f"allowed_batch_sizes: {size} " for size in ALLOWED_BATCH_SIZES).strip()}
"""
_PADDED_BATCHING = f"""max_batch_size {{ value: {MAX_BATCH_SIZE} }}
num_batch_threads {{ value: 1 }}
pad_variable_length_inputs: true
"""
_WRONG_BATCHING = """max_batch_size { value: 8 }
allowed_batch_sizes: 2 allowed_batch_sizes: 4
"""
_MONITORING = """prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }
"""


def write_models(folder: Path) -> None:
    """Write models, templates and configuration.

    Raises:
        FileExistsError: the folder is there and holds something.
    """
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    folder.mkdir(parents=True, exist_ok=True)
    templates = folder / TEMPLATES
    for number in (1, 2, 3):
        _save(templates / str(number), lambda number=number: {"serving_default": _line(number)})
    _save(folder / "numbers/1", _all_signatures)
    for model, numbers in {
        "latest_two": ("1", "2", "3"),
        "every": ("1", "002"),
        "chosen": ("1", "2", "3"),
    }.items():
        for number in numbers:
            shutil.copytree(templates / str(int(number)), folder / model / number)
    _save(folder / "padded/1", lambda: {"serving_default": _sum_of_row(), "wait": _wait()})
    (folder / "padded/1/batching_params.pbtxt").write_text(_PADDED_BATCHING)
    _write_odd_templates(templates)
    (folder / MODEL_CONFIG).write_text(_MODEL_CONFIG.format(folder=folder.resolve()))
    (folder / BATCHING).write_text(_BATCHING)
    (folder / MONITORING).write_text(_MONITORING)


def server_arguments(folder: Path, grpc_port: int, rest_port: int) -> list[str]:
    """The arguments with which either server is to be started."""
    return [
        f"--port={grpc_port}",
        f"--rest_api_port={rest_port}",
        f"--model_config_file={folder / MODEL_CONFIG}",
        f"--monitoring_config_file={folder / MONITORING}",
        "--enable_batching=true",
        f"--batching_parameters_file={folder / BATCHING}",
        "--enable_per_model_batching_parameters=true",
        "--enable_grpc_healthcheck_service=true",
        # Labels are looked at before versions are loaded, also at the start.
        "--allow_version_labels_for_unavailable_models=true",
        "--file_system_poll_wait_seconds=1",
        # Otherwise a request to serve a broken model is answered after five minutes.
        "--max_num_load_retries=0",
        "--rest_api_enable_cors_support=true",
    ]


def commands(folder: Path) -> tuple[list[str], list[str], list[str]]:
    """What serves the folder: the original in a container, the embedded server; and the suite."""
    folder = folder.resolve()
    arguments = server_arguments(folder, GRPC_PORT, REST_PORT)
    ports = [f"--publish={port}:{port}" for port in (GRPC_PORT, REST_PORT)]
    docker = ["docker", "run", "--rm", *ports, f"--volume={folder}:{folder}:ro"]
    suite = [
        *("python", "-m", "serving.conformance", f"--base-path={folder}"),
        *(f"--grpc=localhost:{GRPC_PORT}", f"--rest=localhost:{REST_PORT}"),
    ]
    return (
        [*docker, "--entrypoint=tensorflow_model_server", IMAGE, *arguments],
        ["keras-cls", "serve", *arguments],
        suite,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.conformance.models", description="Write the models of the cases."
    )
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args(arguments).folder
    try:
        write_models(folder)
    except FileExistsError as error:
        print(f"{error}: name a new folder", file=sys.stderr)
        return 1
    original, embedded, suite = map(shlex.join, commands(folder))
    print(f"TensorFlow Serving:\n  {original}\n  {suite} --server=original\n")
    print(f"The server of keras_cls:\n  {embedded}\n  {suite} --server=embedded")
    return 0


def _save(folder: Path, signatures: Callable[[], Mapping[str, Any]]) -> None:
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(
            session, ["serve"], signature_def_map=dict(signatures())
        )
        builder.save()


def _signature(
    inputs: Mapping[str, Any], outputs: Mapping[str, Any], method: str = "predict"
) -> Any:
    import tensorflow as tf

    info = tf.compat.v1.saved_model.build_tensor_info
    return tf.compat.v1.saved_model.build_signature_def(
        inputs={alias: info(tensor) for alias, tensor in inputs.items()},
        outputs={alias: info(tensor) for alias, tensor in outputs.items()},
        method_name=f"tensorflow/serving/{method}",
    )


def _input(data_type: str, *shape: int | None) -> Any:
    import tensorflow as tf

    return tf.compat.v1.placeholder(data_type, [None, *shape])


def _all_signatures() -> dict[str, Any]:
    import tensorflow as tf

    found = {"serving_default": _line(1), "sum_of_row": _sum_of_row(), "wait": _wait()}
    for data_type in DATA_TYPES:
        x = _input(data_type)
        found[data_type] = _signature({"x": x}, {"y": tf.identity(x)})
    x = _input("string")
    found["bytes"] = _signature({"x": x}, {"y_bytes": tf.identity(x)})
    x = _input("float32")
    found["two_outputs"] = _signature({"x": x}, {"double": 2 * x, "square": x * x})
    x = _input("float32")
    found["to_scalar"] = _signature({"x": x}, {"y": tf.reduce_sum(x)})
    x = _input("float32", 2, 3)
    x_checked = tf.ensure_shape(x, [None, 2, 3])
    found["matrix"] = _signature({"x": x}, {"y": tf.reduce_sum(x_checked, axis=[1, 2])})
    x = _input("float32")
    quotient = tf.debugging.check_numerics(1 / x, "division by zero")
    found["divide"] = _signature({"x": x}, {"quotient": quotient})
    a, b = _input("float32"), _input("float32")
    found["add"] = _signature({"a": a, "b": b}, {"total": a + b})
    a, b = _input("float32"), tf.compat.v1.placeholder("float32", [None])
    found["with_default"] = _signature({"a": a, "b": b}, {"total": a + b})
    found["with_default"].defaults["b"].CopyFrom(tf.make_tensor_proto([100.0]))
    return found | _example_signatures()


def _example_signatures() -> dict[str, Any]:
    """For Classify and Regress: the examples' feature ``x`` is a number."""
    import tensorflow as tf

    inputs = tf.compat.v1.placeholder("string", [None])
    feature = tf.io.FixedLenFeature([1], tf.float32)
    x = tf.io.parse_example(inputs, {"x": feature})["x"]  # [N, 1]
    rows = tf.shape(x)[0]
    classes = tf.tile(tf.constant([LABELS]), [rows, 1])
    scores = tf.concat([x, x + 1, x + 2], axis=1)

    def classify(**outputs: Any) -> Any:
        return _signature({"inputs": inputs}, outputs, "classify")

    def regress(**outputs: Any) -> Any:
        return _signature({"inputs": inputs}, outputs, "regress")

    return {
        "classify": classify(classes=classes, scores=scores),
        "classes_only": classify(classes=classes),
        "scores_only": classify(scores=scores),
        "other_names": classify(labels=classes),
        "flat_scores": classify(scores=x[:, 0]),
        "regress": regress(outputs=10 * x),
        "regress_flat": regress(outputs=10 * x[:, 0]),
        "regress_wide": regress(outputs=scores),
    }


def _line(number: int) -> Any:
    """x / 2 + number."""
    x = _input("float32")
    return _signature({"x": x}, {"y": x / 2 + number})


def _sum_of_row() -> Any:
    """Rows of any length. ``rows`` is how many went through the graph together."""
    import tensorflow as tf

    x = _input("float32", None)
    y = tf.reduce_sum(x, axis=1)
    return _signature({"x": x}, {"y": y, "rows": tf.fill(tf.shape(y), tf.size(y))})


def _wait() -> Any:
    """Take as many seconds as the largest of ``seconds``."""
    import tensorflow as tf

    seconds = _input("float64")
    end = tf.timestamp() + tf.reduce_max(seconds)
    turns = tf.while_loop(lambda _: tf.timestamp() < end, lambda turn: [turn + 1], [0])
    turns = turns[0] if isinstance(turns, list) else turns
    with tf.control_dependencies([turns]):
        return _signature({"seconds": seconds}, {"waited": tf.identity(seconds)})


def _write_odd_templates(templates: Path) -> None:
    broken = templates / "broken"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"this is no SavedModel")
    for name, x in {"warm": 4.0, "cold": 0.0}.items():
        _save(templates / name, lambda: {"divide": _divide_alone(), "serving_default": _line(1)})
        _write_warmup(templates / name, x)
    shutil.copytree(templates / "1", templates / "wrong_batching")
    (templates / "wrong_batching/batching_params.pbtxt").write_text(_WRONG_BATCHING)


def _divide_alone() -> Any:
    import tensorflow as tf

    x = _input("float32")
    return _signature({"x": x}, {"y": tf.debugging.check_numerics(1 / x, "division by zero")})


def _write_warmup(version: Path, x: float) -> None:
    """One request; with x = 0 it fails."""
    import tensorflow as tf
    from tensorflow_serving.apis import prediction_log_pb2

    log = prediction_log_pb2.PredictionLog()
    request = log.predict_log.request
    request.model_spec.signature_name = "divide"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto([x]))
    folder = version / "assets.extra"
    folder.mkdir()
    with tf.io.TFRecordWriter(str(folder / "tf_serving_warmup_requests")) as writer:
        writer.write(log.SerializeToString())


if __name__ == "__main__":
    sys.exit(main())
