"""The client for asyncio: calls are awaited, and several are in flight."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import TYPE_CHECKING

import grpc
import numpy as np

from keras_cls.client.addresses import parse_addresses
from keras_cls.client.channels import callables, open_channels
from keras_cls.client.conversation import Conversation
from keras_cls.client.requests import Outgoing
from keras_cls.client.retrying import Method, Pause, Result, Send, Steps
from keras_cls.client.settings import Decode, Settings, check_whole
from keras_cls.contract import Prediction
from keras_cls.contract.messages import Message
from keras_cls.errors import ConfigError
from keras_cls.images import ImageSource

if TYPE_CHECKING:
    from keras_cls.preprocessing import Preprocessing


class AsyncClient(AbstractAsyncContextManager["AsyncClient"]):
    """:class:`Client` for asyncio, with several calls in flight.

    It belongs to the event loop of its first call. Images are read, and where need be decoded, in
    a thread, one call's images at a time. Who is cancelled cancels the calls that he waits for, at
    the server as well; the client can go on.
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
        concurrency: int = 4,
    ) -> None:
        """Nothing is sent yet; there need not be an event loop.

        Args:
            address: this and all others but the last are those of :class:`Client`.
            model: as there.
            version: as there.
            timeout: as there.
            retries: as there.
            credentials: as there.
            images_per_call: as there.
            max_message_bytes: as there.
            decode: as there.
            preprocessing: as there.
            labels: as there.
            concurrency: how many calls of one list of images are in flight at once.

        Raises:
            ConfigError: arguments that make no sense.
        """
        check_whole("concurrency", concurrency, 1)
        self._settings = Settings(
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
        self.address = ",".join(self._settings.addresses)
        self.model = model
        self.version = version
        self._concurrency = concurrency
        self._conversation = Conversation(self._settings)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._channels: list[grpc.aio.Channel] = []
        self._calls: dict[tuple[int, Method], grpc.aio.UnaryUnaryMultiCallable] = {}
        self._closed = False

    async def classify(self, images: ImageSource | Iterable[ImageSource]) -> list[list[Prediction]]:
        """The best classes for each image, best first; in the order of the images.

        Args:
            images: as for :meth:`Client.classify`. An iterator is advanced in a thread.

        Raises:
            ConfigError: as :meth:`Client.classify`; or this is another event loop than before.
            ImageError: as there.
            ServingError: as there.
        """
        self._conversation.check_can_classify()
        parts = await self._of_each_chunk(images, self._conversation.classify)
        return [row for part in parts for row in part]

    async def probabilities(self, images: ImageSource | Iterable[ImageSource]) -> np.ndarray:
        """The probability of every class for each image: float32 ``[N, C]``.

        Args:
            images: as for :meth:`classify`; one at least.

        Raises:
            ConfigError: as :meth:`Client.probabilities`; or this is another event loop than before.
            ImageError: as there.
            ServingError: as there.
        """
        parts = await self._of_each_chunk(images, self._conversation.probabilities)
        return self._conversation.joined(parts)

    async def status(self) -> dict[int, str]:
        """The state of each version of the model, such as ``{1: "END", 2: "AVAILABLE"}``.

        Raises:
            ConfigError: the client is closed; or this is another event loop than before.
            ServingError: the service does not know the model, or could not be reached.
        """
        return await self._carry_out(self._conversation.status())

    async def close(self) -> None:
        """End the connection; calls that are in flight end with ConfigError."""
        self._closed = True
        for channel in self._channels:
            await channel.close()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _of_each_chunk(
        self,
        images: ImageSource | Iterable[ImageSource],
        ask: Callable[[list[Outgoing]], Steps[Result]],
    ) -> list[Result]:
        """The answers for all chunks, in their order; the first failure ends all."""
        prepare = await self._carry_out(self._conversation.preparation())
        chunks = self._conversation.chunks(images, prepare)
        reading = asyncio.Lock()
        answers: list[Result | None] = []
        is_over = False

        async def work() -> None:
            nonlocal is_over
            while True:
                async with reading:
                    chunk = None if is_over else await asyncio.to_thread(next, chunks, None)
                    if chunk is None:
                        is_over = True
                        return
                    place = len(answers)
                    answers.append(None)
                answers[place] = await self._carry_out(ask(chunk))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            raise failed.exceptions[0] from failed.exceptions[0].__cause__
        return [answer for answer in answers if answer is not None]

    async def _carry_out(self, steps: Steps[Result]) -> Result:
        try:
            step = next(steps)
            while True:
                try:
                    response = await self._take(step)
                except grpc.RpcError as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(response)
        except StopIteration as end:
            return end.value

    async def _take(self, step: Send | Pause) -> Message | None:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        self._connect()
        call = self._calls[step.place, step.method](step.request, timeout=step.timeout)
        try:
            return await call
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._closed and task is not None and not task.cancelling():
                raise ConfigError("the client is closed") from None  # nobody cancelled the caller
            raise

    def _connect(self) -> None:
        """Make the channels, on the first call: they are bound to the event loop."""
        if self._closed:
            raise ConfigError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._channels = open_channels(grpc.aio, self._settings)
            self._calls = callables(self._channels)
        elif loop is not self._loop:
            raise ConfigError(
                "an AsyncClient belongs to the event loop of its first call; make one for this loop"
            )
