"""A classifier: a Keras model and everything that belongs to it.

It is one folder on disk, loaded without ``custom_objects`` and without unpickling anything:

    classifier.json   labels, whether an image may have several, preprocessing, architecture,
                      metrics, training settings, versions
    model.keras       the Keras model, which gives logits
    sample.npz        a few held-out images that exports are verified on, where there are any
"""

import hashlib
import math
import os
import platform
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from numbers import Real
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_cls.architectures  # noqa: F401  registers the layers that saved models are made of
from keras_cls.architectures import list_models, model_spec
from keras_cls.contract import Prediction
from keras_cls.errors import ConfigError
from keras_cls.files import new_folder, read_json, write_json
from keras_cls.images import ImageSource, describe, each_image, read_image
from keras_cls.labels import checked_labels, class_names
from keras_cls.preprocessing import Preprocessing, normalize, transform
from keras_cls.weights import provenance

CARD_FILE = "classifier.json"
MODEL_FILE = "model.keras"
SAMPLE_FILE = "sample.npz"
RUN_CLASSIFIER = "classifier"
CHECKPOINTS = "checkpoints"
BEST_PREFIX = "best-"
"""A run keeps its best classifier in checkpoints/best-EPOCH and, finished, in classifier."""

FORMAT = 1
BATCH_SIZE = 32
DEFAULT_K = 5
_PACKAGES = ("keras-cls", "keras", "tensorflow", "numpy", "pillow")


class Classifier:
    """A Keras model with its preprocessing and labels.

    Args:
        model: one float input ``[N, H, W, C]``, one output: logits ``[N, len(labels)]``.
        labels: the names of the classes, in the order of the logits. None for a model with
            published weights: the classes that they were trained on.
        preprocessing: how images become the model's input. None for a model of the registry: the
            rule that its weights were published with, else its own, at the model's input size.
        architecture: the registry's name of the network; None where the model's own name is it.
        multi_label: an image may show any number of the classes, or none: the probability of each
            is its logit's sigmoid. Otherwise it shows exactly one, and the probabilities are the
            logits' softmax, which sum to 1.
        metrics: what was measured, such as ``{"val_accuracy": 0.98}``.
        training: the settings it was trained with; anything that JSON can hold.
        sample: uint8 ``[n, H, W, 3]`` (4 for rgba) images at the model's input size, on which
            exports are verified.

    Raises:
        ConfigError: labels, preprocessing or sample do not fit the model, or must be given.
    """

    def __init__(
        self,
        model: keras.Model,
        labels: Sequence[str] | None = None,
        preprocessing: Preprocessing | None = None,
        *,
        architecture: str | None = None,
        multi_label: bool = False,
        metrics: Mapping[str, float] | None = None,
        training: Mapping[str, Any] | None = None,
        sample: np.ndarray | None = None,
    ) -> None:
        if not isinstance(model, keras.Model):
            raise ConfigError(f"model must be a keras.Model, found {type(model).__name__}")
        self.model = model
        self.labels = _classes_of_weights(model) if labels is None else checked_labels(labels)
        self.architecture = architecture or model.name
        self.preprocessing = preprocessing or _published(model)
        self.multi_label = multi_label
        self.metrics = {key: _finite(key, value) for key, value in (metrics or {}).items()}
        self.training = dict(training or {})
        self.sample = sample
        self.versions = library_versions()
        self._check()

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the model's input, in pixels."""
        return self.preprocessing.size

    def predict(
        self,
        images: ImageSource | Iterable[ImageSource],
        k: int | None = None,
        threshold: float | None = None,
    ) -> list[list[Prediction]]:
        """The most probable classes of each image, best first.

        Args:
            images: one image or an iterable of them: paths, encoded bytes, PIL images or arrays on
                the 0..255 scale. An array ``[N, H, W, C]``, or ``[N, H, W]`` where the last axis
                is not of length 1, 3 or 4, is a batch of images.
            k: how many classes at most. None: five, or, with a ``threshold``, as many as reach it.
            threshold: in 0..1: leave out classes of a lower probability, so that an image may be
                left with none. For a multi-label classifier 0.5 means "more likely there than not".

        Returns:
            A list of predictions for each image, also where there is one image only.

        Raises:
            ImageError: an image cannot be read; it is named.
            ConfigError: ``k`` or ``threshold`` is out of range.
        """
        _check_threshold(threshold)
        most = _checked_k(k, len(self.labels) if threshold is not None else DEFAULT_K)
        rows = self.probabilities(images)
        best = np.argsort(-rows, axis=1, kind="stable")[:, :most]
        return [
            [
                Prediction(self.labels[i], int(i), float(row[i]))
                for i in order
                if threshold is None or row[i] >= threshold
            ]
            for row, order in zip(rows, best, strict=True)
        ]

    def probabilities(self, images: ImageSource | Iterable[ImageSource]) -> np.ndarray:
        """The probability of every class, float32 ``[N, C]``; ``images`` as in :meth:`predict`."""
        rows = [np.zeros((0, len(self.labels)), np.float32)]
        sources = enumerate(each_image(images))
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            while batch := list(islice(sources, BATCH_SIZE)):
                prepared = pool.map(lambda each: self.prepared(each[1], each[0]), batch)
                rows.append(self.forward(np.stack(list(prepared))))
        return np.concatenate(rows)

    def prepared(self, image: ImageSource, number: int | None = None) -> np.ndarray:
        """One image as the model takes it, float32 ``[H, W, C]``.

        Args:
            image: as in :meth:`predict`.
            number: which of many it is, for messages.

        Raises:
            ImageError: it cannot be read.
        """
        name = describe(image)
        if number is not None and not isinstance(image, str | os.PathLike):
            name = f"image {number} ({name})"
        rule = self.preprocessing
        pixels = read_image(image, alpha=rule.image_channels == 4, name=name)
        return transform(tf.constant(pixels), rule).numpy()

    def probabilities_of_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Probabilities of images that have the model's input size already, float32 ``[N, C]``.

        Args:
            pixels: uint8 ``[N, H, W, 3]``, RGB also for a grayscale model; 4 for an rgba model.
        """
        expected = (*self.input_size, self.preprocessing.image_channels)
        if pixels.dtype != np.uint8 or pixels.shape[1:] != expected:
            raise ConfigError(
                f"expected uint8 [N, {', '.join(map(str, expected))}], "
                f"found {pixels.dtype} {list(pixels.shape)}"
            )
        rows = [np.zeros((0, len(self.labels)), np.float32)]
        for start in range(0, len(pixels), BATCH_SIZE):
            batch = normalize(pixels[start : start + BATCH_SIZE], self.preprocessing)
            rows.append(self.forward(batch))
        return np.concatenate(rows)

    def forward(self, batch: np.ndarray | tf.Tensor) -> np.ndarray:
        """The network on a prepared batch: float32 ``[N, H, W, C]`` -> probabilities ``[N, K]``."""
        return self.network(tf.convert_to_tensor(batch)).numpy()

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write the classifier's folder, beside and then renamed; an older one is replaced.

        Raises:
            ConfigError: the folder exists and holds something else than a classifier.
        """
        folder = Path(folder).expanduser()
        if folder.exists() and not _may_replace(folder):
            raise ConfigError(
                f"{folder}: exists and is not a classifier's folder; choose another one"
            )
        with new_folder(folder, replace=True) as new:
            self.model.save(new / MODEL_FILE)
            if self.sample is not None:
                np.savez_compressed(new / SAMPLE_FILE, images=self.sample)
            write_json(new / CARD_FILE, self.card())
        return folder

    def card(self) -> dict[str, Any]:
        """What is known of the classifier beside its weights, as plain JSON types."""
        return {
            "format": FORMAT,
            "architecture": self.architecture,
            "input_size": list(self.input_size),
            "labels": list(self.labels),
            "multi_label": self.multi_label,
            "preprocessing": self.preprocessing.to_dict(),
            "metrics": self.metrics,
            "training": self.training,
            "versions": self.versions,
        }

    def digest(self) -> str:
        """What tells this classifier from others of its kind: its name and a digest of weights."""
        found = hashlib.sha256(b"multi-label" if self.multi_label else b"")
        for variable in self.model.weights:  # not the state of dropout, which each process draws
            found.update(np.ascontiguousarray(variable).tobytes())
        return f"{self.architecture} {found.hexdigest()[:16]}"

    def __repr__(self) -> str:
        height, width, channels = self.preprocessing.input_shape
        return (
            f"Classifier({self.architecture}, {len(self.labels)} classes, "
            f"{'multi-label, ' if self.multi_label else ''}input {height}x{width}x{channels})"
        )

    def activation(self, logits: tf.Tensor) -> tf.Tensor:
        """The last step: logits of any float dtype ``[N, K]`` -> probabilities float32 ``[N, K]``.

        Multi-label, their sigmoids; otherwise their softmax.
        """
        logits = tf.cast(logits, tf.float32)
        return tf.sigmoid(logits) if self.multi_label else tf.nn.softmax(logits)

    @cached_property
    def network(self) -> Any:
        """The network with its activation, a ``tf.function``: :meth:`forward` on tensors."""

        def probabilities(batch: tf.Tensor) -> tf.Tensor:
            return self.activation(self.model(batch, training=False))

        shape = (None, *self.preprocessing.input_shape)
        spec = tf.TensorSpec(shape, tf.float32)
        return tf.function(probabilities, input_signature=[spec], autograph=False)

    def _check(self) -> None:
        if not isinstance(self.multi_label, bool):
            raise ConfigError(f"multi_label must be True or False, found {self.multi_label!r}")
        if not isinstance(self.preprocessing, Preprocessing):
            raise ConfigError(
                f"preprocessing must be a keras_cls.Preprocessing, found {self.preprocessing!r}"
            )
        found = _shape(self.model, "input_shape", 4)
        expected = (None, *self.preprocessing.input_shape)
        fits = all(a is None or a == b for a, b in zip(found, expected, strict=True))
        if not fits:
            raise ConfigError(
                f"the model's input is {list(found)}, but the preprocessing gives "
                f"{list(expected)} (size {self.preprocessing.size}, "
                f"{self.preprocessing.color_mode})"
            )
        classes = _shape(self.model, "output_shape", 2)[-1]
        if classes != len(self.labels):
            raise ConfigError(
                f"the model has {classes} outputs, but there are {len(self.labels)} labels"
            )
        if _gives_probabilities(self.model):
            raise ConfigError(
                "the model ends in a softmax or sigmoid; a classifier's model gives logits: "
                "build it without the last activation"
            )
        if self.sample is not None:
            shape = (*self.input_size, self.preprocessing.image_channels)
            if not isinstance(self.sample, np.ndarray):
                raise ConfigError(f"sample must be an array, found {type(self.sample).__name__}")
            if self.sample.dtype != np.uint8 or self.sample.shape[1:] != shape:
                raise ConfigError(
                    f"sample must be uint8 [n, {', '.join(map(str, shape))}], "
                    f"found {self.sample.dtype} {list(self.sample.shape)}"
                )


def load(folder: str | os.PathLike[str]) -> Classifier:
    """Load a classifier's folder, or the best classifier of a run folder.

    Raises:
        ConfigError: the folder is missing, of another kind, damaged or of a newer format; the
            file and the field are named.
    """
    if not isinstance(folder, str | os.PathLike):
        raise ConfigError(f"a classifier's or run's folder is a path, found {folder!r}")
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        kind = "is a file; expected the" if folder.is_file() else "no such"
        raise ConfigError(f"{folder}: {kind} folder of a classifier or a run")
    if not (folder / CARD_FILE).exists():
        best = sorted((folder / CHECKPOINTS).glob(f"{BEST_PREFIX}*"))
        candidates = [folder / RUN_CLASSIFIER, *reversed(best)]
        folder = next((c for c in candidates if (c / CARD_FILE).exists()), folder)
    if not (folder / CARD_FILE).exists():
        raise ConfigError(
            f"{folder}: neither a classifier's folder nor a run folder with one "
            f"(it has no {CARD_FILE})"
        )
    card = _read_card(folder / CARD_FILE)
    try:
        classifier = Classifier(
            _load_model(folder / MODEL_FILE),
            card["labels"],
            Preprocessing.from_dict(card["preprocessing"]),
            architecture=card["architecture"],
            multi_label=card.get("multi_label", False),  # older cards lack it
            metrics=card["metrics"],
            training=card["training"],
            sample=_load_sample(folder / SAMPLE_FILE),
        )
    except ConfigError as error:
        if str(error).startswith(str(folder)):
            raise
        raise ConfigError(f"{folder}: {error}") from error
    classifier.versions = card["versions"]
    return classifier


def library_versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _finite(key: str, value: Any) -> float | int:
    try:
        number = value if isinstance(value, int) else float(value)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"metrics: {key!r} must be a number, found {value!r}") from error
    if not math.isfinite(number):
        raise ConfigError(f"metrics: {key!r} must be finite, found {value!r}")
    return number


def _checked_k(k: int | None, default: int) -> int:
    if k is None:
        return default
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ConfigError(f"k must be a whole number of 1 or more, found {k!r}")
    return k


def _check_threshold(threshold: float | None) -> None:
    if threshold is None:
        return
    if isinstance(threshold, bool) or not isinstance(threshold, Real) or not 0 <= threshold <= 1:
        raise ConfigError(f"threshold must be a number in 0..1, found {threshold!r}")


def _classes_of_weights(model: keras.Model) -> tuple[str, ...]:
    count = _shape(model, "output_shape", 2)[-1]
    found = provenance(model)
    if found is None:
        raise ConfigError(
            f"labels: name the {count} classes of {model.name!r}, labels=[...]: only published "
            "weights, create_model(..., weights=...), bring names of their own"
        )
    if found.classes is None:
        raise ConfigError(
            f"labels: name the {count} classes of {model.name!r}, labels=[...]: its weights, "
            f"{found.file}, do not say what they are, or left its head fresh"
        )
    names = class_names(found.classes)
    if len(names) != count:
        raise ConfigError(
            f"labels: name the {count} classes of {model.name!r}, labels=[...]: its weights, "
            f"{found.file}, are for the {len(names)} of {found.classes}"
        )
    return names


def _published(model: keras.Model) -> Preprocessing:
    found = provenance(model)
    if found is not None:
        return found.preprocessing
    if model.name not in list_models():
        raise ConfigError(
            f"{model.name!r} is not a network of the registry: say how images become its input, "
            "preprocessing=keras_cls.Preprocessing(...)"
        )
    _, height, width, channels = _shape(model, "input_shape", 4)
    if height is None or width is None or channels is None:
        raise ConfigError(
            f"{model.name}: build it with a fixed input_shape (height, width, channels)"
        )
    return model_spec(model.name).preprocessing.adapted_to((height, width, channels))


def _shape(model: keras.Model, attribute: str, rank: int) -> tuple[int | None, ...]:
    shape = getattr(model, attribute, None)
    if not isinstance(shape, tuple) or len(shape) != rank or isinstance(shape[0], tuple):
        what = "input [N, H, W, C]" if rank == 4 else "output [N, classes]"
        raise ConfigError(f"a classifier's model has one {what}; this one has {shape}")
    return shape


def _gives_probabilities(model: keras.Model) -> bool:
    last = model.layers[-1]
    activation = getattr(last, "activation", None)
    return isinstance(last, keras.layers.Softmax) or activation in (
        keras.activations.softmax,
        keras.activations.sigmoid,
    )


def _may_replace(folder: Path) -> bool:
    return folder.is_dir() and ((folder / CARD_FILE).exists() or not any(folder.iterdir()))


def _read_card(path: Path) -> dict[str, Any]:
    card = read_json(path)
    if card.get("format") != FORMAT:
        raise ConfigError(
            f"{path}: field 'format' is {card.get('format')!r}; this version of keras_cls reads "
            f"{FORMAT}"
        )
    kinds = {
        "architecture": str,
        "labels": list,
        "preprocessing": dict,
        "metrics": dict,
        "training": dict,
        "versions": dict,
    }
    if not isinstance(card.get("multi_label", False), bool):
        raise ConfigError(
            f"{path}: field 'multi_label' must be true or false, found {card['multi_label']!r}"
        )
    for field, kind in kinds.items():
        if not isinstance(card.get(field), kind):
            raise ConfigError(
                f"{path}: field {field!r} must be a {kind.__name__}, found {card.get(field)!r}"
            )
    return card


def _load_model(path: Path) -> keras.Model:
    if not path.is_file():
        raise ConfigError(f"{path}: missing; the classifier's folder is incomplete")
    if not zipfile.is_zipfile(path):
        raise ConfigError(f"{path}: damaged: not a Keras archive, or cut short")
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises whatever a damaged or foreign archive leads to
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(f"{path}: cannot be loaded: {reason}") from error


def _load_sample(path: Path) -> np.ndarray | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive["images"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{path}: damaged: {error}") from error
