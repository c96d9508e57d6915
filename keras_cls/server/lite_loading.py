"""A version that is a LiteRT file, answered by LiteRT's interpreter.

The file's signatures are told as a SavedModel's are. An interpreter holds the values of one run:
there is one for each thread that asks, made when it first does.
"""

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from keras_cls.contract import LITE_FILE, METHOD_PREDICT
from keras_cls.contract.messages import SignatureDef, SignatureDefMap
from keras_cls.contract.tensors import data_type_number
from keras_cls.errors import ConfigError
from keras_cls.hushing import without_advice
from keras_cls.server.loading import VersionFolder, clean_message
from keras_cls.server.signatures import Signature, read_signature
from keras_cls.server.status import Code, RequestError


class LiteModel:
    """One version of a model, in LiteRT; see :class:`~keras_cls.server.loading.ServableModel`."""

    def __init__(self, name: str, folder: VersionFolder) -> None:
        """Load the file.

        Raises:
            ConfigError: it cannot be loaded, or has no signature; the message names it.
        """
        self.name = name
        self.version = folder.number
        self.path = folder.path
        self.alone = False
        file = folder.path / LITE_FILE
        try:
            self._content: bytes | None = file.read_bytes()
            interpreter = self._interpreter()
            found = interpreter.get_signature_list()
            self.signature_defs = SignatureDefMap()
            for key in found:
                definition = _definition(interpreter.get_signature_runner(key))
                self.signature_defs.signature_def[key].CopyFrom(definition)
        except (OSError, ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ConfigError(f"{file}: cannot be loaded as a LiteRT file: {reason}") from error
        if not found:
            raise ConfigError(f"{file}: it has no signature, so requests cannot name its tensors")
        signatures = {}
        for key, definition in self.signature_defs.signature_def.items():
            signature = read_signature(key, definition)
            if signature is not None:
                signatures[key] = signature
        self.signatures: Mapping[str, Signature] = signatures
        self._of_thread = threading.local()

    def run(
        self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """Run a signature; blocks.

        Args:
            signature: one of ``signatures``.
            inputs: an array for every input, checked against the signature.
            outputs: the names of the outputs wanted.

        Raises:
            RequestError: LiteRT refused.
        """
        try:
            found = self._runner(signature.name)(**inputs)
        except (RuntimeError, ValueError) as error:
            raise RequestError(Code.INVALID_ARGUMENT, clean_message(str(error))) from error
        # The interpreter's own memory is written over by the next run.
        return {alias: np.array(found[alias]) for alias in outputs}

    def close(self) -> None:
        """Give the memory back; runs that are still going end by themselves."""
        self._of_thread = threading.local()
        self._content = None

    def _runner(self, name: str) -> Any:
        runners = self._of_thread.__dict__
        if name not in runners:
            runners[name] = self._interpreter().get_signature_runner(name)
        return runners[name]

    def _interpreter(self) -> Any:
        with without_advice():  # it moves to a package of its own
            return tf.lite.Interpreter(model_content=self._content)


def _definition(runner: Any) -> Any:
    definition = SignatureDef(method_name=METHOD_PREDICT)
    for details, infos in (
        (runner.get_input_details(), definition.inputs),
        (runner.get_output_details(), definition.outputs),
    ):
        for alias, tensor in details.items():
            info = infos[alias]
            info.name = f"{tensor['name']}:0"
            info.dtype = data_type_number(np.dtype(tensor["dtype"]))
            for size in tensor["shape_signature"]:
                info.tensor_shape.dim.add(size=int(size))
    return definition
