"""What a client says and how it takes the answers, as steps for somebody to carry out."""

import itertools
import random
from collections.abc import Iterable, Iterator, Sequence

import grpc
import numpy as np

from keras_cls.client import requests
from keras_cls.client.requests import Outgoing, Prepare, Question
from keras_cls.client.retrying import (
    GET_METADATA,
    GET_STATUS,
    PREDICT,
    TOO_MANY_IMAGES,
    Method,
    Steps,
    call,
)
from keras_cls.client.settings import Settings
from keras_cls.contract import Prediction
from keras_cls.contract.messages import Message
from keras_cls.errors import ConfigError, ServingError
from keras_cls.images import ImageSource, encode_for_graph, encode_png


class Conversation:
    """All that clients have in common: everything but sending and waiting.

    It may be used from several threads.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        # Many clients that make one call each are not all to begin with the same server.
        self._turns = itertools.count(random.randrange(len(settings.addresses)))
        self._decoder: Prepare | None = None

    def check_can_classify(self) -> None:
        """Refuse to name classes whose names nobody knows (ConfigError)."""
        if self._settings.decode == "client" and self._settings.labels is None:
            raise ConfigError(
                'classify() with decode="client" needs labels=, the names of the classes in the '
                "model's order: a server tells the names only with images that it decodes itself. "
                "probabilities() needs none"
            )

    def preparation(self) -> Steps[Prepare]:
        """How images are prepared; asks the server, once, where it depends on the model."""
        if self._settings.decode == "server":
            return _encoded
        if self._decoder is None:
            from keras_cls.client.decoding import Decoder, rule_for

            response = yield from self._call(
                GET_METADATA, requests.metadata_request(self._settings)
            )
            shape = requests.read_input_shape(response)
            self._decoder = Decoder(rule_for(shape, self._settings.preprocessing))
        return self._decoder

    def chunks(
        self, images: ImageSource | Iterable[ImageSource], prepare: Prepare
    ) -> Iterator[list[Outgoing]]:
        """The images, as many together as go into one call."""
        return requests.split(images, prepare, self._settings)

    def classify(self, chunk: list[Outgoing]) -> Steps[list[list[Prediction]]]:
        """The best classes for each image of a chunk."""
        if self._settings.labels is not None:
            probabilities = yield from self.probabilities(chunk)
            return requests.best_of(probabilities, self._settings.labels)
        classes, scores = yield from self._ask(requests.BEST_CLASSES, chunk)
        return requests.best_classes(classes, scores)

    def probabilities(self, chunk: list[Outgoing]) -> Steps[np.ndarray]:
        """float32 ``[N, C]`` for the images of a chunk."""
        if self._settings.decode == "client":
            (found,) = yield from self._predict(
                requests.PROBABILITIES_OF_PIXELS, [image.content for image in chunk]
            )
        else:
            (found,) = yield from self._ask(requests.PROBABILITIES, chunk)
        return found

    def joined(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The probabilities of all chunks together: float32 ``[N, C]``.

        Raises:
            ConfigError: there are none.
        """
        if not parts:
            raise ConfigError("probabilities() needs one image at least")
        return np.concatenate(parts).astype(np.float32, copy=False)

    def status(self) -> Steps[dict[int, str]]:
        """The state of each version of the model."""
        response = yield from self._call(GET_STATUS, requests.status_request(self._settings))
        return requests.read_status(response)

    def _ask(self, question: Question, chunk: list[Outgoing]) -> Steps[list[np.ndarray]]:
        """Arrays with a row for each encoded image of the chunk."""
        try:
            return (yield from self._predict(question, [image.content for image in chunk]))
        except ServingError as error:
            refused = error.code == grpc.StatusCode.INVALID_ARGUMENT.name
            if not refused or TOO_MANY_IMAGES in str(error):
                raise
        if len(chunk) > 1:  # one bad image fails them all; the service cannot say which it is
            parts = []
            for image in chunk:
                parts.append((yield from self._ask(question, [image])))
            return [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        # TensorFlow refuses some damaged files that Pillow still reads. Decoded here, the image may
        # pass, and a file that nobody can read is named. Refused again, it is not the image.
        (image,) = chunk
        decoded = encode_png(image.source, name=image.name)
        content = requests.fitting(decoded, image.name, self._settings)
        return (yield from self._predict(question, [content]))

    def _predict(
        self, question: Question, contents: Sequence[requests.Content]
    ) -> Steps[list[np.ndarray]]:
        """One Predict call; the arrays have a row for each image."""
        request = requests.predict_request(question, contents, self._settings)
        response = yield from self._call(PREDICT, request)
        return requests.read_outputs(response, question, len(contents))

    def _call(self, method: Method, request: Message) -> Steps[Message]:
        return call(method, request, self._settings, next(self._turns))


def _encoded(source: ImageSource, name: str) -> bytes:
    return encode_for_graph(source, name=name)
