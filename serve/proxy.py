"""What Ray Serve's HTTP proxy runs before its own code. It decodes some headers as UTF-8 and answers 500, in plain
text, where one is none; so such a header is left out.

The proxy finds this by an environment variable (PROXY_CALLBACK), which must be set where Ray is started.
"""

from __future__ import annotations

from typing import Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

PROXY_CALLBACK: Final = ("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "serve.proxy:middlewares")
_DECODED: Final = (b"x-request-id", b"serve-multiplexed-model-id")  # and whatever names a session
_SESSION: Final = b"session-id"


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
