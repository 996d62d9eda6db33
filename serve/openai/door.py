"""The door of the endpoint's ASGI app, and what is alike in all its answers."""

from __future__ import annotations

from fastapi.routing import iter_route_contexts
from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.held import Held
from serve.openai.body import HELD
from serve.openai.errors import answer_error
from serve.stopping import Door, Stopping


class DoorMiddleware:
    """Counts the requests that are inside, and answers 503 once the door is closed. An app holds half of what all apps
    behind the door may hold of bodies: it is one tenant's."""

    def __init__(self, app: ASGIApp, door: Door) -> None:
        self._app = app
        self._door = door
        self._held = Held(door.held.most // 2, door.held)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the app's own start and end
            await self._app(scope, receive, send)
            return
        if self._door.closed:
            response = await answer_error(Request(scope), Stopping())
            await response(scope, receive, send)
            return
        self._door.num_inside += 1
        held = scope[HELD] = Held(whole=self._held)  # until it is answered: what was read of it is kept so long
        try:
            await self._app(scope, receive, send)
        finally:
            held.give(held.num)
            self._door.num_inside -= 1


def _methods(scope: Scope) -> list[str]:
    """What a path may be asked for, by all routes that there are of it; Starlette tells those of the first alone."""
    path, found = get_route_path(scope), set[str]()
    for route in iter_route_contexts(scope["app"].routes):
        if route.path_regex.match(path):
            found |= set(route.methods or ())
    return sorted(found | ({"HEAD"} if "GET" in found else set()))


class PlainMiddleware:
    """Answers HEAD as GET, without the body; and what says nothing of caches may be kept by none, as it may be about
    people who are erased or whose consent ends."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headed = scope["method"] == "HEAD"

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.setdefault("cache-control", "no-store")
                if message["status"] == 405:
                    headers["allow"] = ", ".join(_methods(scope))
            elif headed:
                message = {**message, "body": b""}
            await send(message)

        await self._app({**scope, "method": "GET"} if headed else scope, receive, send_on)
