"""The page at ``/``: what is served and how fast, and a place to drop a photo to be classified.

One file without anything from elsewhere. It asks for ``page/state.json`` every second, and sends
photos to the REST API of the same port, as any other client would. The state is::

    {
      "ready": bool,                    # every model that is to be served can be asked
      "draining": bool,                 # optional: the server is about to stop
      "version": "0.1.0",               # optional, as all that follows but models and metrics
      "tensorflow": "2.21.0",
      "uptime_seconds": 12.3,
      "max_request_bytes": int | None,  # of the body of a REST request
      "metrics_path": str | None,       # of the Prometheus text, where there is one
      "grpc_address": str | None,
      "models": [
        {
          "name": str,
          "labels": {"stable": "3"},
          "versions": [                 # oldest first
            {
              "version": "3",           # a string: JavaScript's numbers end at 2**53
              "state": "AVAILABLE",     # as in metrics.STATES
              "error": str,             # why it could not be loaded, else ""
              "signatures": [...]       # describe_signature() of each; [] if it is not loaded
            }
          ]
        }
      ],
      "metrics": Metrics.snapshot()
    }

Names and messages in it may hold anything: the page shows them as text.
"""

import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

from aiohttp import web

from keras_cls.contract.tensors import data_type_name
from keras_cls.server.signatures import Signature, TensorSpec

STATE_PATH = "/page/state.json"

_FILE = Path(__file__).parent / "page" / "index.html"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_to_json = partial(json.dumps, allow_nan=False, separators=(",", ":"))


def page_routes(state: Callable[[], Mapping[str, Any]]) -> list[web.RouteDef]:
    """The routes of the page and of its state.

    Args:
        state: makes the state that the module's description tells of; called on the event loop,
            about once a second for each page that is open.
    """

    async def show_page(_request: web.Request) -> web.Response:
        text, policy = _page()
        headers = {**_HEADERS, "Content-Security-Policy": policy, "Cache-Control": "no-cache"}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def show_state(_request: web.Request) -> web.Response:
        headers = {**_HEADERS, "Cache-Control": "no-store"}
        return web.json_response(state(), dumps=_to_json, headers=headers)

    return [web.get("/", show_page), web.get(STATE_PATH, show_state)]


def describe_signature(signature: Signature) -> dict[str, Any]:
    """A signature as the state tells it; a dimension that is not fixed, or a rank, is None."""
    return {
        "name": signature.name,
        "method": signature.method,
        "inputs": [_describe_tensor(name, spec) for name, spec in signature.inputs.items()],
        "outputs": [_describe_tensor(name, spec) for name, spec in signature.outputs.items()],
    }


def _describe_tensor(name: str, spec: TensorSpec) -> dict[str, Any]:
    shape = None if spec.shape is None else list(spec.shape)
    return {"name": name, "type": data_type_name(spec.data_type), "shape": shape}


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets nothing run but what is written in it."""
    text = _FILE.read_text(encoding="utf-8")
    hashes = {tag: _content_hash(content) for tag, content in _INLINE.findall(text)}
    policy = {
        "default-src": "'none'",
        "script-src": hashes["script"],
        "style-src": hashes["style"],
        "img-src": "blob: data:",  # the photo, and the page's icon
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    return text, "; ".join(f"{directive} {sources}" for directive, sources in policy.items())


def _content_hash(content: str) -> str:
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
