"""TensorFlow Serving's command line: the same arguments start either server.

Every flag of ``tensorflow_model_server`` is known here. Those that mean nothing to this server are
taken and told about; a flag that neither knows is refused.
"""

import argparse
import logging
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_cls.contract import SERVE_TAG
from keras_cls.errors import ConfigError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag: its name, its default (whose type is the flag's), and what it is for.

    ``help`` is None where it is taken and does nothing here.
    """

    name: str
    default: bool | int | float | str
    help: str | None = None


FLAGS = (
    Flag("port", 8500, "for gRPC; 0 takes a free one"),
    Flag("rest_api_port", 0, "for REST, metrics and the page; 0 for none, -1 takes a free one"),
    Flag("grpc_socket_path", "", "a Unix socket to listen on for gRPC as well"),
    Flag("model_name", "", "what clients call the model; else the folder's name"),
    Flag("model_base_path", "", "the folder of the versions"),
    Flag("model_config_file", "", "a text file that lists several models, in place of those two"),
    Flag("model_config_file_poll_wait_seconds", 0, "between two looks at it; 0 to read it once"),
    Flag("file_system_poll_wait_seconds", 1, "between two looks for versions; 0 once, -1 never"),
    Flag(
        "servable_versions_always_present",
        True,
        "a model whose folder is emptied keeps its versions (the original unloads them)",
    ),
    Flag("num_load_threads", 0, "versions that are loaded at the same time; 0 for four"),
    Flag("max_num_load_retries", 5, "how often a version that cannot be loaded is tried again"),
    Flag("load_retry_interval_micros", 60_000_000, "between two tries"),
    Flag(
        "allow_version_labels_for_unavailable_models",
        False,
        "a new label may name a version that is not loaded yet",
    ),
    Flag(
        "force_allow_any_version_labels_for_unavailable_models",
        False,
        "a label that is in use may move to one, too",
    ),
    Flag("enable_batching", False, "read batching_parameters_file; requests are always gathered"),
    Flag("batching_parameters_file", "", "a text file with BatchingParameters"),
    Flag(
        "enable_per_model_batching_parameters",
        False,
        "a version's batching_params.pbtxt goes before that file",
    ),
    Flag("enable_model_warmup", True, "replay the requests that a version brings along"),
    Flag("num_request_iterations_for_warmup", 1, "how often each of them is run"),
    Flag("rest_api_timeout_in_ms", 30_000, "for a REST request"),
    Flag("rest_api_enable_cors_support", False, "let pages of other origins ask"),
    Flag("rest_api_max_body_bytes", 64 << 20, "the largest REST body, inflated (ours)"),
    Flag("grpc_max_message_bytes", (1 << 31) - 1, "the largest gRPC request (ours)"),
    Flag("max_image_pixels", 100_000_000, "of an encoded image, all its frames together (ours)"),
    Flag("grpc_channel_arguments", "", "of gRPC's server, name=value, separated by commas"),
    Flag("ssl_config_file", "", "a text file with key and certificates for gRPC"),
    Flag("monitoring_config_file", "", "a text file that switches the Prometheus page on"),
    Flag("prefer_tflite_model", False, "take model.tflite where a version has one"),
    Flag("saved_model_tags", SERVE_TAG, "of the graph to load, separated by commas"),
    Flag("tensorflow_session_parallelism", 0, "threads of an operation and operations; 0: cores"),
    Flag("tensorflow_intra_op_parallelism", 0, "threads of an operation; 0: cores, 1 below 2 MiB"),
    Flag("tensorflow_inter_op_parallelism", 0, "operations at a time; 0: cores"),
    Flag("mixed_precision", "", "bfloat16 lets TensorFlow convert the graph"),
    Flag("enable_signature_method_name_check", False, "Classify wants a signature for it"),
    Flag("enable_serialization_as_tensor_content", False, "answer with tensor_content"),
    Flag("enable_grpc_healthcheck_service", True, "the health service is always there"),
    Flag("version", False, "tell the versions, and end"),
    Flag("host", "0.0.0.0", "the address to listen on (ours)"),
    Flag("grace", 10.0, "seconds for requests in flight at the end (ours)"),
    # Taken, and without effect here.
    Flag("rest_api_num_threads", 0),
    Flag("num_unload_threads", 0),
    Flag("flush_filesystem_caches", True),
    Flag("use_alts_credentials", False),
    Flag("platform_config_file", ""),
    Flag("per_process_gpu_memory_fraction", 0.0),
    Flag("grpc_max_threads", 0),
    Flag("remove_unused_fields_from_bundle_metagraph", True),
    Flag("num_tflite_pools", 0),
    Flag("num_tflite_interpreters_per_pool", 0),
    Flag("xla_cpu_compilation_enabled", False),
    Flag("xla_gpu_compilation_enabled", False),
    Flag("tensorflow_session_config_file", ""),
    Flag("enable_profiler", True),
    Flag("thread_pool_factory_config_file", ""),
    Flag("skip_initialize_tpu", False),
    Flag("enforce_session_run_timeout", True),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give a parser all flags. A bare boolean flag means true, as does ``--flag=true``."""
    parser.allow_abbrev = False  # a flag of a later version could not be told from an earlier one
    for flag in FLAGS:
        kind: Any = _KINDS.get(type(flag.default), type(flag.default))
        bare: dict[str, Any] = {"nargs": "?", "const": True} if kind is _boolean else {}
        parser.add_argument(
            f"--{flag.name}",
            type=kind,
            default=flag.default,
            metavar=kind.__name__.strip("_").upper(),
            help=flag.help or argparse.SUPPRESS,
            **bare,
        )


def serve_flags(options: argparse.Namespace) -> None:
    """Serve as the flags say, until a signal comes.

    Raises:
        ConfigError: flags that do not fit each other, a file that cannot be read, and as
            :func:`keras_cls.server.serve`.
    """
    if options.version:
        _tell_versions()
        return
    from keras_cls.server.lifecycle import serve
    from keras_cls.server.settings import refuse_address

    for flag in FLAGS:
        if flag.help is None and getattr(options, flag.name) != flag.default:
            _LOG.warning("--%s is taken and does nothing in this server", flag.name)
    base_path, model_name = options.model_base_path or None, options.model_name or None
    if options.model_config_file:
        if base_path or model_name:
            _LOG.warning("--model_config_file goes before --model_base_path and --model_name")
        base_path = model_name = None
    elif not base_path:
        raise ConfigError("give --model_base_path, or --model_config_file for several models")
    else:
        refuse_address("--model_base_path", base_path)
    rest_port = {0: None, -1: 0}.get(options.rest_api_port, options.rest_api_port)
    if options.monitoring_config_file and rest_port is None:
        _LOG.warning("--monitoring_config_file has no effect without --rest_api_port")
    serve(
        base_path,
        model_name=model_name,
        host=options.host,
        port=options.port,
        rest_api_port=rest_port,
        max_message_bytes=options.grpc_max_message_bytes,
        credentials=_credentials(options),
        options=_server_options(options),
        grace=options.grace,
    )


def _tell_versions() -> None:
    import tensorflow as tf

    from keras_cls.version import __version__

    sys.stdout.write(f"keras-cls {__version__}\nTensorFlow {tf.__version__}\n")


def _server_options(options: argparse.Namespace) -> Any:
    from keras_cls.server.lifecycle import ServerOptions
    from keras_cls.server.rest import RestSettings
    from keras_cls.server.settings import read_monitoring_config

    metrics_path = None
    if options.monitoring_config_file:
        metrics_path = read_monitoring_config(Path(options.monitoring_config_file))
    return ServerOptions(
        manager=_manager_options(options),
        rest=RestSettings(
            timeout_in_ms=options.rest_api_timeout_in_ms,
            enable_cors=options.rest_api_enable_cors_support,
            metrics_path=metrics_path,
            max_body_bytes=options.rest_api_max_body_bytes,
        ),
        model_config_file=Path(options.model_config_file) if options.model_config_file else None,
        config_poll_seconds=options.model_config_file_poll_wait_seconds,
        tensor_content=options.enable_serialization_as_tensor_content,
        check_method=options.enable_signature_method_name_check,
        socket_path=options.grpc_socket_path or None,
        channel_arguments=_channel_arguments(options.grpc_channel_arguments),
    )


def _manager_options(options: argparse.Namespace) -> Any:
    from keras_cls.server.batching import BatchingOptions
    from keras_cls.server.loading import LoadOptions
    from keras_cls.server.manager import ManagerOptions
    from keras_cls.server.settings import read_batching_parameters

    if options.batching_parameters_file and not options.enable_batching:
        raise ConfigError("--batching_parameters_file needs --enable_batching")
    batching = BatchingOptions()
    if options.batching_parameters_file:
        batching = read_batching_parameters(Path(options.batching_parameters_file))
    if options.mixed_precision not in ("", "bfloat16"):
        raise ConfigError(f"--mixed_precision can be bfloat16, not {options.mixed_precision!r}")
    both = options.tensorflow_session_parallelism
    warmups = max(options.num_request_iterations_for_warmup, 1)
    return ManagerOptions(
        poll_seconds=options.file_system_poll_wait_seconds,
        max_load_retries=options.max_num_load_retries,
        load_retry_seconds=max(options.load_retry_interval_micros, 0) / 1e6,
        load_threads=options.num_load_threads or 4,
        keep_last_version=options.servable_versions_always_present,
        allow_labels_for_unavailable=options.allow_version_labels_for_unavailable_models,
        allow_any_labels=options.force_allow_any_version_labels_for_unavailable_models,
        prefer_lite=options.prefer_tflite_model,
        per_model_batching=options.enable_per_model_batching_parameters,
        warmup_iterations=warmups if options.enable_model_warmup else 0,
        max_image_pixels=options.max_image_pixels,
        batching=batching,
        load=LoadOptions(
            tags=tuple(options.saved_model_tags.split(",")),
            intra_op_threads=options.tensorflow_intra_op_parallelism or both,
            inter_op_threads=options.tensorflow_inter_op_parallelism or both,
            bfloat16=options.mixed_precision == "bfloat16",
        ),
    )


def _credentials(options: argparse.Namespace) -> Any:
    from keras_cls.server.settings import read_ssl_config

    if options.use_alts_credentials:
        raise ConfigError("--use_alts_credentials: there is no ALTS here; use --ssl_config_file")
    return read_ssl_config(Path(options.ssl_config_file)) if options.ssl_config_file else None


def _channel_arguments(text: str) -> tuple[tuple[str, int | str], ...]:
    found: list[tuple[str, int | str]] = []
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if not name or not equals:
            raise ConfigError(f"--grpc_channel_arguments: expected name=value, found {part!r}")
        found.append((name, _number(value)))
    return tuple(found)


def _number(text: str) -> int | str:
    """A number where gRPC could take it as one, as in the original; else the text."""
    number = int(text) if re.fullmatch(r"-?[0-9]{1,10}", text) else None
    return text if number is None or not -(1 << 31) <= number < 1 << 31 else number


def _boolean(text: str) -> bool:
    known = {"true": True, "1": True, "false": False, "0": False}
    if text.lower() not in known:
        raise argparse.ArgumentTypeError(f"must be true or false, not {text!r}")
    return known[text.lower()]


def _integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise argparse.ArgumentTypeError(f"must be a whole number, not {text!r}")
    # As many digits as 64 bits need; more would be too many even for a float.
    if len(text) > 20 or not -(1 << 63) <= int(text) < 1 << 63:
        raise argparse.ArgumentTypeError("must be a whole number of 64 bits at most")
    return int(text)


_KINDS = {bool: _boolean, int: _integer}
