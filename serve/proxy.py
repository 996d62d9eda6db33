"""How Ray Serve is set up here, and what its HTTP proxy runs before its own code.

It decodes some headers as UTF-8 and answers 500, in plain text, where one is none; so such a header is left out. It
listens before there is an application, and answers 404 then; the application answers for every path once it is there.

Serve's processes read ENVIRONMENT, which must be set where Ray is started.
"""

from __future__ import annotations

import os
from typing import Final

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.upgrades import ignore_unknown

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
_START_S: Final = 2  # after which a start is worth another look
_STARTING: Final = {
    "message": "the server is starting; try again in some seconds",
    "type": "server_error",
    "param": None,
    "code": "server_starting",
}


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


class NotYet:
    """Answers 503 where the proxy finds no application: its own answers are plain text, as none of an application's
    errors is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False

        async def pass_on(message: Message) -> None:
            nonlocal is_answered
            if message["type"] == "http.response.start" and message["status"] == 404:
                is_answered = Headers(raw=message["headers"]).get("content-type", "").startswith("text/plain")
                if is_answered:
                    headers = {"retry-after": str(_START_S), "x-should-retry": "true"}
                    await JSONResponse({"error": _STARTING}, status_code=503, headers=headers)(scope, receive, send)
            if not is_answered:
                await send(message)

        await self._app(scope, receive, pass_on)


def middlewares() -> list[Middleware]:
    """For Ray Serve's proxies, which ask for them before they listen; the last one is asked first."""
    ignore_unknown()
    return [Middleware(PlainHeaders), Middleware(NotYet)]


def _is_plain(name: bytes, value: bytes) -> bool:
    name = name.lower().replace(b"_", b"-")
    if name not in _DECODED and _SESSION not in name:
        return True
    try:
        return value.decode("utf-8").isprintable()
    except UnicodeDecodeError:
        return False
