"""The client for plain code: a call returns when its answer is there."""

import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

import grpc
import numpy as np

from keras_cls.client.addresses import parse_addresses
from keras_cls.client.channels import callables, open_channels
from keras_cls.client.conversation import Conversation
from keras_cls.client.retrying import Pause, Result, Send, Steps
from keras_cls.client.settings import Decode, Settings
from keras_cls.contract import Prediction
from keras_cls.contract.messages import Message
from keras_cls.errors import ConfigError
from keras_cls.images import ImageSource

if TYPE_CHECKING:
    from keras_cls.preprocessing import Preprocessing


class Client(AbstractContextManager["Client"]):
    """A connection to one model of a prediction service, or of several that have the same model.

    It may be used from several threads. The connection is made on the first call and mended by
    itself; :meth:`close` ends it. Calls are made one at a time; :class:`AsyncClient` has several
    in flight.

    Several addresses take turns, call by call; one that is unavailable is passed over, and the call
    made anew at the next. An address whose name stands for several hosts (``dns:///HOST:PORT``, or
    a plain ``HOST:PORT``) shares its calls out among them with gRPC's ``round_robin``.

    With ``decode="client"`` the images are decoded and resized here and sent as pixels, for servers
    that have less time than their clients. The resizing is that of the server's graph, but what is
    sent is rounded to whole grey levels: a pixel differs by 0.51 of a level at most. On 250 photos
    the probabilities of a ResNet-56 for 32 x 32 pixels then differ by 0.003 in the median and by
    0.15 at most, where it wavers between classes. That needs the classifier's own
    ``preprocessing``; nothing of it but the size can be asked of a server. Interpolation ``"box"``
    cannot be repeated here and is refused.
    """

    def __init__(
        self,
        address: str | Sequence[str] = "localhost:8500",
        model: str = "",
        *,
        version: int | None = None,
        timeout: float = 10.0,
        retries: int | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        images_per_call: int = 32,
        max_message_bytes: int = 16 << 20,
        decode: Decode = "server",
        preprocessing: "Preprocessing | None" = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            address: the gRPC service: ``HOST:PORT``, such as ``localhost:8500`` or
                ``[::1]:8500``; also ``dns:///HOST:PORT`` and ``unix:PATH``. Several that serve the
                same model: a list, or a string with commas between them.
            model: the name that the service knows the model by.
            version: a version of the model; by default the service's latest.
            timeout: seconds for each call, its retries included; there is always an end. A long
                list of images takes several calls.
            retries: how often, at most, a call is repeated while the service is unavailable: not
                there yet, restarting, or overloaded. None: until the timeout. Pauses grow from
                0.2 s, twice as long each time. Once round all addresses counts as one try.
            credentials: TLS, from ``grpc.ssl_channel_credentials``; without it, plain text.
            images_per_call: the most images in one call.
            max_message_bytes: the most bytes of images in one call.
            decode: ``"server"``: files go as they are; ``"client"``: see above.
            preprocessing: how the classifier wants its images, for ``decode="client"``. By default
                the plain :class:`keras_cls.Preprocessing` of the model's size.
            labels: the names of the classes in the model's order, such as ``Classifier.labels``.
                With ``decode="client"``, :meth:`classify` needs them.

        Raises:
            ConfigError: arguments that make no sense.
        """
        settings = Settings(
            parse_addresses(address),
            model,
            version,
            timeout,
            retries,
            credentials,
            images_per_call,
            max_message_bytes,
            decode,
            preprocessing,
            labels,
        )
        self.address = ",".join(settings.addresses)
        self.model = model
        self.version = version
        self._conversation = Conversation(settings)
        self._channels = open_channels(grpc, settings)
        self._calls = callables(self._channels)

    def classify(self, images: ImageSource | Iterable[ImageSource]) -> list[list[Prediction]]:
        """The best classes for each image, best first.

        Args:
            images: a path, encoded bytes, a PIL image or an array ``[H, W, C]`` of uint8, or any
                number of them. One image is answered like a list of one.

        Raises:
            ConfigError: the client is closed; or it decodes, and was not given fitting ``labels``
                or ``preprocessing``.
            ImageError: an image cannot be read, or is larger than ``max_message_bytes``.
            ServingError: the service refused, or could not be reached.
        """
        self._conversation.check_can_classify()
        prepare = self._carry_out(self._conversation.preparation())
        return [
            row
            for chunk in self._conversation.chunks(images, prepare)
            for row in self._carry_out(self._conversation.classify(chunk))
        ]

    def probabilities(self, images: ImageSource | Iterable[ImageSource]) -> np.ndarray:
        """The probability of every class for each image: float32 ``[N, C]``.

        Args:
            images: as for :meth:`classify`; one at least.

        Raises:
            ConfigError: there are no images, so the number of classes cannot be known; or as
                :meth:`classify`.
            ImageError: as :meth:`classify`.
            ServingError: as :meth:`classify`.
        """
        prepare = self._carry_out(self._conversation.preparation())
        return self._conversation.joined(
            [
                self._carry_out(self._conversation.probabilities(chunk))
                for chunk in self._conversation.chunks(images, prepare)
            ]
        )

    def status(self) -> dict[int, str]:
        """The state of each version of the model, such as ``{1: "END", 2: "AVAILABLE"}``.

        Of several addresses, it is one that answers.

        Raises:
            ConfigError: the client is closed.
            ServingError: the service does not know the model, or could not be reached.
        """
        return self._carry_out(self._conversation.status())

    def close(self) -> None:
        """End the connection."""
        for channel in self._channels:
            channel.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _carry_out(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    response = self._take(step)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            return end.value

    def _take(self, step: Send | Pause) -> Message | None:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        try:
            return self._calls[step.place, step.method](step.request, timeout=step.timeout)
        except ValueError as error:  # gRPC's way to say it
            raise ConfigError("the client is closed") from error
