"""The identities as the endpoint sees them: cached by the table's version, so that new ones appear by themselves."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import lance

from factory.errors import IdentityNotFound
from factory.records import Identity
from factory.store.commits import retried
from factory.store.tables import Store
from factory.store.upkeep import warm

_SHOWN_CHARS = 100  # of a name that nobody has, in a message
_WARM_EVERY_S = 30.0  # a committed row is in an index some commits later; until then it is found without


class UnknownIdentity(LookupError):
    """Nobody has this name or id. The message is for callers: it tells neither the root nor anybody else's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """An identity in a list, without its words."""

    handle: str  # what to ask for: the name, or the identity_id where the name is not its own or no part of a URL
    identity_id: str
    name: str
    pack: str
    created_at: str  # ISO 8601, UTC


class Catalog:
    """Looks identities up in a root's `identities` table. Safe to use from several threads.

    A found identity is kept until the table has a new version, which every look-up asks for (20 microseconds on a
    disk, one listing on s3://): who was replaced or erased is not found from that moment on. `ttl_s` above 0 asks
    less often. No thread waits for another one's reading: the lock is held for the cache alone.
    """

    def __init__(
        self,
        root: str,
        *,
        ttl_s: float = 0.0,
        max_entries: int = 4096,  # 8 KB each at D = 1024
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store = Store(root)
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._version = -1
        self._asked = 0  # how often the table was asked for its version,
        self._answered = 0  # and the last of these whose answer counts: answers may overtake one another
        self._dataset: lance.LanceDataset | None = None
        self._found: OrderedDict[str, Identity] = OrderedDict()

    def find(self, name_or_id: str) -> Identity:
        """The identity with this id, else the newest with this name. Raises UnknownIdentity."""
        version = self._refresh()
        with self._lock:
            identity = self._found.get(name_or_id)
            if identity is not None:
                self._found.move_to_end(name_or_id)
                return identity
        try:
            identity = self.store.find_identity(name_or_id)
        except IdentityNotFound:
            shown = name_or_id if len(name_or_id) <= _SHOWN_CHARS else name_or_id[:_SHOWN_CHARS] + "..."
            raise UnknownIdentity(f"no identity {shown!r}; GET /v1/models lists those that there are") from None
        with self._lock:
            if version == self._version:  # else what was read may be older than the cache
                self._found[name_or_id] = identity
                if len(self._found) > self._max_entries:
                    self._found.popitem(last=False)
        return identity

    def check_consents(self, identity_ids: Iterable[str]) -> None:
        """Before what shows these people leaves. Raises ConsentExpired; of whom no identity is there none is over."""
        now = time.time()
        for an_id in identity_ids:
            with suppress(UnknownIdentity):
                self.find(an_id).check_consent(now)

    def listed(self, name_or_id: str) -> Listed:
        """One identity as in the list. Raises UnknownIdentity."""
        found = self.find(name_or_id)
        owns = bool(found.name) and self.find(found.name).identity_id == found.identity_id
        return _listed({name: getattr(found, name) for name in ("identity_id", "name", "pack", "created_at")}, owns)

    def page(self, fingerprint: str, limit: int, after: str | None = None) -> list[Listed]:
        """At most `limit` identities that work with this text encoder, newest first, from the one that follows `after`
        (a name or an id; UnknownIdentity) on."""
        last = None if after is None else self.find(after).identity_id
        rows = self.store.identity_page(limit, last, fingerprint)
        owners = self.store.name_owners([row["name"] for row in rows])
        return [_listed(row, owners[row["name"]] == row["identity_id"]) for row in rows]

    async def keep_warm(self) -> None:
        """Reads ahead what look-ups read of the table's indexes, now and whenever these are others, until cancelled."""
        version, known = 0, set[str]()
        while True:
            with suppress(OSError, ValueError, RuntimeError):  # it saves time, and is all the same without
                version, known = await asyncio.to_thread(retried, partial(self._warm, version, known))
            await asyncio.sleep(_WARM_EVERY_S)

    def _warm(self, version: int, known: set[str]) -> tuple[int, set[str]]:
        """The version that is warm now, and the segments of its indexes, given those of the last one."""
        if version and self._read_version() == version:
            return version, known
        dataset = self.store.open("identities")
        return (0, known) if dataset is None else (int(dataset.version), warm(dataset, "identities", known))

    def _refresh(self) -> int:
        """The version of the table, and an empty cache if it is a new one."""
        now = self._clock()
        with self._lock:
            if now - self._checked_at < self._ttl_s:
                return self._version
            self._asked += 1
            mine = self._asked
        version = self._read_version()
        with self._lock:
            if mine > self._answered:
                if version != self._version:
                    self._found.clear()
                self._version, self._checked_at, self._answered = version, now, mine
            return self._version

    def _read_version(self) -> int:
        if self._dataset is None:  # opening reads the newest manifest; asking for its number reads nothing
            self._dataset = self.store.open("identities")
        return 0 if self._dataset is None else int(self._dataset.latest_version)


def _listed(row: Mapping[str, Any], owns_name: bool) -> Listed:
    """`owns_name`: asking for its name gives this identity, not a newer one."""
    name = row["name"]
    fits_a_path = bool(name) and "/" not in name and name not in (".", "..")
    return Listed(
        handle=name if owns_name and fits_a_path else row["identity_id"],
        identity_id=row["identity_id"],
        name=name,
        pack=row["pack"],
        created_at=row["created_at"],
    )
