"""Files that the endpoint keeps for a time: pictures at an address, requests of batches."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from typing import Any, Final

from factory.prompts import people_in
from factory.store.schemas import SCHEMAS
from factory.store.sql import where_in
from factory.store.tables import Store

PICTURE: Final = "picture"
BATCH: Final = "batch"
_CARD: Final = [name for name in SCHEMAS["files"].names if name != "content"]


def find_file(
    store: Store, file_id: str, now: float, purpose: str = PICTURE, *, content: bool = True
) -> dict[str, Any] | None:
    """A file of this purpose that has not expired at this time, Unix s; None if there is none."""
    where = f"{where_in('file_id', [file_id])} AND {where_in('purpose', [purpose])} AND expires_at > {now}"
    rows = store.read("files", columns=None if content else _CARD, where=where).to_pylist()
    return rows[0] if rows else None


def files_for(store: Store, purpose: str, now: float) -> list[dict[str, Any]]:
    """Files of this purpose that have not expired at this time, Unix s, without their content."""
    where = f"{where_in('purpose', [purpose])} AND expires_at > {now}"
    return store.read("files", columns=_CARD, where=where).to_pylist()


def drop_expired(store: Store, now: float, most: int | None = None) -> int:
    """Deletes what has expired, and the oldest pictures beyond so many, with their bytes; returns how many files."""
    rows = store.read("files", columns=["file_id", "purpose", "created_at", "expires_at"]).to_pylist()
    gone = [row["file_id"] for row in rows if row["expires_at"] <= now]
    pictures = [row for row in rows if row["purpose"] == PICTURE and row["expires_at"] > now]
    if most is not None:
        newest_first = sorted(pictures, key=lambda row: -row["created_at"])
        gone += [row["file_id"] for row in newest_first[most:]]
    return store.purge("files", where_in("file_id", gone)) if gone else 0


def drop_requests(store: Store, identity_ids: Collection[str], names: Collection[str]) -> int:
    """Takes the requests that name somebody, by id or name, out of the files of batches; returns how many. Their lines
    stay, empty, so that all others keep their numbers. The bytes are gone with the next `Store.purge`."""
    num = 0
    for file_id in [row["file_id"] for row in files_for(store, BATCH, 0.0)]:
        rows = store.read("files", where=where_in("file_id", [file_id])).to_pylist()  # one at a time: they may be large
        for row in rows:
            lines = row["content"].split(b"\n")
            kept = [b"" if _is_about(line, identity_ids, names) else line for line in lines]
            if dropped := sum(new != old for new, old in zip(kept, lines, strict=True)):
                content = b"\n".join(kept)
                store.upsert("files", [{**row, "content": content, "num_bytes": len(content)}])
                num += dropped
    return num


def _is_about(line: bytes, identity_ids: Collection[str], names: Collection[str]) -> bool:
    if any(an_id.encode() in line for an_id in identity_ids):
        return True
    try:
        request = json.loads(line) if line.strip() else None
    except (ValueError, RecursionError):
        return False
    return any(text in names or not set(people_in(text)).isdisjoint(names) for text in _texts(request))


def _texts(value: Any) -> Iterable[str]:
    """Every text in a JSON value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)
