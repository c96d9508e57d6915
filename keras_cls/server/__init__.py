"""An embedded server with the gRPC API of TensorFlow Serving, on a SavedModel folder.

Compared with the original it drains on SIGTERM, isolates a bad request from its batch, checks
shapes before they reach the graph, and tells the truth about readiness.
"""

from keras_cls.server.batching import BatchingOptions
from keras_cls.server.lifecycle import ModelServer, serve

__all__ = ["BatchingOptions", "ModelServer", "serve"]
