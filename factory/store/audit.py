"""The audit: who learned, drew, took away and erased whom, in rows that only grow, each with a hash over itself and the
row before it.

People are salted hashes of their ids: whoever has an id finds what was done with it, and an erased person's id is
nowhere. What a row tells beside that is covered by the hash of its own hash, so that it can be taken out when somebody
in it is erased, and the chain still holds. A chain shows that rows were changed, taken out or put in between, not that
the last ones were cut off or all of it was written anew: for that, keep the last digest elsewhere (`tip`).
"""

from __future__ import annotations

import hashlib
import json
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import lance
import pyarrow as pa

from factory.store.commits import open_to_write, retried
from factory.store.connection import storage_options
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from factory.store.tombstones import tombstone_digest
from factory.store.upkeep import after_commit
from factory.store.upserts import upsert

_FIRST: Final = "0" * 64  # what the first row follows
_HASHED: Final = ("number", "at", "actor", "action", "whom", "num", "salt", "detail_digest", "previous")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What somebody did."""

    at: float  # Unix time, s
    actor: str  # "key <key_id>", "command line", "anybody" where there are no keys
    action: str  # such as drew, learned, exported, erased; or a route
    whom: Sequence[str] = ()  # identity_ids
    num: int = 1  # pictures, identities, rows
    detail: Mapping[str, Any] = field(default_factory=dict)  # what else; with people's names only where asked for


def append(store: Store, deeds: Sequence[Deed]) -> None:
    """Writes deeds behind the last row, in one commit; after another writer's if that comes first. What they tell of
    somebody who was erased while they waited is taken out again."""
    if deeds:
        after_commit(retried(lambda: _append_once(store, deeds)), "audit")
    told = {who for deed in deeds if deed.detail for who in deed.whom}
    if told:  # an erasure buries first and looks at the audit last: it saw these rows, or its tombstones are seen here
        redact(store, [*filter(store.tombstones().hold, told)])


def note(store: Store, action: str, whom: Sequence[str] = (), num: int = 1, **detail: Any) -> None:
    """Writes down what a command did."""
    append(store, [Deed(at=time.time(), actor="command line", action=action, whom=whom, num=num, detail=detail)])


def _append_once(store: Store, deeds: Sequence[Deed]) -> lance.LanceDataset:
    dataset = open_to_write(store.uri("audit"), "audit", storage_options(store.root))
    num = dataset.count_rows()
    last = dataset.to_table(columns=["salt", "digest"], filter=f"number = {num - 1}").to_pylist() if num else []
    salt, previous = (last[0]["salt"], last[0]["digest"]) if last else (secrets.token_hex(16), _FIRST)
    rows = []
    for number, deed in enumerate(deeds, start=num):
        detail = json.dumps(dict(deed.detail), sort_keys=True, ensure_ascii=False) if deed.detail else None
        detail_salt = secrets.token_hex(16)
        row = {
            "number": number,
            "at": deed.at,
            "actor": deed.actor,
            "action": deed.action,
            "whom": sorted(tombstone_digest(salt, who) for who in deed.whom),
            "num": deed.num,
            "salt": salt,
            "detail": detail,
            "detail_salt": detail_salt,
            "detail_digest": _of_detail(detail_salt, detail),
            "previous": previous,
        }
        previous = row["digest"] = _of_row(row)
        rows.append(row)
    # a row of this number that somebody else commits meanwhile is a conflict: begun anew behind it
    return upsert(dataset, "audit", pa.Table.from_pylist(rows, SCHEMAS["audit"]))


def read_audit(store: Store, identity_ids: Collection[str] = ()) -> list[dict[str, Any]]:
    """The rows, oldest first; with identity_ids those that are about one of these."""
    rows = sorted(store.read("audit").to_pylist(), key=lambda row: row["number"])
    if not identity_ids:
        return rows
    return [row for row in rows if set(row["whom"]) & {tombstone_digest(row["salt"], who) for who in identity_ids}]


def faults_of(store: Store, tip: str | None = None) -> tuple[list[str], str]:
    """What is wrong with the chain, and the last row's digest, for `tip` later: then a row with that digest must be
    there, or the end was cut off, or all of it written anew."""
    faults, previous, digests = [], _FIRST, set()
    for number, row in enumerate(read_audit(store)):
        if row["number"] != number:
            faults.append(f"row {number} is missing; row {row['number']} follows")
            break
        if row["previous"] != previous:
            faults.append(f"row {number} does not follow the row before it")
        if row["digest"] != _of_row(row):
            faults.append(f"row {number} was changed")
        if row["detail_salt"] is not None and row["detail_digest"] != _of_detail(row["detail_salt"], row["detail"]):
            faults.append(f"what row {number} tells was changed")
        previous = row["digest"]
        digests.add(previous)
    if tip is not None and tip not in digests:
        faults.append("no row has the digest that was kept: the end was cut off, or all of it was written anew")
    return faults, previous


def redact(store: Store, identity_ids: Collection[str]) -> int:
    """Takes out what rows about these people tell; the rows and the chain stay. Returns how many."""
    rows = [row for row in read_audit(store, identity_ids) if row["detail_salt"] is not None] if identity_ids else []
    store.upsert("audit", [row | {"detail": None, "detail_salt": None} for row in rows])
    if rows:
        store.purge("audit", "FALSE")  # the versions before
    return len(rows)


def _of_detail(salt: str, detail: str | None) -> str:
    return hashlib.sha256(f"{salt}:{detail or ''}".encode()).hexdigest()


def _of_row(row: Mapping[str, Any]) -> str:
    text = json.dumps([row[name] for name in _HASHED], ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
