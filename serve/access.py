"""Who may ask for what: the gate before every route, and the tenants' rooms behind it.

A tenant's people lie in a root of their own (`tenant_root`), and its requests go to an app of its own that knows no
other root: no query can forget a condition, and nobody else's name can be in an answer. The gate knows routes by the
table `NEEDS`.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Final, TypeVar

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette._utils import get_route_path  # what Starlette's own routes match
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from factory.files import tenant_root
from factory.store.keys import PREFIX, Key, KeyRefused, KeyRing
from factory.store.queries import has_unfinished_work
from factory.store.tables import Store
from serve.hosts import hostname_of, hosts_of, is_loopback, origin_of
from serve.needs import ANY, MORE, NEEDS, PUBLIC
from serve.openai.errors import answer_error
from serve.openai.schemas import RequestRefused
from serve.quotas import QuotaExceeded, asking
from serve.settings import Keyless

Answer = TypeVar("Answer")
_MOST_INSIDE: Final = 256  # requests of a tenant that are being answered; an ingress has 1,000 places for all
_BUSY_S: Final = 1.0  # when to ask again beyond them
_PICTURE: Final = ("GET", "/v1/pictures/{file_id}")
_AROUND: Final = re.compile(r"^[^\w-]+|[^\w-]+$", re.ASCII)  # no part of a key
_HEADERS: Final = ("x-api-key", "api-key")  # of clients whose `authorization` is a proxy's, and of Azure's


class Rooms:
    """The apps of the tenants, each made when it is first asked for, on a root of its own."""

    def __init__(self, make: Callable[[str], FastAPI]) -> None:
        """`make` gives the app of a tenant."""
        self._make = make
        self._apps: dict[str, FastAPI] = {}
        self._lock = asyncio.Lock()
        self._open = AsyncExitStack()

    async def app(self, tenant: str) -> FastAPI:
        """A tenant's app, running. Another tenant's first request, which has to open its tables, holds up none that is
        open."""
        if (app := self._apps.get(tenant)) is not None:
            return app
        async with self._lock:
            if (app := self._apps.get(tenant)) is None:
                app = await asyncio.to_thread(self._make, tenant)
                await self._open.enter_async_context(app.router.lifespan_context(app))
                self._apps[tenant] = app
        return app

    async def close(self) -> None:
        """Ends all of them."""
        async with self._lock:
            self._apps.clear()
            await self._open.aclose()


class Gate:
    """The ASGI app that a server runs: lets in who has a key for what is asked, to the app of the key's tenant."""

    def __init__(
        self,
        app: FastAPI,
        ring: KeyRing,
        rooms: Rooms,
        *,
        keyless: Keyless,
        host: str = "localhost",
        origins: Sequence[str] = (),
    ) -> None:
        """`app` is the operator's own. `keyless` says who gets in while the root has no keys; with "loopback" requests
        must call this server by a name of this machine or by `host`, as a page elsewhere may have its own name lead
        here. Pages of `origins` may ask for anything, those of other sites may only read, which no browser lets them.
        """
        self._app, self._ring, self._rooms, self._keyless = app, ring, rooms, keyless
        self._origins = set(origins)
        self._names = {"localhost", host.strip("[]")}
        self._inside: Counter[str | None] = Counter()  # requests that are being answered, by tenant
        self._routes = [
            (path, route.path_regex, {"GET" if name == "HEAD" else name for name in route.methods or ()})
            for route in iter_route_contexts(app.routes)
            if (path := route.path) is not None
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(scope, receive, send)
        elif scope["type"] == "http":
            app: ASGIApp = self._app
            scope = self._without_slash(scope)
            try:
                key = await self._admit(Request(scope))
                tenant = None if key is None else key.tenant
                if tenant is not None:
                    if self._inside[tenant] >= _MOST_INSIDE:
                        raise QuotaExceeded(_BUSY_S)
                    app = await self._rooms.app(tenant)
            except Exception as error:  # noqa: BLE001 (told as every other error is)
                await (await answer_error(Request(scope), error))(scope, receive, send)
                return
            scope.setdefault("state", {}).update(key=key, origins=self._origins)
            served = asking.set(key)
            self._inside[tenant] += 1
            try:
                await app(scope, receive, send)
            finally:
                self._inside[tenant] -= 1
                asking.reset(served)
        else:  # a websocket: there is none here, and whoever asks for one is to be told
            await send({"type": "websocket.close", "code": 1000})

    async def _admit(self, request: Request) -> Key | None:
        """The key; None where none is needed. Raises KeyRefused, ScopeLacking, RequestRefused."""
        route = self._route(request.method, get_route_path(request.scope))  # not its URL's path, which "%3F" would end
        need = NEEDS.get(route) if route is not None else ANY  # an unknown path: 404, but not to everybody
        text = _given(request.headers)
        if need is PUBLIC:
            return None
        if not await self._told(self._ring.keys):
            self._check_keyless(request, shown=route == _PICTURE)
            return None
        if route == _PICTURE and (key_id := request.query_params.get("of")):
            key = await self._of_address(key_id)
        elif not text.startswith(PREFIX):
            came = f"what came is none of this server's, which begin with {PREFIX}_" if text else "none came"
            raise KeyRefused(f"this needs a key, and {came}: send the header `authorization: Bearer KEY`, plain")
        else:
            key = await self._told(partial(self._ring.find, text, time.time()))
        key.check_scope(need or ())
        for field, more in MORE.get(route, {}).items() if route is not None else ():
            if field in request.query_params:
                key.check_scope(more)
        return key

    async def _of_address(self, key_id: str) -> Key:
        """The key that asked for a picture at an address, which is a secret of its own (Shelf): whoever has it may
        fetch that picture, as a front end does that puts it into <img>. Raises KeyRefused once the key is over."""
        key = await self._told(partial(self._ring.of_id, key_id))
        if key is None:
            raise KeyRefused("there is no such key")
        key.check_alive(time.time())
        return key

    async def _told(self, question: Callable[[], Answer]) -> Answer:
        """Asked of the ring of keys; in a thread where it has to look into its table."""
        return question() if self._ring.is_fresh() else await asyncio.to_thread(question)

    def _check_keyless(self, request: Request, *, shown: bool) -> None:
        """`shown`: what is asked for may be shown by pages of other sites, as its address says nothing of anybody."""
        if self._keyless == "refuse":
            raise KeyRefused("this server has no keys yet; its operator makes one with `identity-factory keys create`")
        name = hostname_of(request.headers.get("host", ""))
        own = {f"{scheme}://{called}" for scheme in ("http", "https") for called in hosts_of(request.headers)}
        allowed = own | self._origins
        if request.method in ("GET", "HEAD"):
            # a page that shows a picture from here can read none, but sees whether there is one: who is known here
            site, mode = (request.headers.get(f"sec-fetch-{name}") for name in ("site", "mode"))
            page = request.headers.get("origin") or origin_of(request.headers.get("referer", ""))
            foreign = not shown and site in ("cross-site", "same-site") and mode != "navigate" and page not in allowed
        else:
            # a browser sends forms of any page anywhere, and a key is all that it would not send
            foreign = request.headers.get("origin") not in {None, *allowed}
        if foreign:
            message = (
                "pages of other sites may not ask this server for anything; `serve --cors ORIGIN` lets those of one"
            )
            raise RequestRefused(message, status=403)
        # only a program names no host at all: a browser always says which name led it here
        if "host" in request.headers and not (name in self._names or is_loopback(name) or self._keyless != "loopback"):
            remedy = "ask it as 127.0.0.1; for others to reach it, make a key: `identity-factory keys create`"
            raise RequestRefused(f"this server is not called {name[:100]!r}; {remedy}", status=403)

    def _route(self, method: str, path: str) -> tuple[str, str] | None:
        """The route that the app will take; of a path with other methods, the path alone is known."""
        method = "GET" if method == "HEAD" else method
        for template, pattern, methods in self._routes:
            if method in methods and pattern.match(path):
                return method, template
        return None

    def _without_slash(self, scope: Scope) -> Scope:
        """The same request without slashes at its end, and doubled ones, where only so it is a route: clients put paths
        behind addresses that end with one."""
        path = get_route_path(scope)
        plain = re.sub("//+", "/", path).rstrip("/")
        if plain == path or not plain or self._route(scope["method"], path) or not self._route(scope["method"], plain):
            return scope
        return {**scope, "path": scope.get("root_path", "") + plain}

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        resuming = asyncio.create_task(self._resume())
        try:
            await self._app(scope, receive, send)
        finally:
            resuming.cancel()
            with suppress(asyncio.CancelledError):
                await resuming
            await self._rooms.close()

    async def _resume(self) -> None:
        """Opens the rooms of tenants whose work a server before this one left."""
        keys = await asyncio.to_thread(self._ring.keys)
        for tenant in sorted({key.tenant for key in keys if key.tenant is not None}):
            store = Store(tenant_root(self._ring.store.root, tenant))
            if await asyncio.to_thread(has_unfinished_work, store):
                await self._rooms.app(tenant)


def _given(headers: Headers) -> str:
    """The key of a request: a header of its own, a bearer token, or the password of HTTP's basic scheme, as
    AUTOMATIC1111's clients send; empty if none came. Of several the one that looks like a key: the others may be a
    proxy's."""
    kind, _, rest = " ".join(headers.get("authorization", "").split()).partition(" ")
    own = {"bearer": rest, "basic": _password(rest)}.get(kind.lower(), "")
    given = [text for text in map(_bare, [*(headers.get(name, "") for name in _HEADERS), own]) if text]
    return next((text for text in given if text.startswith(PREFIX)), given[0] if given else "")


def _bare(text: str) -> str:
    """A key without what files and front ends leave around it: blanks, quotation marks, a second "Bearer"."""
    return _AROUND.sub("", _AROUND.sub("", text).removeprefix("Bearer "))


def _password(text: str) -> str:
    try:
        return base64.b64decode(text, validate=True).decode().partition(":")[2]
    except (binascii.Error, ValueError):
        return ""
