"""What the page shows, from the core; :mod:`keras_cls.server.page` tells its form."""

import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_cls.server.core import Core
from keras_cls.server.page import describe_signature
from keras_cls.server.rest import RestSettings
from keras_cls.version import __version__


def page_state(core: Core, rest: RestSettings, grpc_address: str) -> Callable[[], dict[str, Any]]:
    """What makes the state whenever the page asks for it."""
    started = time.monotonic()

    def state() -> dict[str, Any]:
        return {
            "ready": core.ready,
            "draining": core.draining,
            "version": __version__,
            "tensorflow": tf.__version__,
            "uptime_seconds": time.monotonic() - started,
            "max_request_bytes": rest.max_body_bytes,
            "metrics_path": rest.metrics_path,
            "grpc_address": grpc_address,
            "models": [_model(core, name) for name in core.registry.names()],
            "metrics": core.metrics.snapshot(),
        }

    return state


def _model(core: Core, name: str) -> dict[str, Any]:
    served = core.registry.served(name)
    return {
        "name": name,
        "labels": {
            label: str(version) for label, version in sorted(core.registry.labels(name).items())
        },
        "versions": [
            {
                "version": str(version),
                "state": status.state.name,
                "error": status.error.message if status.error else "",
                "signatures": [
                    describe_signature(signature)
                    for signature in served[version].model.signatures.values()
                ]
                if version in served
                else [],
            }
            for version, status in core.registry.all_statuses(name).items()
        ],
    }
