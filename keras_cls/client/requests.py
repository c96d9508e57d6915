"""The messages: which images go into one, what is asked, and what an answer must look like."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import TypeAlias

import numpy as np

from keras_cls.client.settings import Settings
from keras_cls.contract import (
    INPUT_IMAGE_BYTES,
    INPUT_IMAGES,
    OUTPUT_CLASSES,
    OUTPUT_PROBABILITIES,
    OUTPUT_SCORES,
    SIGNATURE_DEFAULT,
    SIGNATURE_IMAGES,
    SIGNATURE_PROBABILITIES,
    TOP_K,
    Prediction,
)
from keras_cls.contract.messages import (
    GetModelMetadataRequest,
    GetModelStatusRequest,
    Message,
    ModelVersionStatus,
    PredictRequest,
    SignatureDefMap,
)
from keras_cls.contract.tensors import UINT8, TensorError, decode_tensor, encode_tensor
from keras_cls.errors import ConfigError, ImageError, ServingError
from keras_cls.images import ImageSource, each_image

_METADATA_FIELD = "signature_def"

Content: TypeAlias = bytes | np.ndarray
Prepare: TypeAlias = Callable[[ImageSource, str], Content]
"""An image, and what messages call it, to what is sent: encoded bytes, or uint8 ``[H, W, C]``."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An image on its way: what the caller gave, what messages call it, what is sent."""

    source: ImageSource
    name: str
    content: Content


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about images: a signature, its one input, and some of its outputs."""

    signature: str
    input: str
    outputs: tuple[str, ...]


BEST_CLASSES = Question(SIGNATURE_DEFAULT, INPUT_IMAGE_BYTES, (OUTPUT_CLASSES, OUTPUT_SCORES))
PROBABILITIES = Question(SIGNATURE_PROBABILITIES, INPUT_IMAGE_BYTES, (OUTPUT_PROBABILITIES,))
PROBABILITIES_OF_PIXELS = Question(SIGNATURE_IMAGES, INPUT_IMAGES, (OUTPUT_PROBABILITIES,))


def split(
    images: ImageSource | Iterable[ImageSource], prepare: Prepare, settings: Settings
) -> Iterator[list[Outgoing]]:
    """Prepared images, as many together as go into one call; read as they are needed.

    Raises:
        ImageError: an image cannot be read, or is larger than ``max_message_bytes``.
    """
    chunk: list[Outgoing] = []
    size = 0
    for number, image in enumerate(each_image(images)):
        name = fspath(image) if isinstance(image, str | PathLike) else f"image {number}"
        content = fitting(prepare(image, name), name, settings)
        full = len(chunk) == settings.images_per_call
        if full or size + _bytes_of(content) > settings.max_message_bytes:
            yield chunk
            chunk, size = [], 0
        chunk.append(Outgoing(image, name, content))
        size += _bytes_of(content)
    if chunk:
        yield chunk


def fitting(content: Content, name: str, settings: Settings) -> Content:
    """The same, if it fits into a message.

    Raises:
        ImageError: it does not.
    """
    size, most = _bytes_of(content), settings.max_message_bytes
    if size > most:
        raise ImageError(
            name,
            f"its {size:,} bytes do not fit into one message of {most:,} (max_message_bytes)",
        )
    return content


def predict_request(question: Question, contents: Sequence[Content], settings: Settings) -> Message:
    """A ``PredictRequest`` about some images."""
    request = _for_the_model(PredictRequest(), settings)
    request.model_spec.signature_name = question.signature
    request.inputs[question.input].CopyFrom(encode_tensor(_rows(contents)))
    request.output_filter.extend(question.outputs)
    return request


def status_request(settings: Settings) -> Message:
    """A ``GetModelStatusRequest``."""
    return _for_the_model(GetModelStatusRequest(), settings)


def metadata_request(settings: Settings) -> Message:
    """A ``GetModelMetadataRequest`` for the signatures."""
    request = _for_the_model(GetModelMetadataRequest(), settings)
    request.metadata_field.append(_METADATA_FIELD)
    return request


def read_outputs(response: Message, question: Question, count: int) -> list[np.ndarray]:
    """The outputs that were asked for, each with a row for each of ``count`` images.

    Raises:
        ServingError: they are not there, or of another shape.
    """
    arrays = []
    for alias in question.outputs:
        if alias not in response.outputs:
            raise _unexpected(f"no output {alias!r}")
        try:
            array = decode_tensor(response.outputs[alias])
        except TensorError as error:
            raise _unexpected(f"{alias}: {error}") from error
        if array.ndim != 2 or len(array) != count:
            raise _unexpected(f"{alias} of shape {array.shape} for {count} images")
        arrays.append(array)
    return arrays


def best_classes(classes: np.ndarray, scores: np.ndarray) -> list[list[Prediction]]:
    """A server's classes and scores, ``[N, k]`` each and best first, as predictions.

    Raises:
        ServingError: they are not of one shape.
    """
    if classes.shape != scores.shape:
        raise _unexpected(f"classes of shape {classes.shape}, scores {scores.shape}")
    return [
        [
            Prediction(_text(label), None, float(score))
            for label, score in zip(row_classes, row_scores, strict=True)
        ]
        for row_classes, row_scores in zip(classes, scores, strict=True)
    ]


def best_of(probabilities: np.ndarray, labels: Sequence[str]) -> list[list[Prediction]]:
    """The best of probabilities ``[N, C]``, as many as a server would tell, with their places.

    Raises:
        ConfigError: there are not C labels.
    """
    if probabilities.shape[1] != len(labels):
        raise ConfigError(
            f"labels: the model has {probabilities.shape[1]} classes, but {len(labels)} labels "
            "were given"
        )
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :TOP_K]
    return [
        [Prediction(labels[place], int(place), float(row[place])) for place in places]
        for row, places in zip(probabilities, best, strict=True)
    ]


def read_status(response: Message) -> dict[int, str]:
    """The state of each version in a ``GetModelStatusResponse``."""
    return {
        entry.version: ModelVersionStatus.State.Name(entry.state)
        for entry in response.model_version_status
    }


def read_input_shape(response: Message) -> tuple[int, int, int]:
    """The height, width and channels of the images that a model takes undecoded; -1 is any.

    Raises:
        ServingError: it takes none, or no uint8 ``[N, H, W, C]``.
    """
    definitions = SignatureDefMap()
    packed = response.metadata.get(_METADATA_FIELD)
    if packed is None or not packed.Unpack(definitions):
        raise _unexpected(f"no metadata of the field {_METADATA_FIELD}")
    signatures = definitions.signature_def
    if SIGNATURE_IMAGES in signatures and INPUT_IMAGES in signatures[SIGNATURE_IMAGES].inputs:
        info = signatures[SIGNATURE_IMAGES].inputs[INPUT_IMAGES]
        _, *shape = [dim.size for dim in info.tensor_shape.dim] or [0]
        if info.dtype == UINT8.number and len(shape) == 3:
            return shape[0], shape[1], shape[2]
    raise ServingError(
        f"the model has no signature {SIGNATURE_IMAGES!r} that takes uint8 [N, H, W, C], which "
        'decode="client" needs; decode="server" does not',
        "FAILED_PRECONDITION",
    )


def _for_the_model(request: Message, settings: Settings) -> Message:
    request.model_spec.name = settings.model
    if settings.version is not None:
        request.model_spec.version.value = settings.version
    return request


def _rows(contents: Sequence[Content]) -> np.ndarray:
    if isinstance(contents[0], np.ndarray):
        return np.stack(contents)
    rows = np.empty(len(contents), dtype=object)
    rows[:] = contents
    return rows


def _bytes_of(content: Content) -> int:
    return len(content) if isinstance(content, bytes) else content.nbytes


def _text(label: object) -> str:
    return label.decode(errors="replace") if isinstance(label, bytes) else str(label)


def _unexpected(what: str) -> ServingError:
    return ServingError(
        f"the service's answer does not follow the SavedModel contract: {what}", "INTERNAL"
    )
