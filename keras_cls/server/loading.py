"""From a model's folder to a session that answers."""

import logging
import os
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2

from keras_cls.contract import LITE_FILE, MODEL_FILE, SERVE_TAG
from keras_cls.contract.messages import Message, SignatureDef, SignatureDefMap
from keras_cls.contract.tensors import BFLOAT16
from keras_cls.errors import ConfigError
from keras_cls.hushing import without_advice
from keras_cls.server.arguments import check_whole
from keras_cls.server.signatures import Signature, read_signature
from keras_cls.server.status import Code, RequestError

_LOG = logging.getLogger(__name__)
# What lies in the folder of a run or of a classifier.
_OF_A_CLASSIFIER = ("classifier", "classifier.json")
_LARGEST_VERSION = (1 << 63) - 1
_MOST_THREADS = 4096  # TensorFlow starts them all at once
# Below this its operations are so short that it costs more to share them out than to do them.
_SMALL_MODEL_BYTES = 2 << 20
# Without it all sessions of a process share the threads that the first one asked for.
_OWN_THREADS = "TF_OVERRIDE_GLOBAL_THREADPOOL"
# What TensorFlow puts around the sentence that says what was wrong.
_ERROR_PREFIX = re.compile(r"\A(Graph execution error:\s*)?(\d+ root error\(s\) found\.\s*)?")
_ERROR_SUFFIX = re.compile(
    r"\n+(Detected at node|Original stack trace|Errors may have originated).*\Z", re.DOTALL
)


@dataclass(frozen=True, order=True, slots=True)
class VersionFolder:
    """A folder that holds one version of a model."""

    number: int
    path: Path


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How SavedModels are loaded.

    Attributes:
        tags: of the graph to load, where a SavedModel holds several.
        intra_op_threads: that an operation may spread over; 0 for as many as there are cores, and
            one in a model of less than 2 MiB.
        inter_op_threads: operations that may run at the same time; 0 likewise.
        bfloat16: let TensorFlow convert the graph to mixed precision.
    """

    tags: tuple[str, ...] = (SERVE_TAG,)
    intra_op_threads: int = 0
    inter_op_threads: int = 0
    bfloat16: bool = False

    def __post_init__(self) -> None:
        check_whole("intra_op_threads", self.intra_op_threads, 0, _MOST_THREADS)
        check_whole("inter_op_threads", self.inter_op_threads, 0, _MOST_THREADS)


class ServableModel(Protocol):
    """One version of a model, loaded: what the rest of the server needs of it.

    Attributes:
        name: what requests call the model.
        version: its number.
        path: its folder.
        signatures: those that can be run.
        signature_defs: the ``SignatureDefMap`` message of all, for those who ask for metadata.
        alone: a run takes no thread but the one that calls.
    """

    name: str
    version: int
    path: Path
    signatures: Mapping[str, Signature]
    signature_defs: Message
    alone: bool

    def run(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Run a signature; blocks, and may be called from several threads at once."""

    def close(self) -> None:
        """Give the memory back."""


def find_versions(base_path: Path, *, lite: bool = False) -> list[VersionFolder]:
    """The versions under a model's folder, oldest first.

    A version is a folder with a number for a name and a ``saved_model.pb`` in it, or with ``lite``
    a ``model.tflite``. Whatever else lies there is passed over: temporary names, and folders that
    are still being copied.

    Raises:
        ConfigError: ``base_path`` is no folder.
    """
    try:
        entries = sorted(base_path.iterdir())
        numbered = [path for path in entries if path.name.isascii() and path.name.isdecimal()]
        versions = [
            path
            for path in numbered
            if (path / MODEL_FILE).is_file() or (lite and has_lite_model(path))
        ]
    except OSError as error:
        where = error.filename or base_path
        raise ConfigError(f"{where}: {(error.strerror or str(error)).lower()}") from error
    found: dict[int, VersionFolder] = {}
    for path in versions:
        number = int(path.name)
        if number > _LARGEST_VERSION:
            continue
        if number in found:
            _LOG.warning("%s and %s are the same version", found[number].path, path)
        found[number] = VersionFolder(number, path)
    return sorted(found.values())


def latest_version(base_path: Path, *, lite: bool = False) -> VersionFolder:
    """The version with the highest number.

    Raises:
        ConfigError: ``base_path`` is no folder, or holds no version.
    """
    versions = find_versions(base_path, lite=lite)
    if versions:
        return versions[-1]
    if (base_path / MODEL_FILE).is_file():
        raise ConfigError(
            f"{base_path}: {MODEL_FILE} lies in the model's folder itself; it belongs in a "
            f"numbered folder, {base_path / '1' / MODEL_FILE}"
        )
    hint = ""
    if not lite and find_versions(base_path, lite=True):
        hint = f"; its versions hold a {LITE_FILE}: add --prefer_tflite_model"
    elif any((base_path / name).exists() for name in _OF_A_CLASSIFIER):
        hint = "; this is what keras-cls train made: publish it first, with keras-cls export"
    raise ConfigError(
        f"{base_path}: no version to serve, that is, no NUMBER/{MODEL_FILE} in it{hint}"
    )


def has_lite_model(version_folder: Path) -> bool:
    """Whether a version holds a LiteRT file."""
    return (version_folder / LITE_FILE).is_file()


class LoadedModel:
    """One version of a model, in a TensorFlow session of its own.

    ``signatures`` are those that can be run; ``signature_defs`` is the ``SignatureDefMap`` message
    of all, for those who ask for metadata. :meth:`run` may be called from several threads at once.
    """

    def __init__(
        self, name: str, folder: VersionFolder, options: LoadOptions = LoadOptions()
    ) -> None:
        """Load the model.

        Raises:
            ConfigError: the folder cannot be loaded; the message names it.
        """
        self.name = name
        self.version = folder.number
        self.path = folder.path
        os.environ.setdefault(_OWN_THREADS, "1")
        self.alone = not options.intra_op_threads and _is_small(folder.path)
        self._session, definitions = _load_session(
            folder.path, replace(options, intra_op_threads=1) if self.alone else options
        )
        self._run_options = config_pb2.RunOptions()
        if self.alone:
            self._run_options.inter_op_thread_pool = -1
        self.signature_defs = SignatureDefMap()
        signatures = {}
        for key, serialized in definitions.items():
            definition = SignatureDef.FromString(serialized)
            self.signature_defs.signature_def[key].CopyFrom(definition)
            signature = read_signature(key, definition)
            if signature is not None:
                signatures[key] = signature
        self.signatures: Mapping[str, Signature] = signatures
        self._callables: dict[tuple[str, tuple[str, ...]], _SessionCallable] = {}
        self._lock = threading.Lock()

    def run(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Run a signature; blocks.

        Args:
            signature: one of ``signatures``.
            inputs: an array for every input, already checked against the signature: a wrong rank
                can take the whole process down inside TensorFlow.
            outputs: the names of the outputs wanted.

        Raises:
            RequestError: TensorFlow refused, with its code and words.
        """
        try:
            return self._callable_for(signature, outputs)(inputs)
        except tf.errors.OpError as error:
            raise RequestError(_code(error.error_code), clean_message(error.message)) from error
        except UnicodeDecodeError as error:
            # TensorFlow quoted bytes of the input in its message; the code is lost with it.
            message = error.object.decode(errors="replace")
            raise RequestError(Code.INVALID_ARGUMENT, clean_message(message)) from error

    def close(self) -> None:
        """Give the session's memory back; runs that are still going are cancelled."""
        self._session.close()

    def _callable_for(self, signature: Signature, outputs: tuple[str, ...]) -> "_SessionCallable":
        key = (signature.name, tuple(sorted(outputs)))
        with self._lock:
            if key not in self._callables:
                self._callables[key] = _SessionCallable(
                    self._session, signature, key[1], self._run_options
                )
            return self._callables[key]


class _SessionCallable:
    """A prepared run: feeds and fetches are resolved once.

    This uses ``Session._make_callable_from_options``, what TensorFlow's own high-level loops run
    on; the public ``make_callable`` goes through ``Session.run`` and its Python checks on every
    call, which takes 0.2 ms longer (0.31 for 0.13), and words its errors differently from
    TensorFlow Serving.
    """

    def __init__(
        self, session: Any, signature: Signature, outputs: tuple[str, ...], run_options: Any
    ) -> None:
        self._inputs = tuple(signature.inputs.items())
        fetches = [signature.outputs[alias].tensor_name for alias in outputs]
        distinct = list(dict.fromkeys(fetches))
        self._outputs = [
            (alias, distinct.index(fetch)) for alias, fetch in zip(outputs, fetches, strict=True)
        ]
        options = config_pb2.CallableOptions(run_options=run_options)
        options.feed.extend(spec.tensor_name for _, spec in self._inputs)
        options.fetch.extend(distinct)
        self._call = session._make_callable_from_options(options)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        feeds = [
            inputs[alias].astype(tf.bfloat16.as_numpy_dtype)
            if spec.data_type == BFLOAT16.number
            else inputs[alias]
            for alias, spec in self._inputs
        ]
        results = self._call(*feeds)
        return {alias: np.asarray(results[place]) for alias, place in self._outputs}


def clean_message(message: str) -> str:
    """TensorFlow's sentence, without the headings before it and the Python stacks after it."""
    return _ERROR_SUFFIX.sub("", _ERROR_PREFIX.sub("", message)).strip()


def _code(number: int) -> Code:
    try:
        return Code(number)
    except ValueError:
        return Code.UNKNOWN


def _load_session(path: Path, options: LoadOptions) -> tuple[Any, dict[str, bytes]]:
    """The session and the serialized ``SignatureDef`` of each signature."""
    graph = tf.Graph()
    session = tf.compat.v1.Session(graph=graph, config=_session_config(options))
    try:
        with graph.as_default(), without_advice():  # to use tf.saved_model.load
            meta_graph = tf.compat.v1.saved_model.loader.load(
                session, list(options.tags), str(path)
            )
    except Exception as error:
        # Whatever the loader stumbles over (it raises a dozen kinds), it is the folder that is
        # wrong.
        session.close()
        reason = clean_message(getattr(error, "message", None) or str(error))
        raise ConfigError(f"{path}: cannot be loaded as a SavedModel: {reason}") from error
    return session, {
        key: definition.SerializeToString() for key, definition in meta_graph.signature_def.items()
    }


def _is_small(path: Path) -> bool:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < (
        _SMALL_MODEL_BYTES
    )


def _session_config(options: LoadOptions) -> Any:
    config = tf.compat.v1.ConfigProto(
        intra_op_parallelism_threads=options.intra_op_threads,
        inter_op_parallelism_threads=options.inter_op_threads,
    )
    if options.bfloat16:
        rewriting = config.graph_options.rewrite_options
        rewriting.auto_mixed_precision_onednn_bfloat16 = rewriter_config_pb2.RewriterConfig.ON
    return config
