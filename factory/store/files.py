"""Files that the endpoint keeps for a time: pictures at an address."""

from __future__ import annotations

from typing import Any

from factory.store.sql import where_in
from factory.store.tables import Store


def find_file(store: Store, file_id: str, now: float) -> dict[str, Any] | None:
    """A file that has not expired at this time, Unix s; None if there is none."""
    rows = store.read("files", where=f"{where_in('file_id', [file_id])} AND expires_at > {now}").to_pylist()
    return rows[0] if rows else None


def drop_expired(store: Store, now: float, most: int) -> int:
    """Deletes what has expired, and the oldest beyond so many, with their bytes; returns how many files."""
    rows = store.read("files", columns=["file_id", "created_at", "expires_at"]).to_pylist()
    newest_first = sorted(rows, key=lambda row: -row["created_at"])
    alive = {row["file_id"] for row in [row for row in newest_first if row["expires_at"] > now][:most]}
    gone = [row["file_id"] for row in rows if row["file_id"] not in alive]
    return store.purge("files", where_in("file_id", gone)) if gone else 0
