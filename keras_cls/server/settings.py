"""What to serve and how, as text files say it: those that TensorFlow Serving's flags name.

All of them are protocol messages in text form::

    model_config_list {
      config { name: "pets" base_path: "/models/pets" model_platform: "tensorflow" }
    }

A mistake is told with the file's line and column, where it has one, and never with a long word of
the file: one of them holds a private key.
"""

import logging
import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from google.protobuf import text_format  # type: ignore[import-untyped]

from keras_cls.contract.messages import (
    POOL,
    BatchingParameters,
    Message,
    ModelServerConfig,
    MonitoringConfig,
    SSLConfig,
)
from keras_cls.errors import ConfigError
from keras_cls.server.arguments import check_whole
from keras_cls.server.batching import BatchingOptions

_LOG = logging.getLogger(__name__)

BATCHING_FILE = "batching_params.pbtxt"
"""In a version's folder: the batching of this version alone, as ``BatchingParameters``."""

MONITORING_PATH = "/monitoring/prometheus/metrics"
"""Where the Prometheus page is unless the file says otherwise."""

PLATFORM = "tensorflow"
"""The only ``model_platform`` that is served."""

_LARGEST_VERSION = (1 << 63) - 1
# TensorFlow Serving's own, where a file gives none.
_DEFAULT_MAX_BATCH_SIZE = 1000
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_UNKNOWN_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([\w.]+)"')
_LONG_WORD = re.compile(r"(\S{32})\S+")
_KEY_HEADER = re.compile(r"-----BEGIN ((?:\w+ )?PRIVATE KEY)-----")
_CERTIFICATE_HEADER = "-----BEGIN CERTIFICATE-----"


@dataclass(frozen=True, slots=True)
class Latest:
    """Serve the versions with the highest numbers."""

    num_versions: int = 1

    def __post_init__(self) -> None:
        check_whole("num_versions", self.num_versions, 1)


@dataclass(frozen=True, slots=True)
class All:
    """Serve every version there is."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Serve the versions with these numbers."""

    versions: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.versions:
            raise ConfigError("the specific version policy needs at least one version's number")
        for version in self.versions:
            check_whole("a version", version, 0, _LARGEST_VERSION)


VersionPolicy: TypeAlias = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class ModelSettings:
    """A model that is to be served.

    Attributes:
        name: what requests call it.
        base_path: the folder that holds a numbered folder for each version.
        policy: which of the versions are served.
        labels: names that requests may use instead of a version's number.
    """

    name: str
    base_path: Path
    policy: VersionPolicy = Latest()
    labels: Mapping[str, int] = field(default_factory=dict)


def read_model_config(path: Path) -> list[ModelSettings]:
    """The models that a ``ModelServerConfig`` file lists (--model_config_file).

    Raises:
        ConfigError: the file cannot be read, or what it says makes no sense.
    """
    config = _read_message(path, ModelServerConfig)
    with _named(path):
        return model_settings(config)


def model_settings(config: Message) -> list[ModelSettings]:
    """The models that a ``ModelServerConfig`` message lists.

    Raises:
        ConfigError: it lists none, one twice, or one that cannot be served as it is described.
    """
    kind = config.WhichOneof("config")
    if kind != "model_config_list":
        found = "custom_model_config is not supported" if kind else "no model_config_list"
        raise ConfigError(f"{found}: list the models in model_config_list {{ config {{ ... }} }}")
    found_settings: dict[str, ModelSettings] = {}
    for place, model in enumerate(config.model_config_list.config, start=1):
        if not model.name:
            raise ConfigError(f"config {place} of model_config_list has no name")
        if model.name in found_settings:
            raise ConfigError(f"Illegal to list model {model.name} multiple times in config list")
        with _named(f"model {model.name}"):
            found_settings[model.name] = _one_model(model)
    return list(found_settings.values())


def read_batching_parameters(path: Path) -> BatchingOptions:
    """The batching that a ``BatchingParameters`` file describes (--batching_parameters_file).

    What it leaves out is as in TensorFlow Serving: requests of 1000 rows at most, which are not
    split unless ``enable_large_batch_splitting`` is true. Only ``num_batch_threads`` is ours then
    (see :class:`BatchingOptions`); ``thread_pool_name`` is not followed.

    Raises:
        ConfigError: the file cannot be read, or its numbers do not fit each other.
    """
    parameters = _read_message(path, BatchingParameters)
    with _named(path):
        return _batching_options(parameters)


def read_version_batching(version_folder: Path) -> BatchingOptions | None:
    """The batching that a model's version brings along in ``batching_params.pbtxt``.

    Returns:
        None where there is no such file.

    Raises:
        ConfigError: as :func:`read_batching_parameters`.
    """
    path = Path(version_folder) / BATCHING_FILE
    return read_batching_parameters(path) if path.exists() else None


def read_monitoring_config(path: Path) -> str | None:
    """Where a ``MonitoringConfig`` file wants the Prometheus page (--monitoring_config_file).

    Returns:
        The page's path, such as ``/monitoring/prometheus/metrics``; None where it is not enabled.

    Raises:
        ConfigError: the file cannot be read, or the path is none.
    """
    prometheus = _read_message(path, MonitoringConfig).prometheus_config
    page = prometheus.path or MONITORING_PATH
    if not re.fullmatch(r"/[^\s?#]*", page):
        raise ConfigError(
            f"{path}: prometheus_config.path must begin with / and hold no blank, ? or #, "
            f"not {page!r}"
        )
    return page if prometheus.enable else None


def read_ssl_config(path: Path) -> grpc.ServerCredentials:
    """The key and certificates of an ``SSLConfig`` file (--ssl_config_file), for gRPC.

    Its fields hold PEM text, not the names of files. Unlike the original, ``client_verify`` is
    refused without ``custom_ca``: whoever has a certificate of any public authority would come in.

    Raises:
        ConfigError: the file cannot be read, or a field is missing, is no PEM text, or does not
            fit another. The message names the field.
    """
    config = _read_message(path, SSLConfig)
    with _named(path):
        _check_key(config.server_key)
        _check_certificates("server_cert", config.server_cert)
        _check_pair(config.server_key, config.server_cert)
        if config.custom_ca:
            _check_certificates("custom_ca", config.custom_ca)
        elif config.client_verify:
            raise ConfigError(
                "client_verify needs custom_ca, the PEM text of the authority that signed the "
                "clients' certificates"
            )
    return grpc.ssl_server_credentials(
        [(config.server_key.encode(), config.server_cert.encode())],
        root_certificates=config.custom_ca.encode() or None,
        require_client_auth=config.client_verify,
    )


@contextmanager
def _named(place: object) -> Iterator[None]:
    """Say whose mistake it is: ``place`` is put before the message of a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _read_message(path: Path, message_type: Any) -> Message:
    """The message that a file holds in text form."""
    text = _read_text(path)
    message = message_type()
    try:
        text_format.Parse(text, message, descriptor_pool=POOL)
    except text_format.ParseError as error:
        # Without the cause: it may quote a private key.
        raise ConfigError(f"{path}{_explained(error, text)}") from None
    except RecursionError:
        raise ConfigError(f"{path}: messages are nested too deep") from None
    return message


def _read_text(path: Path) -> str:
    try:
        return Path(path).read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: not a text file: the byte at {error.start} is no UTF-8"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error


def _explained(error: Any, text: str) -> str:
    """``:line:column: what is wrong``, with what would be right for an unknown field."""
    line, column = error.GetLine(), error.GetColumn()
    said = str(error)
    place = ""
    if line is not None:
        place = f":{line}:{column}"
        said = said.removeprefix(f"{line}:{column} : ")
        lines = text.split("\n")
        quoted = lines[line - 1] if line <= len(lines) else ""
        said = said.removeprefix(f"'{quoted}': ").removeprefix("'': ")
    unknown = _UNKNOWN_FIELD.search(said)
    if unknown:
        type_name, word = unknown.groups()
        known = ", ".join(f.name for f in POOL.FindMessageTypeByName(type_name).fields)
        said = f'unknown field "{word}" in {type_name.rpartition(".")[2]}, which has {known}'
    else:
        said = _LONG_WORD.sub(r"\1...", said)
    return f"{place}: {said}"


def _one_model(model: Message) -> ModelSettings:
    _check_platform(model)
    if model.HasField("logging_config"):
        _LOG.warning(
            "model %s: logging_config is not followed: requests are not logged", model.name
        )
    labels = dict(sorted(model.version_labels.items()))
    for label, version in labels.items():
        if not label:
            raise ConfigError("version_labels has a label that is empty")
        with _named(f"version_labels {label!r}"):
            check_whole("its version", version, 0, _LARGEST_VERSION)
    return ModelSettings(
        model.name, _base_path(model.base_path), _policy(model.model_version_policy), labels
    )


def _check_platform(model: Message) -> None:
    """``model_type`` is what files had before ``model_platform``."""
    old_type = model.DESCRIPTOR.fields_by_name["model_type"].enum_type
    if model.model_type:
        if model.model_platform:
            raise ConfigError("Illegal setting both model_type (deprecated) and model_platform")
        if model.model_type != old_type.values_by_name["TENSORFLOW"].number:
            raise ConfigError(f"model_type must be TENSORFLOW, not number {model.model_type}")
    elif not model.model_platform:
        raise ConfigError(f'model_platform is missing: write model_platform: "{PLATFORM}"')
    elif model.model_platform != PLATFORM:
        raise ConfigError(f'model_platform must be "{PLATFORM}", not "{model.model_platform}"')


def refuse_address(name: str, text: str) -> None:
    """Refuse the address of a store where a folder is wanted (ConfigError)."""
    if _URI.match(text):
        raise ConfigError(f"{name} must be a folder of this machine, not the address {text}")


def _base_path(text: str) -> Path:
    if not text:
        raise ConfigError("base_path is missing: the folder that holds a folder for each version")
    refuse_address("base_path", text)
    if "\0" in text:
        raise ConfigError(f"base_path cannot be a folder's name: {text!r}")
    if not Path(text).is_absolute():
        raise ConfigError(f"base_path must be an absolute path, not {text}")
    return Path(text)


def _policy(policy: Message) -> VersionPolicy:
    choice = policy.WhichOneof("policy_choice")
    if choice == "all":
        return All()
    if choice == "specific":
        return Specific(tuple(dict.fromkeys(policy.specific.versions)))
    return Latest(policy.latest.num_versions or 1)


def _batching_options(parameters: Message) -> BatchingOptions:
    given = {
        name: getattr(parameters, name).value
        for name in ("batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
        if parameters.HasField(name)
    }
    given.setdefault("batch_timeout_micros", 0)
    sizes = _batch_sizes(parameters)
    return BatchingOptions(
        **given,
        **sizes,
        allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
        pad_variable_length_inputs=parameters.pad_variable_length_inputs,
        enable_large_batch_splitting=parameters.enable_large_batch_splitting.value,
    )


def _batch_sizes(parameters: Message) -> dict[str, int]:
    largest = _DEFAULT_MAX_BATCH_SIZE
    if parameters.HasField("max_batch_size"):
        largest = parameters.max_batch_size.value
    at_once = largest
    if parameters.HasField("max_execution_batch_size"):
        if parameters.enable_large_batch_splitting.value:
            at_once = parameters.max_execution_batch_size.value
        else:
            _LOG.warning("max_execution_batch_size does nothing without splitting large batches")
    if at_once > largest:
        raise ConfigError(
            f"max_execution_batch_size {at_once} must not exceed max_batch_size {largest}"
        )
    return {"max_batch_size": largest, "max_execution_batch_size": at_once}


def _check_key(pem: str) -> None:
    if not pem.strip():
        raise ConfigError("server_key is missing: the private key's PEM text")
    header = _KEY_HEADER.search(pem)
    if header is None:
        raise ConfigError(
            "server_key is no PEM text of a private key, -----BEGIN PRIVATE KEY----- and so on; "
            "the name of a file will not do"
        )
    if header[1] == "ENCRYPTED PRIVATE KEY" or "Proc-Type: 4,ENCRYPTED" in pem:
        raise ConfigError("server_key is encrypted: give it without a passphrase")


def _check_certificates(field_name: str, pem: str) -> None:
    if not pem.strip():
        raise ConfigError(f"{field_name} is missing: the certificate's PEM text")
    if _CERTIFICATE_HEADER not in pem:
        raise ConfigError(
            f"{field_name} is no PEM text of a certificate, {_CERTIFICATE_HEADER} and so on; "
            "the name of a file will not do"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError):  # ValueError: not ASCII
        raise ConfigError(f"{field_name} is a damaged certificate") from None


def _check_pair(key: str, certificate: str) -> None:
    """Whether key and certificate belong together, where files that are none can be had.

    Python's ssl module reads both from files only, and a private key is not to lie on a disk.
    Elsewhere than on Linux, gRPC refuses them when the port is opened.
    """
    if not hasattr(os, "memfd_create"):
        return
    with _memory_file(key) as key_file, _memory_file(certificate) as certificate_file:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(certificate_file, key_file, password="")
        except ssl.SSLError as error:
            reason = (
                "does not belong to server_cert"
                if error.reason == "KEY_VALUES_MISMATCH"
                else "is a damaged private key"
            )
            raise ConfigError(f"server_key {reason}") from None


@contextmanager
def _memory_file(text: str) -> Iterator[str]:
    """The name of a file in memory."""
    number = os.memfd_create("pem")
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
