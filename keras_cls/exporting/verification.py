"""Hold an export to the Keras model that it was made from."""

import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_cls import contract
from keras_cls.classifier import Classifier
from keras_cls.errors import ExportError
from keras_cls.exporting.calibration_images import PreparedImages
from keras_cls.hushing import without_advice


@dataclass(frozen=True)
class Bounds:
    """The differences allowed between an image's probabilities and the Keras model's.

    Attributes:
        tensor: the largest, for the same pixels.
        encoded: the largest, for an encoded image: the graph decodes with TensorFlow, predict with
            Pillow.
        mean: the mean over images of each one's largest, for the same pixels.
        relative: the root of the mean square of all, as a share of the probabilities' own
            deviation, for the same pixels: of a thousand classes each is small.
    """

    tensor: float
    encoded: float
    mean: float
    relative: float


BOUNDS = {
    "float32": Bounds(1e-4, 1e-3, 1e-4, 0.01),
    "bfloat16": Bounds(0.1, 0.1, 0.02, 0.5),
    "dynamic": Bounds(0.75, 0.75, 0.05, 0.5),
    "int8": Bounds(0.75, 0.75, 0.05, 0.5),
}
"""By the precision of the export."""

_LEAST_DEVIATION = 0.01
"""As a share of one class's among equals: what deviates by less says nothing anyway."""

_LEAST_SAME_CLASS = 0.5
"""Small differences are large ones where no class is probable: then the order of classes tells."""

_ENOUGH_IMAGES = 16
"""To count on how many of them the best class is the same."""

_SYNTHETIC_IMAGES = _ENOUGH_IMAGES
_MOST_IMAGES = 64


@dataclass(frozen=True)
class Verification:
    """The differences found between the export's probabilities and the Keras model's.

    Attributes as in :class:`Bounds`, and:
        images: how many were compared.
        source: where they are from.
        same_class: the share of them for which both find the same class best.
        same_class_bound: the least; 0 where the images are few.
    """

    images: int
    source: str
    tensor_difference: float
    tensor_bound: float
    encoded_difference: float | None
    encoded_bound: float | None
    mean_difference: float
    mean_bound: float
    relative_difference: float
    relative_bound: float
    same_class: float
    same_class_bound: float = 0.0

    @property
    def within_bounds(self) -> bool:
        """Whether all differences keep to their bound; a NaN does not."""
        return (
            self.tensor_difference <= self.tensor_bound
            and (
                self.encoded_difference is None
                or self.encoded_bound is None
                or self.encoded_difference <= self.encoded_bound
            )
            and self.mean_difference <= self.mean_bound
            and self.relative_difference <= self.relative_bound
            and self.same_class >= self.same_class_bound
        )

    def raise_unless_within_bounds(self) -> None:
        """Raise ExportError with the figures where a bound is broken."""
        if self.within_bounds:
            return
        encoded = ""
        if self.encoded_difference is not None:
            encoded = (
                f" and {self.encoded_difference:.2g} for encoded images (allowed "
                f"{self.encoded_bound:g})"
            )
        raise ExportError(
            "the export does not agree with the Keras model: probabilities differ by "
            f"{self.tensor_difference:.2g} for pixels (allowed {self.tensor_bound:g}; in the mean "
            f"{self.mean_difference:.2g}, allowed {self.mean_bound:g}; as a share of their own "
            f"deviation {self.relative_difference:.2g}, allowed {self.relative_bound:g}){encoded}; "
            "the best class is "
            f"the same on {self.same_class:.0%} (at least {self.same_class_bound:.0%}) of "
            f"{self.images} images ({self.source}). Nothing was published; verify='report' "
            "publishes all the same"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields and the verdict, as plain JSON types; a NaN becomes None."""
        values = {k: None if v != v else v for k, v in asdict(self).items()}
        return {**values, "within_bounds": self.within_bounds}


@dataclass(frozen=True, eq=False)
class Sample:
    """Images to compare on.

    Attributes:
        pixels: at the model's input size, uint8 ``[n, H, W, 3 | 4]``.
        source: where they are from.
    """

    pixels: np.ndarray
    source: str


def refuse_broken_weights(classifier: Classifier) -> None:
    """Raise ExportError where a weight is no finite number; it is named.

    Answers that are compared would tell as much, but not why.
    """
    for variable in classifier.model.variables:
        values = np.asarray(variable)
        if not np.issubdtype(values.dtype, np.floating) or np.isfinite(values).all():
            continue
        raise ExportError(
            f"{variable.path}: {np.sum(~np.isfinite(values)):,} of {values.size:,} numbers are not "
            "finite (nan or inf): the network gives no answers; train it again, at a smaller "
            "learning rate, or take an earlier checkpoint"
        )


def sample_of(classifier: Classifier, calibration: PreparedImages | None) -> Sample:
    """Images to compare on: of the calibration and kept with the classifier, else synthetic.

    The kept ones were not calibrated with, unless nothing else was there.
    """
    found: list[tuple[np.ndarray, str]] = []
    if calibration is not None:
        found.append((calibration.pixels[:_MOST_IMAGES], calibration.origin))
    kept = "the sample kept with the classifier"
    given = classifier.sample
    if given is not None and len(given) and (calibration is None or calibration.origin != kept):
        found.append((given, kept))
    if found:
        pixels = [each for each, _ in found]
        origin = " and ".join(each for _, each in found)
        return Sample(np.concatenate(pixels) if len(pixels) > 1 else pixels[0], origin)
    # Smooth, coloured noise: white noise would be averaged to grey by the first layers.
    rng = np.random.default_rng(0)
    channels = classifier.preprocessing.image_channels
    coarse = rng.integers(0, 256, (_SYNTHETIC_IMAGES, 8, 8, channels)).astype(np.float32)
    smooth = tf.image.resize(coarse, classifier.input_size, method="bicubic").numpy()
    return Sample(np.clip(np.rint(smooth), 0, 255).astype(np.uint8), "synthetic images")


def verify_saved_model(
    classifier: Classifier, folder: Path, bounds: Bounds, sample: Sample
) -> Verification:
    """Run all of the export's signatures through the loader that TensorFlow Serving uses."""
    pixels = sample.pixels
    files = [_photo_file(image, as_jpeg=index % 2 == 0) for index, image in enumerate(pixels)]
    encoded = np.array(files, dtype=object)
    examples = np.array([example_of(file) for file in files], dtype=object)
    with SessionModel(folder) as run:
        of_pixels = run(contract.SIGNATURE_IMAGES, {contract.INPUT_IMAGES: pixels})
        of_files = run(contract.SIGNATURE_PROBABILITIES, {contract.INPUT_IMAGE_BYTES: encoded})
        best = [
            run(contract.SIGNATURE_DEFAULT, {contract.INPUT_IMAGE_BYTES: encoded}),
            run(contract.SIGNATURE_CLASSIFY, {contract.INPUT_EXAMPLES: examples}),
        ]
    expected = classifier.probabilities(files)
    encoded_differences = [
        _difference(of_files[contract.OUTPUT_PROBABILITIES], expected),
        *(_difference_of_best(answer, expected, classifier.labels) for answer in best),
    ]
    return compared(
        classifier,
        of_pixels[contract.OUTPUT_PROBABILITIES],
        bounds,
        sample,
        encoded_difference=max(encoded_differences),
    )


def compared(
    classifier: Classifier,
    found: np.ndarray,
    bounds: Bounds,
    sample: Sample,
    *,
    encoded_difference: float | None = None,
) -> Verification:
    """An export's probabilities for the sample's pixels against the Keras model's."""
    wanted = classifier.probabilities_of_pixels(sample.pixels)
    return Verification(
        images=len(sample.pixels),
        source=sample.source,
        tensor_difference=_difference(found, wanted),
        tensor_bound=bounds.tensor,
        encoded_difference=encoded_difference,
        encoded_bound=None if encoded_difference is None else bounds.encoded,
        mean_difference=float(np.mean(np.max(np.abs(found - wanted), axis=1))),
        mean_bound=bounds.mean,
        relative_difference=_relative_difference(found, wanted),
        relative_bound=bounds.relative,
        same_class=float(np.mean(found.argmax(axis=1) == wanted.argmax(axis=1))),
        same_class_bound=_LEAST_SAME_CLASS if len(sample.pixels) >= _ENOUGH_IMAGES else 0.0,
    )


class SessionModel:
    """A SavedModel in a v1 Session: the way in which TensorFlow Serving loads and runs it.

    Loading with ``tf.saved_model.load`` would prove less: it finds variables that the C++ loader
    does not.
    """

    def __init__(self, folder: Path) -> None:
        graph = tf.Graph()
        with graph.as_default(), without_advice():  # to use tf.saved_model.load
            self._session = tf.compat.v1.Session(graph=graph)
            meta_graph = tf.compat.v1.saved_model.loader.load(
                self._session, [contract.SERVE_TAG], str(folder)
            )
        self.signatures = meta_graph.signature_def

    def __call__(self, signature: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run one signature by its aliases."""
        definition = self.signatures[signature]
        feed = {definition.inputs[alias].name: value for alias, value in inputs.items()}
        return self._session.run({k: v.name for k, v in definition.outputs.items()}, feed)

    def __enter__(self) -> "SessionModel":
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()


def _photo_file(image: np.ndarray, as_jpeg: bool) -> bytes:
    """Both kinds of file that users send; JPEG has no alpha."""
    buffer = io.BytesIO()
    if as_jpeg and image.shape[-1] == 3:
        Image.fromarray(image).save(buffer, format="JPEG", quality=95)
    else:
        Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def _difference(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.max(np.abs(found - expected))) if np.isfinite(found).all() else float("nan")


def _relative_difference(found: np.ndarray, expected: np.ndarray) -> float:
    difference = np.sqrt(np.mean(np.square(found - expected, dtype=np.float64)))
    least = _LEAST_DEVIATION / expected.shape[1]
    return float(difference / max(np.std(expected, dtype=np.float64), least))


def _difference_of_best(
    answer: dict[str, np.ndarray], expected: np.ndarray, labels: Sequence[str]
) -> float:
    """Each score against the probability of the class of that name, and of that rank."""
    classes, scores = answer[contract.OUTPUT_CLASSES], answer[contract.OUTPUT_SCORES]
    index_of = {label.encode(): index for index, label in enumerate(labels)}
    named = np.array([[index_of[label] for label in row] for row in classes])
    of_name = np.take_along_axis(expected, named, axis=1)
    of_rank = -np.sort(-expected, axis=1)[:, : scores.shape[1]]
    return max(_difference(scores, of_name), _difference(scores, of_rank))


def example_of(file: bytes) -> bytes:
    """An encoded image as ``classify`` takes it: a serialized ``tf.train.Example``."""
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
    features = tf.train.Features(feature={contract.EXAMPLE_IMAGE_KEY: feature})
    return tf.train.Example(features=features).SerializeToString()
