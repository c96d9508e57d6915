"""Write, verify and publish a classifier as a version of a TensorFlow Serving model."""

from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from keras_cls import contract
from keras_cls.classifier import Classifier
from keras_cls.contract import messages
from keras_cls.contract.tensors import encode_tensor
from keras_cls.errors import ExportError
from keras_cls.exporting.multiply_adds import written_multiply_adds
from keras_cls.exporting.networks import Network
from keras_cls.exporting.signatures import ServingSignatures
from keras_cls.exporting.verification import (
    BOUNDS,
    Sample,
    Verification,
    verify_saved_model,
)
from keras_cls.files import new_folder, write_json
from keras_cls.images import encode_for_graph

CARD_FILE = "card.json"


def publish_saved_model(
    classifier: Classifier, network: Network, directory: Path, sample: Sample, *, strict: bool
) -> Path:
    """Write a SavedModel beside its place, verify it, and rename it to the next free version."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        while True:
            version = directory / str(_next_version(directory))
            try:
                with new_folder(version) as folder:
                    _write(classifier, network, folder)
                    name = directory.resolve().name
                    _write_warmup(folder / contract.WARMUP_FILE, sample.pixels, name)
                    bounds = BOUNDS[network.precision]
                    found = verify_saved_model(classifier, folder, bounds, sample)
                    if strict:
                        found.raise_unless_within_bounds()
                    write_json(folder / CARD_FILE, _card(classifier, network, folder, found))
                return version
            except FileExistsError:
                continue  # somebody else published this number meanwhile
    except OSError as error:
        raise ExportError(f"{directory}: cannot be written: {error.strerror or error}") from error
    except tf.errors.OpError as error:
        raise ExportError(f"{directory}: cannot be written: {error.message}") from error


def _next_version(directory: Path) -> int:
    taken = [int(entry.name) for entry in directory.iterdir() if entry.name.isdecimal()]
    return max(taken, default=0) + 1


def _write(classifier: Classifier, network: Network, folder: Path) -> None:
    signatures = ServingSignatures(classifier, network)
    tf.saved_model.save(signatures.variables(), str(folder), signatures=signatures.functions())
    _set_method(folder / contract.MODEL_FILE, contract.SIGNATURE_CLASSIFY, contract.METHOD_CLASSIFY)


def _set_method(path: Path, signature: str, method: str) -> None:
    """TensorFlow writes the predict method for every signature; Classify calls ask for theirs."""
    model = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in model.meta_graphs:
        graph.signature_def[signature].method_name = method
    path.write_bytes(model.SerializeToString(deterministic=True))


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


def _card(
    classifier: Classifier, network: Network, folder: Path, verification: Verification
) -> dict[str, object]:
    export = {"format": "saved_model", **network.card()}
    if network.precision == "int8":
        export["quantized_share"] = round(written_multiply_adds(folder).quantized_share, 4)
    return {
        **classifier.card(),
        "export": export,
        "verification": verification.to_dict(),
    }
