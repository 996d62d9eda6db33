"""How much a key may ask for: pictures a minute, pictures that wait, identities a day.

What is no picture costs as much as the pictures that could be drawn meanwhile: a frame of a clip is one, an update of a
head is one (`head_pictures`). What costs more than a minute's share is taken in, and paid off in the minutes after it.

One counter for all ingress replicas, an actor of Ray's: each of them asks it before anything is drawn or learned. Keys
without limits ask nobody. What is under way is held by a lease that lapses, as a replica may be lost.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, Final, Literal

from limits import RateLimitItem, RateLimitItemPerDay, RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import MovingWindowRateLimiter

from factory.config import SculptConfig
from factory.store.keys import Key

# Whose request the running task serves: set by the gate, and taken over by every task that is begun for it.
asking: Final[ContextVar[Key | None]] = ContextVar("asking", default=None)
What = Literal["picture", "identity"]
_WINDOWS: Final[dict[What, type[RateLimitItem]]] = {"picture": RateLimitItemPerMinute, "identity": RateLimitItemPerDay}
_BUSY_S: Final = 2.0  # when to ask again where too much is under way
_WORK_S: Final = 3600.0  # a lease of work that is answered later
# Pictures that an update of a head is worth. On a CPU core: 0.33 s an update, by ISM 0.75 s; 0.25 s a picture
# (docs/results/heads.md, README; studio).
_UPDATE_PICTURES: Final = {"reconstruction": 1, "ism": 3}
Ask = Callable[..., Awaitable[Any]]  # a method of Counts by its name, and its arguments


def head_pictures(config: SculptConfig) -> int:
    """What a head costs, in pictures: 240 with the defaults."""
    return config.num_iterations * _UPDATE_PICTURES[config.objective]


class QueueFull(Exception):
    """Too many pictures are waiting; try again after `retry_after_s` seconds."""

    def __init__(self, retry_after_s: float) -> None:
        super().__init__(retry_after_s)  # as it came, so that it survives pickling between replicas
        self.retry_after_s = retry_after_s

    def __str__(self) -> str:
        return f"too many pictures are waiting; try again in {self.retry_after_s:.1f} s"


class QuotaExceeded(QueueFull):
    """The key's share is used up; try again after `retry_after_s` seconds."""

    def __str__(self) -> str:
        return f"this key's limit is reached; try again in {self.retry_after_s:.0f} s"


class BeyondQuota(ValueError):
    """So much at once this key may never have: waiting does not help. `param` is the field that asks for it."""

    def __init__(self, message: str, param: str = "n") -> None:
        super().__init__(message, param)  # both in args, so that it survives pickling between processes
        self.message, self.param = message, param

    def __str__(self) -> str:
        return self.message


class Counts:
    """What keys have used. For one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rates = MovingWindowRateLimiter(MemoryStorage())
        self._leases: dict[str, dict[int, tuple[int, float]]] = defaultdict(dict)  # by key: pictures, until when
        self._owed: dict[str, float] = {}  # by key: until when nothing is granted
        self._next = 0

    def spend(self, key_id: str, what: What, limit: int, num: int) -> float:
        """Takes `num` of what a window allows: 0, or the seconds until there may be as much again.

        Pictures that are more than a whole window (a head) take all of it, and nothing is granted for as many windows
        as they are.
        """
        window = _WINDOWS[what](limit)
        cost, now = (min(num, limit) if what == "picture" else num), self._clock()
        if what == "picture" and (owed_s := self._owed.get(key_id, now) - now) > 0:
            return max(owed_s, 1.0)
        if self._rates.hit(window, key_id, what, cost=cost):
            if num > cost:
                self._owed[key_id] = now + window.get_expiry() * num / limit
            return 0.0
        reset = self._rates.get_window_stats(window, key_id, what).reset_time
        return max(reset - time.time(), 1.0)

    def enter(self, key_id: str, limit: float, num: int, lasts_s: float) -> int | None:
        """A lease for `num` pictures that are under way; None if they would be more than `limit`."""
        now, held = self._clock(), self._leases[key_id]
        for lease in [lease for lease, (_, until) in held.items() if until <= now]:
            del held[lease]
        if sum(pictures for pictures, _ in held.values()) + num > limit:
            return None
        self._next += 1
        held[self._next] = (num, now + lasts_s)
        return self._next

    def leave(self, key_id: str, lease: int) -> None:
        """Gives a lease back."""
        self._leases[key_id].pop(lease, None)


class Quotas:
    """Asked before a request is drawn or learned, whatever route it came by."""

    def __init__(self, ask: Ask, *, lasts_s: float, tenants_share: int | None = None) -> None:
        """`ask` calls Counts, wherever it is; a lease lasts `lasts_s` at most. `tenants_share`: pictures under way of a
        tenant's key that says nothing of it, so that one tenant cannot fill the queue for all."""
        self._ask, self._lasts_s, self._tenants_share = ask, lasts_s, tenants_share

    @asynccontextmanager
    async def pictures(self, num: int, *, patient: bool = False) -> AsyncIterator[None]:
        """While `num` pictures are drawn. Raises QuotaExceeded; patient ones, of a batch, wait until there may be more,
        and count as none that wait."""
        async with self._under_way(0 if patient else num, self._lasts_s):
            while True:
                try:
                    await self._pay(num)
                    break
                except QuotaExceeded as full:
                    if not patient:
                        raise
                    await asyncio.sleep(full.retry_after_s)
            yield

    @asynccontextmanager
    async def piece(self, pictures: int) -> AsyncIterator[None]:
        """While one thing is made that costs as much as so many pictures, and waits as one. Raises QuotaExceeded.

        Of what takes hours the lease lapses before: it counts as none that waits then.
        """
        async with self._under_way(1, _WORK_S):
            await self._pay(pictures)
            yield

    @asynccontextmanager
    async def piece_again(self) -> AsyncIterator[None]:
        """The same of what was paid and taken in before a restart: it is not refused, and waits as one."""
        async with self._under_way(1, _WORK_S, taken_in=True):
            yield

    async def identities(self, num: int = 1) -> None:
        """Before `num` identities are learned. Raises QuotaExceeded."""
        key = asking.get()
        if key is not None and key.identities_per_day is not None:
            if num > key.identities_per_day:
                text = f"{num} people at once: this key may learn {key.identities_per_day} a day; choose one by `face`"
                raise BeyondQuota(text, "all")
            await self._spend(key, "identity", key.identities_per_day, num)

    @asynccontextmanager
    async def _under_way(self, num: int, lasts_s: float, *, taken_in: bool = False) -> AsyncIterator[None]:
        """Holds a lease for as many, where the key is told how many may wait; of what is taken in already, also beyond
        that."""
        key = asking.get()
        most = None if key is None else key.max_waiting or (self._tenants_share if key.tenant is not None else None)
        if key is None or most is None or not num:
            yield
            return
        # a tenant's keys share what they were not given each
        who = key.key_id if key.max_waiting is not None else f"tenant {key.tenant}"
        if num > most and not taken_in:
            raise BeyondQuota(f"{num} pictures at once: this key may have {most} waiting; ask for fewer")
        lease = await self._ask("enter", who, math.inf if taken_in else most, num, lasts_s)
        if lease is None:
            raise QuotaExceeded(_BUSY_S)
        try:
            yield
        finally:
            await self._ask("leave", who, lease)

    async def _pay(self, pictures: int) -> None:
        key = asking.get()
        if key is not None and key.pictures_per_minute is not None:
            await self._spend(key, "picture", key.pictures_per_minute, pictures)

    async def _spend(self, key: Key, what: What, limit: int, num: int) -> None:
        if wait_s := await self._ask("spend", key.key_id, what, limit, num):
            raise QuotaExceeded(wait_s)


def counted_here() -> Ask:
    """An `ask` that counts in this process."""
    counts = Counts()

    async def ask(method: str, *args: Any) -> Any:
        return getattr(counts, method)(*args)

    return ask
