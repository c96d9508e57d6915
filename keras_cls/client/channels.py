"""How gRPC connects to the services."""

import json
from typing import Any

from keras_cls.client.retrying import METHODS, Method
from keras_cls.client.settings import Settings

_UNLIMITED = (1 << 31) - 1

CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", _UNLIMITED),
    ("grpc.max_receive_message_length", _UNLIMITED),
    # Retries are ours; let a lost connection be tried again as soon as they come.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    # Its name deceives: it is how long one attempt to connect may take.
    ("grpc.min_reconnect_backoff_ms", 1000),
    # A name may stand for several hosts, as a headless service of Kubernetes does.
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
]


def open_channels(library: Any, settings: Settings) -> list[Any]:
    """A channel to each address; nothing is connected yet.

    Args:
        library: ``grpc``, or ``grpc.aio`` for the event loop that runs.
        settings: the addresses and the credentials.
    """
    credentials = settings.credentials
    if credentials is None:
        return [library.insecure_channel(each, CHANNEL_OPTIONS) for each in settings.addresses]
    return [
        library.secure_channel(each, credentials, CHANNEL_OPTIONS) for each in settings.addresses
    ]


def callables(channels: list[Any]) -> dict[tuple[int, Method], Any]:
    """What calls a method by one of the channels, by the channel's place and the method."""
    return {
        (place, method): channel.unary_unary(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        for place, channel in enumerate(channels)
        for method in METHODS
    }
