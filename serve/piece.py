"""A piece of work that is answered before it is done, the kinds that there are, and the request that asks for a piece
once however often it comes."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeAlias

_LOG: Final = logging.getLogger("ray.serve")
Status = Literal["queued", "in_progress", "completed", "failed", "cancelled"]
UNDER_WAY: Final = ("queued", "in_progress")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A row of the table `work`."""

    work_id: str  # its kind, "_", 24 hex digits: random, or of its key, so that two servers make one row of one key
    kind: str
    status: Status
    request: str  # JSON: all that is needed to do it, here or elsewhere
    identity_id: str  # whom it is about; empty: nobody alone
    people: list[str]  # identity_ids of all whom it is about
    progress: float = 0.0  # 0..1
    result_id: str | None = None  # of the row that came of it
    error: str | None = None  # JSON, as it is told to whoever asks
    idempotency_key: str | None = None
    created_at: float  # Unix time, s, as the next three
    started_at: float | None = None
    finished_at: float | None = None
    beat_at: float  # when it was last seen to
    asked: str | None = None  # as Once.asked
    key_id: str | None = None  # of the endpoint's key that asked, whose limits it counts for

    @property
    def under_way(self) -> bool:
        """Whether it is still to be done, or being done."""
        return self.status in UNDER_WAY


OnProgress: TypeAlias = Callable[[float], None]  # 0..1
Do: TypeAlias = Callable[[Work, OnProgress], Awaitable[str]]  # gives the result's id


@dataclass(slots=True, kw_only=True)
class Kind:
    """A kind of work: how it is done, and how many pieces at once."""

    do: Do  # cancelled where nobody wants it any more
    undo: Callable[[Work], Awaitable[None]] | None = None  # what is left to do then, or where it failed
    sweep: Callable[[], Awaitable[None]] | None = None  # when a server begins: undoes what one that died did not
    at_once: int = 1
    max_waiting: int = 64  # pieces that are begun or wait, at all servers together; more are refused
    counts: bool = False  # one that is taken up again waits as a picture of its key's does
    room: asyncio.Semaphore = field(init=False)
    took_s: float = 0.0  # of the last piece

    def __post_init__(self) -> None:
        self.room = asyncio.Semaphore(self.at_once)


@dataclass(frozen=True, slots=True, kw_only=True)
class Once:
    """An Idempotency-Key, and what was asked for with it, as it came: not what became of it, which depends on who and
    what is there at that moment, and on seeds that are drawn."""

    key: str  # sha256 of the caller's, hex: whatever a caller writes, an id of ours
    asked: str  # sha256 of the request's fields, hex

    @classmethod
    def of(cls, key: str | None, asked: Mapping[str, Any]) -> Once | None:
        """None where no key was given, or an empty one."""
        if not key:
            return None
        text = json.dumps(asked, sort_keys=True, default=str)
        return cls(key=_sha256(key), asked=_sha256(text))

    @property
    def seed(self) -> int:
        """Of a request that names none, 0..2^52 - 1: at two servers at once the same."""
        return int(self.key[:13], 16)


async def sweep(kinds: Iterable[Kind]) -> None:
    """Undoes what servers left that died before they had done so."""
    for kind in kinds:
        if kind.sweep is not None:
            try:
                await kind.sweep()
            except Exception:  # noqa: BLE001 (whatever it is, the next server sweeps again, and this one's work goes on)
                _LOG.exception("what a server before this one left could not be put away")


async def until_over(task: asyncio.Task[None]) -> None:
    """Ends when the task has, however that ends, and even where whoever waits is cancelled."""
    try:
        await asyncio.wait([task])
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
