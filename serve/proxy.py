"""How Ray Serve is set up here, and what its HTTP proxy runs before its own code. It decodes some headers as UTF-8 and
answers 500, in plain text, where one is none; so such a header is left out.

Serve's processes read ENVIRONMENT, which must be set where Ray is started.
"""

from __future__ import annotations

import os
from typing import Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

# Serve's controller looks after its replicas ten times a second otherwise, and takes 5 % of a core for it.
# A proxy whose event loop does not answer in time is replaced, at once when it starts, else the third time, and all
# connections with it. Ray's own limits, 5 and 10 s, are missed by one that only waits for a core on a busy machine.
ENVIRONMENT: Final = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "serve.proxy:middlewares",
    "RAY_SERVE_CONTROL_LOOP_INTERVAL_S": "0.5",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "30",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "30",
}
_DECODED: Final = (b"x-request-id", b"serve-multiplexed-model-id")  # and whatever names a session
_SESSION: Final = b"session-id"


def set_environment() -> None:
    """For the Ray that this process is to start; what the caller has set stays."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class PlainHeaders:
    """Leaves out headers that the proxy would stumble over."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "headers" in scope:
            scope["headers"] = [(name, value) for name, value in scope["headers"] if _is_plain(name, value)]
        await self._app(scope, receive, send)


def middlewares() -> list[Middleware]:
    """For Ray Serve's proxies; the last one is asked first."""
    return [Middleware(PlainHeaders)]


def _is_plain(name: bytes, value: bytes) -> bool:
    name = name.lower().replace(b"_", b"-")
    if name not in _DECODED and _SESSION not in name:
        return True
    try:
        return value.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False
