"""The door of the endpoint's ASGI app."""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.openai.errors import answer_error
from serve.stopping import Door, Stopping


class DoorMiddleware:
    """Counts the requests that are inside, and answers 503 once the door is closed."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the app's own start and end
            await self._app(scope, receive, send)
            return
        if self._door.closed:
            response = await answer_error(Request(scope), Stopping())
            await response(scope, receive, send)
            return
        self._door.num_inside += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._door.num_inside -= 1
