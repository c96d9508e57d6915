"""A classifier as a SavedModel for TensorFlow Serving."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.saved_model.fingerprinting_utils import write_fingerprint

from keras_cls import contract
from keras_cls.classifier import Classifier
from keras_cls.contract import messages
from keras_cls.contract.tensors import encode_tensor
from keras_cls.exporting.constants import stand_ins
from keras_cls.exporting.multiply_adds import written_multiply_adds
from keras_cls.exporting.networks import Network
from keras_cls.exporting.signatures import ServingSignatures
from keras_cls.exporting.verification import (
    BOUNDS,
    Sample,
    Verification,
    verify_saved_model,
)
from keras_cls.images import encode_for_graph


@dataclass(frozen=True, eq=False)
class SavedModel:
    """A SavedModel with the contract's four signatures, for TensorFlow Serving.

    Attributes:
        classifier: what it answers as.
        network: what it computes.
    """

    classifier: Classifier
    network: Network

    def write(self, folder: Path, model_name: str, sample: Sample) -> None:
        """The graph, its variables if it has any, and a request of each kind to warm up with."""
        with stand_ins() as numbers:
            signatures = ServingSignatures(self.classifier, self.network).functions()
            tf.saved_model.save(self.network.tracked(), str(folder), signatures=signatures)
        graph = folder / contract.MODEL_FILE
        model = saved_model_pb2.SavedModel.FromString(graph.read_bytes())
        numbers.replace_in(model, signatures)
        _set_method(model, contract.SIGNATURE_CLASSIFY, contract.METHOD_CLASSIFY)
        graph.write_bytes(model.SerializeToString(deterministic=True))
        write_fingerprint(str(folder))
        _write_warmup(folder / contract.WARMUP_FILE, sample.pixels, model_name)

    def verify(self, folder: Path, sample: Sample) -> Verification:
        """By all signatures, in the session that TensorFlow Serving uses."""
        bounds = BOUNDS[self.network.precision]
        return verify_saved_model(self.classifier, folder, bounds, sample)

    def card(self, folder: Path) -> dict[str, Any]:
        """The network's, and for int8 the share of multiply-adds that are in bytes."""
        card = {"format": "saved_model", **self.network.card()}
        if self.network.precision == "int8":
            card["quantized_share"] = round(written_multiply_adds(folder).quantized_share, 4)
        return card


def _set_method(model: saved_model_pb2.SavedModel, signature: str, method: str) -> None:
    """TensorFlow writes the predict method for every signature; Classify calls ask for theirs."""
    for graph in model.meta_graphs:
        graph.signature_def[signature].method_name = method


def _write_warmup(path: Path, pixels: np.ndarray, model_name: str) -> None:
    """One request a signature, which the server runs before it calls the version available."""
    encoded = np.array([encode_for_graph(pixels[0])], dtype=object)
    requests = {
        contract.SIGNATURE_DEFAULT: (contract.INPUT_IMAGE_BYTES, encoded),
        contract.SIGNATURE_PROBABILITIES: (contract.INPUT_IMAGE_BYTES, encoded),
        contract.SIGNATURE_IMAGES: (contract.INPUT_IMAGES, pixels[:1]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for signature, (name, value) in requests.items():
            log = messages.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = signature
            request.inputs[name].CopyFrom(encode_tensor(value))
            writer.write(log.SerializeToString())
