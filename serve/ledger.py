"""What requests did, for the audit of a root: handlers say whom it was about, a middleware writes it down.

Deeds are written a second later, all of them in one commit: one each would cost as much as a step of drawing. A server
that is killed loses those of its last second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any, Final

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from factory.store.audit import Deed, append
from factory.store.policy import read_policy
from factory.store.tables import Store

_EVERY_S: Final = 1.0
_MOST: Final = 10_000  # deeds that wait where the table cannot be written; beyond them the oldest are lost
_LOG: Final = logging.getLogger("ray.serve")


def tell(request: Request, action: str, whom: Sequence[str], num: int = 1, **detail: Any) -> None:
    """Says what a request did, to whom (identity_ids), how many times. `prompt` is kept only where the root says so."""
    request.scope.setdefault("state", {})["deed"] = {"action": action, "whom": whom, "num": num, "detail": detail}


def actor_of(scope: Scope) -> str:
    """Who asks, as the audit calls them."""
    key = scope.get("state", {}).get("key")
    return "anybody" if key is None else f"key {key.key_id}"


class Ledger:
    """The deeds of one server on one root. For one event loop."""

    def __init__(self, store: Store, *, every_s: float = _EVERY_S) -> None:
        self._store, self._every_s = store, every_s
        self._keeps_prompts = read_policy(store.root).audit_prompts
        self._waiting: list[Deed] = []
        self._writing: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()

    def note(self, actor: str, action: str, whom: Sequence[str] = (), num: int = 1, **detail: Any) -> None:
        """Takes a deed, to be written soon."""
        kept = {name: value for name, value in detail.items() if name != "prompt" or self._keeps_prompts}
        self._waiting.append(Deed(at=time.time(), actor=actor, action=action, whom=whom, num=num, detail=kept))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._soon())

    async def flush(self) -> None:
        """Writes what waits, now."""
        async with self._lock:
            deeds, self._waiting = self._waiting, []
            try:
                await asyncio.to_thread(append, self._store, deeds)
            except Exception:  # noqa: BLE001 (they are kept, and tried again with the next ones)
                self._waiting = (deeds + self._waiting)[-_MOST:]
                _LOG.exception("the audit could not be written; %d deeds wait", len(self._waiting))

    async def _soon(self) -> None:
        while self._waiting:
            await asyncio.sleep(self._every_s)
            await self.flush()


class LedgerMiddleware:
    """Notes every request that changed something, or that its handler told of."""

    def __init__(self, app: ASGIApp, ledger: Ledger) -> None:
        self._app, self._ledger = app, ledger

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        await self._app(scope, receive, send_on)
        deed: dict[str, Any] | None = scope.get("state", {}).get("deed")
        if status >= 400 or (deed is None and scope["method"] in ("GET", "HEAD", "OPTIONS")):
            return
        told = deed or {"action": f"{scope['method']} {getattr(scope.get('route'), 'path', '?')}", "detail": {}}
        detail = told.pop("detail")
        self._ledger.note(actor_of(scope), **told, **detail)
