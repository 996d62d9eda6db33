"""Rows of a table in the order of their coming, a page at a time, without reading the table: what lists of people,
pictures and work show.

Lance reads no index in its order, so an index on `created_at` alone does not give the newest rows; it gives those from
some time on. That time is taken from the rows that lie last in the table (or just before the page before), which were
mostly committed last: as many of them as a page has are at least as new as the oldest of these, so the page is among
all rows that are. Oldest first it is the same from the other end. Where a row was committed again later it costs time,
never a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final

import lance
from lance.dataset import ColumnOrdering

from factory.store.sql import quoted, where_in

_LOOK_AT: Final = (4, 64)  # pages of rows that the time is taken from; the second only if the first are too few
_MANY: Final = 4096  # rows that are read for a page without looking for a nearer time
_ENDS: Final = 16  # files at whose ends that is looked for: so many of the last ones, and so many in all of the table
_MOST: Final = 1000  # rows of a page; a longer one reads the column
_ADDRESS_BITS: Final = 32  # of a row's address: the fragment, then the row in it


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """The row that a page follows."""

    time: str | float  # its created_at
    key: str
    row_id: int | None = None  # None: it is not known where it lies


def cursor(dataset: lance.LanceDataset, key: str, an_id: str) -> Cursor | None:
    """Of the row with this key; None if there is none."""
    found = dataset.to_table(columns=["created_at"], filter=where_in(key, [an_id]), with_row_id=True).to_pylist()
    return Cursor(time=found[0]["created_at"], key=an_id, row_id=found[0]["_rowid"]) if found else None


def page_behind(
    dataset: lance.LanceDataset,
    key: str,
    columns: Sequence[str],
    limit: int,
    after: str | None,
    equal: Mapping[str, str],
) -> list[dict[str, Any]]:
    """As `page`, newest first, behind the row with the key `after`. Raises LookupError if there is none."""
    last = None if after is None else cursor(dataset, key, after)
    if after is not None and last is None:
        raise LookupError(f"no {key.removesuffix('_id')} {after[:100]!r} to go on from")
    return page(dataset, key, columns, limit, after=last, equal=equal)


def page(
    dataset: lance.LanceDataset,
    key: str,
    columns: Sequence[str],
    limit: int,
    *,
    after: Cursor | None = None,
    equal: Mapping[str, str] | None = None,
    newest_first: bool = True,
) -> list[dict[str, Any]]:
    """At most `limit` rows, by `created_at` and then `key`: those with the `equal` values, from the one that follows
    `after` on."""
    clauses = [where_in(column, [value]) for column, value in (equal or {}).items()]
    before, since = ("<", ">=") if newest_first else (">", "<=")
    if after is not None:
        at = _literal(after.time)
        # concat: else the index on the key gives half of the table
        later = f"created_at {before} {at} OR (created_at = {at} AND concat({key}, '') {before} {quoted(after.key)})"
        clauses += [f"created_at {before}= {at}", f"({later})"]
    bound = _bound_of_page(dataset, limit, after, equal or {}, newest_first)
    clauses += [] if bound is None else [f"created_at {since} {_literal(bound)}"]
    order = [ColumnOrdering(name, ascending=not newest_first) for name in ("created_at", key)]
    where = " AND ".join(clauses) or None
    rows = dataset.scanner(columns=list(columns), filter=where, order_by=order, limit=limit).to_table()
    return list(rows.to_pylist())


def _bound_of_page(
    dataset: lance.LanceDataset, limit: int, after: Cursor | None, equal: Mapping[str, str], newest_first: bool
) -> Any:
    """A time since (oldest first: until) which there is a page of rows for certain; None if the rows that were looked
    at are too few."""
    num = dataset.count_rows()
    last = None if after is None else after.time
    if after is not None or not newest_first:
        place = -1 if after is None else _place(dataset, after, num)
        return _bound_near(dataset, place, limit, last, equal, newest_first)
    bound = _bound_near(dataset, num, limit, None, equal, newest_first)
    if num > _MANY and (bound is None or dataset.count_rows(filter=f"created_at >= {_literal(bound)}") > _MANY):
        nearer = _bound_near(dataset, _newest_end(dataset), limit, None, equal, newest_first)
        bound = max((one for one in (bound, nearer) if one is not None), default=None)
    return bound


def _bound_near(
    dataset: lance.LanceDataset,
    place: int,
    limit: int,
    last: str | float | None,
    equal: Mapping[str, str],
    newest_first: bool,
) -> Any:
    """As `_bound_of_page`, from the rows before (oldest first: behind) a place; `last` is the time that the page
    follows."""
    num = dataset.count_rows()
    for pages in _LOOK_AT if limit <= _MOST else ():
        some = pages * (limit + 1)
        places = range(max(0, place + 1 - some), place) if newest_first else range(place + 1, min(num, place + some))
        rows = dataset.take(list(places), columns=["created_at", *equal]).to_pylist() if places else []
        fit = [row["created_at"] for row in rows if all(row[name] == value for name, value in equal.items())]
        times = sorted(
            (time for time in fit if last is None or (time < last if newest_first else time > last)),
            reverse=newest_first,
        )
        if len(times) >= limit:
            return times[limit - 1]
    return None


def _newest_end(dataset: lance.LanceDataset) -> int:
    """How many rows lie up to the end of the file whose last row is the newest, of those that are looked at."""
    ends = list(accumulate(fragment.count_rows() for fragment in dataset.get_fragments()))
    some = sorted({*ends[:: -(-len(ends) // _ENDS)], *ends[-_ENDS:]} - {0})
    times = dataset.take([end - 1 for end in some], columns=["created_at"])["created_at"].to_pylist()
    return max(zip(times, some, strict=True))[1]


def _place(dataset: lance.LanceDataset, after: Cursor, num: int) -> int:
    """About how many rows lie before this one; deleted rows of its own fragment count. It may be off by some."""
    if after.row_id is None:
        return num - 1
    own, place = after.row_id >> _ADDRESS_BITS, after.row_id & (2**_ADDRESS_BITS - 1)
    before = 0
    for fragment in dataset.get_fragments():
        if fragment.fragment_id == own:
            return min(before + place, num - 1)
        before += fragment.count_rows()
    return num - 1


def _literal(value: str | float) -> str:
    return quoted(value) if isinstance(value, str) else repr(float(value))
