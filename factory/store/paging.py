"""Rows of a table newest first, a page at a time, without reading the table: what GET /v1/models lists.

Lance reads no index in its order, so an index on `created_at` alone does not give the newest rows; it gives those from
some time on. That time is taken from the rows that lie last in the table (or just before the page before), which were
mostly committed last: as many of them as a page has are at least as new as the oldest of these, so the page is among
all rows that are. Where a row was committed again later it costs time, never a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import lance
from lance.dataset import ColumnOrdering

from factory.errors import IdentityNotFound
from factory.store.sql import quoted, where_in

_LOOK_AT: Final = (4, 64)  # pages of rows that the time is taken from; the second only if the first are too few
_ADDRESS_BITS: Final = 32  # of a row's address: the fragment, then the row in it


def newest_first(
    dataset: lance.LanceDataset,
    key: str,
    columns: Sequence[str],
    limit: int,
    *,
    after: str | None = None,
    equal: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """At most `limit` rows, by `created_at` and then `key`, newest first: those with the `equal` values, from the one
    that follows the row with the key `after` on (IdentityNotFound if there is none)."""
    clauses = [where_in(column, [value]) for column, value in (equal or {}).items()]
    last, end = None, dataset.count_rows()
    if after is not None:
        found = dataset.to_table(columns=["created_at"], filter=where_in(key, [after]), with_row_id=True).to_pylist()
        if not found:
            raise IdentityNotFound(f"no {key} {after!r} to go on from")
        last, end = found[0]["created_at"], _place(dataset, found[0]["_rowid"]) + 1
        at = quoted(last)
        # concat: else the index on the key gives half of the table
        clauses += [f"created_at <= {at}", f"(created_at < {at} OR concat({key}, '') < {quoted(after)})"]
    oldest = _oldest_of_page(dataset, limit, end, last, equal or {})
    clauses += [] if oldest is None else [f"created_at >= {quoted(oldest)}"]
    order = [ColumnOrdering(name, ascending=False) for name in ("created_at", key)]
    where = " AND ".join(clauses) or None
    page = dataset.scanner(columns=list(columns), filter=where, order_by=order, limit=limit)
    rows: list[dict[str, Any]] = page.to_table().to_pylist()
    return rows


def _oldest_of_page(
    dataset: lance.LanceDataset, limit: int, end: int, last: str | None, equal: Mapping[str, str]
) -> str | None:
    """A time since which there is a page of rows for certain; None if the rows that were looked at are too few."""
    for pages in _LOOK_AT:
        places = list(range(max(0, end - pages * (limit + 1)), end))
        rows = dataset.take(places, columns=["created_at", *equal]).to_pylist()
        fit = [row["created_at"] for row in rows if all(row[name] == value for name, value in equal.items())]
        times = sorted((time for time in fit if last is None or time < last), reverse=True)
        if len(times) >= limit:
            return str(times[limit - 1])
    return None


def _place(dataset: lance.LanceDataset, row_id: int) -> int:
    """About how many rows lie before this one; deleted rows of its own fragment count."""
    own, place, num = row_id >> _ADDRESS_BITS, row_id & (2**_ADDRESS_BITS - 1), dataset.count_rows()
    before = 0
    for fragment in dataset.get_fragments():
        if fragment.fragment_id == own:
            return min(before + place, num - 1)
        before += fragment.count_rows()
    return num - 1
