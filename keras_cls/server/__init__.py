"""An embedded server with TensorFlow Serving's API, gRPC and REST, on SavedModel folders.

Compared with the original it drains on SIGTERM, isolates a bad request from its batch, checks
shapes before they reach the graph, and tells the truth about readiness.
"""

from typing import TYPE_CHECKING

from keras_cls.lazy import lazy_names

if TYPE_CHECKING:
    from keras_cls.server.batching import BatchingOptions
    from keras_cls.server.lifecycle import ModelServer, ServerOptions, serve
    from keras_cls.server.manager import ManagerOptions
    from keras_cls.server.rest import RestSettings

_HOMES = {
    "BatchingOptions": "batching",
    "ManagerOptions": "manager",
    "ModelServer": "lifecycle",
    "RestSettings": "rest",
    "ServerOptions": "lifecycle",
    "serve": "lifecycle",
}

__all__ = [
    "BatchingOptions",
    "ManagerOptions",
    "ModelServer",
    "RestSettings",
    "ServerOptions",
    "serve",
]

__getattr__, __dir__ = lazy_names(__name__, globals(), _HOMES, lambda _: "serve")
