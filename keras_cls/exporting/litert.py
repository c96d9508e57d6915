"""A classifier as a LiteRT (TensorFlow Lite) file, for phones and small computers.

The file takes pixels at the model's input size and prepares them itself; decoding and resizing are
the caller's. TensorFlow Serving finds the signature when it is started with --prefer_tflite_model.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import tensorflow as tf

from keras_cls import contract
from keras_cls.classifier import Classifier
from keras_cls.errors import ExportError
from keras_cls.exporting.networks import Network
from keras_cls.exporting.verification import BOUNDS, Sample, Verification, compared
from keras_cls.hushing import without_advice
from keras_cls.preprocessing import normalize

LitePrecision: TypeAlias = Literal["float32", "dynamic", "int8"]
LITE_PRECISIONS: tuple[LitePrecision, ...] = get_args(LitePrecision)

_LAST_STEPS = ["SOFTMAX", "LOGISTIC"]
"""In float: the bytes of probabilities would tell 256 of them apart."""


@dataclass(frozen=True, eq=False)
class LiteFile:
    """One ``model.tflite`` with the signature ``serving_default``: images -> probabilities.

    Attributes:
        classifier: what it answers as.
        network: what it computes, in float32.
        precision: ``"float32"``; ``"dynamic"``, weights in bytes and the rest as it comes;
            ``"int8"``, all in bytes but the probabilities and the sigmoids of gates.
        pixels: to calibrate int8 with, uint8 [N, H, W, 3 | 4].
    """

    classifier: Classifier
    network: Network
    precision: LitePrecision
    pixels: np.ndarray | None = None

    def write(self, folder: Path, model_name: str, sample: Sample) -> None:
        """Convert the network with its preprocessing.

        Raises:
            ExportError: the converter refuses an operation; its words are given.
        """
        with tempfile.TemporaryDirectory() as saved, _quiet():
            tf.saved_model.save(
                self.network.tracked(), saved, {contract.SIGNATURE_DEFAULT: self._signature()}
            )
            converter = tf.lite.TFLiteConverter.from_saved_model(
                saved, signature_keys=[contract.SIGNATURE_DEFAULT]
            )
            try:
                content = self._converted(converter)
            except Exception as error:  # whatever the converter's own compiler raises
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ExportError(f"{model_name}: LiteRT cannot be written: {reason}") from error
        (folder / contract.LITE_FILE).write_bytes(content)

    def verify(self, folder: Path, sample: Sample) -> Verification:
        """By LiteRT's interpreter."""
        with without_advice(), _quiet():  # it moves to a package of its own
            interpreter = tf.lite.Interpreter(str(folder / contract.LITE_FILE))
        run = interpreter.get_signature_runner(contract.SIGNATURE_DEFAULT)
        answers = [run(**{contract.INPUT_IMAGES: image[None]}) for image in sample.pixels]
        found = np.concatenate([answer[contract.OUTPUT_PROBABILITIES] for answer in answers])
        return compared(self.classifier, found, BOUNDS[self.precision], sample)

    def card(self, folder: Path) -> dict[str, Any]:
        """Its format and precision."""
        images = {} if self.pixels is None else {"calibration": {"images": len(self.pixels)}}
        return {"format": "litert", **self.network.card(), "precision": self.precision, **images}

    def _signature(self) -> Any:
        rule = self.classifier.preprocessing

        def answer(images: tf.Tensor) -> dict[str, tf.Tensor]:
            probabilities = self.network.probabilities(normalize(images, rule))
            return {contract.OUTPUT_PROBABILITIES: probabilities}

        shape = (None, *rule.size, rule.image_channels)
        spec = tf.TensorSpec(shape, tf.uint8, name=contract.INPUT_IMAGES)
        return tf.function(answer, input_signature=[spec], autograph=False)

    def _converted(self, converter: Any) -> bytes:
        if self.precision == "float32":
            return converter.convert()
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if self.precision == "dynamic":
            return converter.convert()
        pixels = self.pixels
        assert pixels is not None

        def images() -> Iterator[dict[str, np.ndarray]]:
            for image in pixels:
                yield {contract.INPUT_IMAGES: image[None]}

        converter.representative_dataset = images
        settings = tf.lite.experimental.QuantizationDebugOptions(denylisted_ops=_LAST_STEPS)
        debugger = tf.lite.experimental.QuantizationDebugger(
            converter=converter, debug_dataset=images, debug_options=settings
        )
        return debugger.get_nondebug_quantized_model()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what the converter prints of itself."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
