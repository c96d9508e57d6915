"""The command line: the original's flags, what they come to, and mistakes told in one line."""

import argparse
import logging
import re

import pytest
from serve_command import run_serve, serve_command
from serving_models import request_for, stubs_for
from tiny_models import models_text

from keras_cls.cli import main
from keras_cls.server import BatchingOptions, lifecycle
from keras_cls.server.flags import FLAGS, add_flags, serve_flags

# All of tensorflow_model_server's, with their defaults where both have the same meaning.
ORIGINAL = {
    "port": 8500,
    "grpc_socket_path": "",
    "rest_api_port": 0,
    "rest_api_num_threads": None,
    "rest_api_timeout_in_ms": 30_000,
    "rest_api_enable_cors_support": False,
    "enable_batching": False,
    "allow_version_labels_for_unavailable_models": False,
    "batching_parameters_file": "",
    "model_config_file": "",
    "model_config_file_poll_wait_seconds": 0,
    "model_name": None,
    "model_base_path": "",
    "num_load_threads": 0,
    "num_unload_threads": 0,
    "max_num_load_retries": 5,
    "load_retry_interval_micros": 60_000_000,
    "file_system_poll_wait_seconds": 1,
    "flush_filesystem_caches": True,
    "tensorflow_session_parallelism": 0,
    "tensorflow_session_config_file": "",
    "tensorflow_intra_op_parallelism": 0,
    "tensorflow_inter_op_parallelism": 0,
    "use_alts_credentials": False,
    "ssl_config_file": "",
    "platform_config_file": "",
    "per_process_gpu_memory_fraction": 0.0,
    "saved_model_tags": "serve",
    "grpc_channel_arguments": "",
    "grpc_max_threads": None,
    "enable_model_warmup": True,
    "num_request_iterations_for_warmup": 1,
    "version": False,
    "monitoring_config_file": "",
    "remove_unused_fields_from_bundle_metagraph": True,
    "prefer_tflite_model": False,
    "num_tflite_pools": None,
    "num_tflite_interpreters_per_pool": None,
    "enable_signature_method_name_check": False,
    "xla_cpu_compilation_enabled": False,
    "enable_profiler": True,
    "thread_pool_factory_config_file": "",
    "enable_per_model_batching_parameters": False,
    "skip_initialize_tpu": False,
    "enable_grpc_healthcheck_service": None,
    "mixed_precision": "",
    "enable_serialization_as_tensor_content": False,
}


def parsed(*flags):
    parser = argparse.ArgumentParser(prog="serve")
    add_flags(parser)
    return parser.parse_args(flags)


@pytest.fixture
def served(monkeypatch):
    """A function from flags to the arguments with which a server would be started."""
    calls = []
    monkeypatch.setattr(lifecycle, "serve", lambda *args, **kwargs: calls.append((args, kwargs)))

    def call(*flags):
        serve_flags(parsed(*flags))
        ((base_path,), named) = calls.pop()
        return argparse.Namespace(base_path=base_path, **named)

    return call


def test_the_original_s_flags_are_known_with_their_defaults():
    ours = {flag.name: flag.default for flag in FLAGS}
    for name, default in ORIGINAL.items():
        assert name in ours, name
        assert default is None or (ours[name], type(ours[name])) == (default, type(default))
    assert len(ours) == len(FLAGS)
    described = {flag.name for flag in FLAGS if flag.help and "(ours)" in flag.help}
    assert set(ours) - set(ORIGINAL) <= described | {
        # The original's too, in some of its versions.
        *("servable_versions_always_present", "enforce_session_run_timeout"),
        *("xla_gpu_compilation_enabled", "force_allow_any_version_labels_for_unavailable_models"),
    }


@pytest.mark.parametrize(
    ("flags", "value"),
    [
        ((), False),
        (("--enable_batching",), True),
        (("--enable_batching=true",), True),
        (("--enable_batching=True",), True),
        (("--enable_batching=1",), True),
        (("--enable_batching", "true"), True),
        (("--enable_batching=false",), False),
        (("--enable_batching=0",), False),
        (("--enable_batching", "--port=1"), True),
        (("--enable_batching=true", "--enable_batching=false"), False),
    ],
)
def test_booleans(flags, value):
    assert parsed(*flags).enable_batching is value


def test_defaults(served):
    started = served("--model_base_path=models/pets")
    assert (started.base_path, started.model_name) == ("models/pets", None)
    assert (started.host, started.port, started.rest_api_port) == ("0.0.0.0", 8500, None)
    assert started.credentials is None
    assert started.grace == 10
    assert started.options == lifecycle.ServerOptions()


def test_ports(served):
    started = served("--model_base_path=m", "--model_name=n", "--port=1", "--rest_api_port=2")
    assert (started.model_name, started.port, started.rest_api_port) == ("n", 1, 2)
    assert served("--model_base_path=m", "--rest_api_port=-1").rest_api_port == 0


def test_flags_become_options(served, tmp_path):
    batching = tmp_path / "batching.txt"
    batching.write_text("max_batch_size { value: 8 } num_batch_threads { value: 3 }")
    monitoring = tmp_path / "monitoring.txt"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    started = served(
        *("--model_base_path=m", "--rest_api_port=-1", "--file_system_poll_wait_seconds=-1"),
        *("--servable_versions_always_present=false", "--num_load_threads=2"),
        *("--max_num_load_retries=0", "--load_retry_interval_micros=1500000"),
        *("--allow_version_labels_for_unavailable_models", "--enable_batching"),
        "--force_allow_any_version_labels_for_unavailable_models",
        *(f"--batching_parameters_file={batching}", "--enable_per_model_batching_parameters"),
        *("--enable_model_warmup=false", "--rest_api_timeout_in_ms=0"),
        *("--rest_api_enable_cors_support", "--rest_api_max_body_bytes=9"),
        *("--grpc_max_message_bytes=7", "--max_image_pixels=5", f"--grpc_socket_path={tmp_path}/s"),
        *("--grpc_channel_arguments=grpc.max_connection_age_ms=5000,a=b=c,",),
        *(f"--monitoring_config_file={monitoring}", "--prefer_tflite_model"),
        *("--saved_model_tags=serve,gpu", "--tensorflow_session_parallelism=4"),
        *("--tensorflow_inter_op_parallelism=1", "--mixed_precision=bfloat16"),
        *("--enable_signature_method_name_check", "--enable_serialization_as_tensor_content"),
        *("--grace=2.5", "--host=::1"),
    )
    assert (started.host, started.grace, started.max_message_bytes) == ("::1", 2.5, 7)
    options, manager, rest = started.options, started.options.manager, started.options.rest
    assert (options.tensor_content, options.check_method) == (True, True)
    assert options.socket_path == f"{tmp_path}/s"
    assert options.channel_arguments == (("grpc.max_connection_age_ms", 5000), ("a", "b=c"))
    assert (rest.seconds, rest.enable_cors, rest.max_body_bytes) == (None, True, 9)
    assert rest.metrics_path == "/metrics"
    assert (manager.poll_seconds, manager.keep_last_version, manager.load_threads) == (-1, False, 2)
    assert (manager.max_load_retries, manager.load_retry_seconds) == (0, 1.5)
    assert (manager.allow_labels_for_unavailable, manager.prefer_lite) == (True, True)
    assert manager.allow_any_labels
    assert (manager.per_model_batching, manager.warmup_iterations) == (True, 0)
    assert manager.max_image_pixels == 5
    assert (manager.batching.max_batch_size, manager.batching.num_batch_threads) == (8, 3)
    assert manager.load.tags == ("serve", "gpu")
    assert (manager.load.intra_op_threads, manager.load.inter_op_threads) == (4, 1)
    assert manager.load.bfloat16


def test_batching_without_a_file_is_our_own(served):
    started = served("--model_base_path=m", "--enable_batching")
    assert started.options.manager.batching == BatchingOptions()


def test_warm_up_is_repeated(served):
    started = served("--model_base_path=m", "--num_request_iterations_for_warmup=3")
    assert started.options.manager.warmup_iterations == 3


def test_a_config_file_goes_before_one_model(served, caplog):
    flags = ("--model_config_file=c", "--model_config_file_poll_wait_seconds=7")
    with caplog.at_level(logging.WARNING):
        started = served(*flags, "--model_base_path=m", "--model_name=n")
    assert (started.base_path, started.model_name) == (None, None)
    assert str(started.options.model_config_file) == "c"
    assert started.options.config_poll_seconds == 7
    assert "--model_config_file goes before --model_base_path and --model_name" in caplog.text
    caplog.clear()
    served(*flags)
    assert not caplog.text


def test_what_does_nothing_here_is_told(served, caplog):
    with caplog.at_level(logging.WARNING):
        served(
            *("--model_base_path=m", "--grpc_max_threads=8", "--enable_profiler=false"),
            *("--per_process_gpu_memory_fraction=0.5", "--num_unload_threads=0", "--port=1"),
        )
    told = re.findall(r"--(\w+) is taken and does nothing in this server", caplog.text)
    assert sorted(told) == [
        "enable_profiler",
        "grpc_max_threads",
        "per_process_gpu_memory_fraction",
    ]


def test_monitoring_needs_a_rest_port(served, caplog, tmp_path):
    file = tmp_path / "monitoring.txt"
    file.write_text("prometheus_config { enable: true }")
    with caplog.at_level(logging.WARNING):
        served("--model_base_path=m", f"--monitoring_config_file={file}")
    assert "--monitoring_config_file has no effect without --rest_api_port" in caplog.text


def refused(capfd, *flags):
    """The exit code and the last line of a command line that must be refused."""
    capfd.readouterr()
    try:
        code = main(["serve", *flags])
    except SystemExit as end:
        code = end.code
    out, err = capfd.readouterr()
    assert not out
    assert "Traceback" not in err
    return code, err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--prot=8500", "unrecognized arguments: --prot=8500"),
        ("--model_base=m", "unrecognized arguments: --model_base=m"),
        ("extra", "unrecognized arguments: extra"),
        ("--port", "expected one argument"),
        ("--port=http", "--port: must be a whole number, not 'http'"),
        ("--port=8500.0", "--port: must be a whole number, not '8500.0'"),
        ("--port=", "--port: must be a whole number, not ''"),
        ("--load_retry_interval_micros=" + "9" * 400, "must be a whole number of 64 bits at most"),
        (
            "--file_system_poll_wait_seconds=" + "9" * 5000,
            "must be a whole number of 64 bits at most",
        ),
        ("--enable_batching=maybe", "--enable_batching: must be true or false, not 'maybe'"),
        ("--enable_batching=", "--enable_batching: must be true or false, not ''"),
        ("--grace=soon", "--grace: invalid float value: 'soon'"),
    ],
    ids=lambda value: value[:40],
)
def test_flags_that_cannot_be_read(capfd, flag, words):
    code, line = refused(capfd, "--model_base_path=m", flag)
    assert code == 2
    assert words in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "give --model_base_path, or --model_config_file for several models"),
        (("--model_name=n",), "give --model_base_path"),
        (
            ("--model_base_path=gs://bucket/m",),
            "--model_base_path must be a folder of this machine, not the address gs://bucket/m",
        ),
        (("--port=70000",), "port must be a whole number of 0 to 65535, not 70000"),
        (("--rest_api_port=-2",), "rest_api_port must be a whole number of 0 to 65535, not -2"),
        (("--port=8765", "--rest_api_port=8765"), "gRPC and REST need a port each, not both 8765"),
        (("--host=",), "host must be a name or an address"),
        (("--batching_parameters_file=b",), "--batching_parameters_file needs --enable_batching"),
        (
            ("--enable_batching", "--batching_parameters_file={}/b"),
            "{}/b: no such file or directory",
        ),
        (("--model_config_file={}/c",), "{}/c: no such file or directory"),
        (("--ssl_config_file={}/s",), "{}/s: no such file or directory"),
        (("--monitoring_config_file={}/m",), "{}/m: no such file or directory"),
        (("--mixed_precision=float16",), "--mixed_precision can be bfloat16, not 'float16'"),
        (("--use_alts_credentials",), "there is no ALTS here; use --ssl_config_file"),
        (("--grpc_channel_arguments=a=1,b",), "expected name=value, found 'b'"),
        (("--grpc_channel_arguments==1",), "expected name=value, found '=1'"),
        (("--grace=-1",), "grace must be a number of seconds, not -1.0"),
        (("--grace=nan",), "grace must be a number of seconds, not nan"),
        (("--grpc_max_message_bytes=0",), "max_message_bytes must be a whole number of 1 to"),
        (("--rest_api_max_body_bytes=0",), "max_body_bytes must be a whole number of at least 1"),
        (("--max_image_pixels=0",), "max_image_pixels must be a whole number of at least 1"),
        (("--num_load_threads=-1",), "load_threads must be a whole number of at least 1, not -1"),
        (("--max_num_load_retries=-1",), "max_load_retries must be a whole number of at least 0"),
        (("--tensorflow_session_parallelism=-1",), "intra_op_threads must be a whole number"),
        (("--tensorflow_inter_op_parallelism=9999",), "inter_op_threads must be a whole number"),
        (("--port=0", "--model_base_path={}"), "no version to serve"),
        (("--port=0", "--model_base_path={}/none"), "{}/none: no such file or directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_flags_that_make_no_sense(capfd, tmp_path, flags, words):
    flags = [flag.replace("{}", str(tmp_path)) for flag in flags]
    if flags and not flags[0].startswith(("--model", "--port=0")):
        flags = ["--model_base_path=m", *flags]
    code, line = refused(capfd, *flags)
    assert code == 1
    assert line.startswith("keras-cls: ")
    assert words.replace("{}", str(tmp_path)) in line


def test_tags_that_no_graph_has(capfd, base_path):
    flags = ("--port=0", "--host=127.0.0.1", "--saved_model_tags=gpu")
    code, line = refused(capfd, f"--model_base_path={base_path}", *flags)
    assert code == 1
    assert "cannot be loaded as a SavedModel" in line
    assert "gpu" in line


def test_the_versions_are_told(capfd):
    assert main(["serve", "--version"]) == 0
    assert re.fullmatch(r"keras-cls [\w.+]+\nTensorFlow [\w.+-]+\n", capfd.readouterr().out)


# The command itself.


def test_the_command_refuses_in_one_line(tmp_path):
    done = run_serve(f"--model_base_path={tmp_path}", "--port=0")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(f"keras-cls: {tmp_path}: no version to serve")


def test_the_command_serves_what_its_files_say(base_path, tmp_path):
    """And says what goes before what, and what does nothing."""
    file = tmp_path / "models.txt"
    file.write_text(models_text(one=base_path, two=base_path))
    flags = (f"--model_config_file={file}", "--model_base_path=/nowhere", "--grpc_max_threads=8")
    with serve_command(*flags, "--enable_serialization_as_tensor_content") as server:
        stubs = stubs_for(server.address)
        for model in ("one", "two"):
            answer = stubs.prediction.Predict(request_for("divide", model, x=[4.0]), timeout=20)
            assert answer.outputs["quotient"].tensor_content
        stubs.channel.close()
        server.process.terminate()
        assert server.process.wait(20) == 0
    said = "".join(server.errors)
    assert "--model_config_file goes before --model_base_path" in said
    assert "--grpc_max_threads is taken and does nothing" in said
    assert "Traceback" not in said
