"""The identities as the endpoint sees them: cached by the table's version, so that new ones appear by themselves."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

import lance

from factory.records import Identity
from factory.store.tables import Store
from serve.openai.schemas import ModelCard

_SHOWN = ["identity_id", "name", "pack", "created_at"]


class Catalog:
    """Looks identities up in a root's `identities` table. Safe to use from several threads.

    A found identity is kept until the table has a new version, which every look-up asks for (20 microseconds on a
    disk, one listing on s3://): who was replaced or erased is not found from that moment on. `ttl_s` above 0 asks
    less often.
    """

    def __init__(
        self,
        root: str,
        *,
        ttl_s: float = 0.0,
        max_entries: int = 4096,  # 8 KB each at D = 1024
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = Store(root)
        self._ttl_s = ttl_s
        self._max_entries = max_entries
        self._clock = clock
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._version = -1
        self._dataset: lance.LanceDataset | None = None
        self._found: OrderedDict[str, Identity] = OrderedDict()

    def find(self, name_or_id: str) -> Identity:
        """The identity with this id, else the newest with this name. Raises IdentityNotFound, naming near ones."""
        version = self._refresh()
        with self._lock:
            identity = self._found.get(name_or_id)
            if identity is not None:
                self._found.move_to_end(name_or_id)
                return identity
        identity = self._store.find_identity(name_or_id)
        with self._lock:
            if version == self._version:  # else what was read may be older than the cache
                self._found[name_or_id] = identity
                if len(self._found) > self._max_entries:
                    self._found.popitem(last=False)
        return identity

    def card(self, name_or_id: str) -> ModelCard:
        """An identity as a model. Raises IdentityNotFound."""
        found = self.find(name_or_id)
        own_name = bool(found.name) and self.find(found.name).identity_id == found.identity_id
        return _card(found.identity_id, found.name, found.pack, found.created_at, own_name=own_name)

    def cards(self, fingerprint: str, limit: int) -> list[ModelCard]:
        """The newest `limit` identities that work with this text encoder, newest first, without their words."""
        rows = self._store.read("identities", columns=[*_SHOWN, "fingerprint"]).to_pylist()
        rows.sort(key=lambda row: (row["created_at"], row["identity_id"]), reverse=True)
        owners: dict[str, str] = {}  # a name belongs to the newest identity that has it, as in find()
        for row in rows:
            owners.setdefault(row["name"], row["identity_id"])
        fitting = [row for row in rows if row["fingerprint"] == fingerprint]
        return [
            _card(**{name: row[name] for name in _SHOWN}, own_name=owners[row["name"]] == row["identity_id"])
            for row in fitting[:limit]
        ]

    def _refresh(self) -> int:
        with self._lock:
            now = self._clock()
            if now - self._checked_at >= self._ttl_s:
                if self._dataset is None:  # opening reads the newest manifest; asking for its number reads nothing
                    self._dataset = self._store.open("identities")
                version = 0 if self._dataset is None else int(self._dataset.latest_version)
                if version != self._version:
                    self._found.clear()
                self._version, self._checked_at = version, now
            return self._version


def _card(identity_id: str, name: str, pack: str, created_at: str, *, own_name: bool) -> ModelCard:
    """An identity as a model; `own_name`: asking for `name` gives this identity, not a newer one."""
    return ModelCard(
        id=name if name and "/" not in name and own_name else identity_id,
        created=int(datetime.fromisoformat(created_at).timestamp()),
        identity_id=identity_id,
        name=name,
        pack=pack,
    )
