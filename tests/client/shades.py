"""Plain images for the test model, and what it is to say of them."""

import io
import socket
from contextlib import contextmanager

from PIL import Image
from serving_models import image_of

SHADES = [0, 128, 255]
NAMES = ["dark", "medium", "bright"]


def encoded(brightness, kind="PNG"):
    return saved(Image.fromarray(image_of(brightness)), kind)


def saved(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return buffer.getvalue()


def best(predictions):
    return [row[0].label for row in predictions]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def silent_address():
    """A server that accepts and never answers."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        yield f"127.0.0.1:{silent.getsockname()[1]}"
