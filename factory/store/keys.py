"""Keys of the endpoint: who may ask for what, as which tenant.

A key is `idf_<key_id>_<secret>`: the id is shown in lists, the secret is 256 random bits of which only a sha256 is
kept. No slow hash (argon2, scrypt): those make guessing a password dear, and nobody guesses 256 random bits, however
fast the hash is; it would cost each request as much as a picture's step.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal, get_args

from factory.files import operator_root, tenant_root
from factory.store.tables import Store

Scope = Literal["draw", "learn", "erase", "words", "admin"]
SCOPES: Final[tuple[Scope, ...]] = get_args(Scope)
PREFIX: Final = "idf"
_NO_DIGEST: Final = "0" * 64
_LONGEST: Final = 200  # characters of what is taken for a key


class KeyRefused(Exception):
    """What was given is no key that is good now."""


class ScopeLacking(Exception):
    """The key is good, but not for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """A row of the table `keys`, without its digest. None of a limit: there is none."""

    key_id: str  # 12 hex digits
    label: str  # for whoever reads the list
    tenant: str | None  # whose people it reaches; None: the operator's own
    scopes: list[Scope]
    created_at: float  # Unix time, s, as the next two
    expires_at: float | None
    revoked_at: float | None = None
    pictures_per_minute: int | None = None
    max_waiting: int | None = None  # pictures that are asked for and not answered
    identities_per_day: int | None = None

    def check_alive(self, now: float) -> None:
        """Raises KeyRefused once it is revoked or has expired."""
        if self.revoked_at is not None:
            raise KeyRefused("this key was revoked")
        if self.expires_at is not None and now >= self.expires_at:
            raise KeyRefused("this key has expired")

    def check_scope(self, any_of: Collection[Scope]) -> None:
        """Raises ScopeLacking unless it has one of these scopes."""
        if not set(any_of) & set(self.scopes):
            raise ScopeLacking(f"this key lacks the scope {' or '.join(sorted(any_of)) or 'for this route'}")


def create_key(
    store: Store,
    scopes: Collection[str],
    *,
    label: str = "",
    tenant: str | None = None,
    expires_at: float | None = None,
    pictures_per_minute: int | None = None,
    max_waiting: int | None = None,
    identities_per_day: int | None = None,
) -> tuple[str, Key]:
    """Makes a key: its text, which is nowhere kept, and its row. Raises ValueError for a tenant's root, a tenant whose
    name is none, and no scope."""
    _check_operators(store)
    tenant_root(store.root, tenant)
    if not scopes or set(scopes) - set(SCOPES):
        raise ValueError(f"a key needs scopes, of {', '.join(SCOPES)}")
    key = Key(
        key_id=secrets.token_hex(6),
        label=label,
        tenant=tenant,
        scopes=[scope for scope in SCOPES if scope in scopes],
        created_at=time.time(),
        expires_at=expires_at,
        pictures_per_minute=pictures_per_minute,
        max_waiting=max_waiting,
        identities_per_day=identities_per_day,
    )
    text = f"{PREFIX}_{key.key_id}_{secrets.token_urlsafe(32)}"
    store.upsert("keys", [{**asdict(key), "digest": _digest(text)}])
    return text, key


def list_keys(store: Store) -> list[Key]:
    """All keys, oldest first, also those that are good no more."""
    return sorted((key for key, _ in _read(store).values()), key=lambda key: key.created_at)


def revoke_key(store: Store, key_id: str) -> Key:
    """Ends a key; a server hears of it within a second. Raises LookupError."""
    _check_operators(store)
    if (found := _read(store).get(key_id)) is None:
        raise LookupError(f"{store.root} has no key {key_id!r}; `keys list` shows them")
    key, digest = found
    revoked = key if key.revoked_at is not None else replace(key, revoked_at=time.time())
    store.upsert("keys", [{**asdict(revoked), "digest": digest}])
    return revoked


class KeyRing:
    """The keys of a root as a server asks for them: read anew when the table has a new version, which is asked for at
    most every `ttl_s` seconds. Safe to use from several threads."""

    def __init__(self, root: str, *, ttl_s: float = 1.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.store = Store(root)
        self._ttl_s, self._clock = ttl_s, clock
        self._lock = threading.Lock()
        self._checked_at, self._version = float("-inf"), -1
        self._keys: dict[str, tuple[Key, str]] = {}

    def keys(self) -> list[Key]:
        """All keys. None at all: nobody has made one yet."""
        return [key for key, _ in self._fresh().values()]

    def of_id(self, key_id: str) -> Key | None:
        """A key by its public id, good or not; None: there is none."""
        return self._fresh().get(key_id, (None, ""))[0]

    def is_fresh(self) -> bool:
        """Whether the next question reads no table, and so holds up no event loop."""
        return self._clock() - self._checked_at < self._ttl_s

    def find(self, text: str, now: float) -> Key:
        """The key of this text, at this Unix time. Raises KeyRefused. However wrong it is, one comparison is made, and
        it takes as long as any."""
        keys = self._fresh()
        parts = text.split("_", 2) if len(text) <= _LONGEST else []
        key, digest = keys.get(parts[1] if len(parts) == 3 else "", (None, _NO_DIGEST))
        same = hmac.compare_digest(_digest(text[:_LONGEST]), digest)
        if key is None or not same:
            raise KeyRefused("there is no such key")
        key.check_alive(now)
        return key

    def _fresh(self) -> dict[str, tuple[Key, str]]:
        if self.is_fresh():
            return self._keys
        with self._lock:
            now = self._clock()
            if not self.is_fresh():  # nobody has asked meanwhile
                dataset = self.store.open("keys")
                version = 0 if dataset is None else int(dataset.version)
                if version != self._version:
                    self._keys = _read(self.store)
                self._version, self._checked_at = version, now
            return self._keys


def _read(store: Store) -> dict[str, tuple[Key, str]]:
    rows = store.read("keys").to_pylist()
    return {row["key_id"]: (Key(**{k: v for k, v in row.items() if k != "digest"}), row["digest"]) for row in rows}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _check_operators(store: Store) -> None:
    if operator_root(store.root) != store.root:
        raise ValueError(f"keys are the operator's: give --root {operator_root(store.root)}, and --tenant beside it")
