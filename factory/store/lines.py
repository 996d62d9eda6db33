"""Finished lines of batches: a row each, from which output and error files are put together when they are read."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, Final

from factory.store.sql import where_in
from factory.store.tables import Store

EXPIRED: Final = 0  # status of a line that was not begun in time
_AT_ONCE: Final = 2**24  # bytes of lines that are read together


@dataclass(slots=True)
class LineCounts:
    """Of one batch. A line with an error has failed."""

    completed: int = 0
    failed: int = 0
    expired: int = 0  # of those that failed
    output_bytes: int = 0  # of the output file; 0: there is none
    error_bytes: int = 0
    num_tokens: int = 0  # of prompts, that were read


def as_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of OpenAI's output or error file."""
    name = f"{row['batch_id']}_{row['line']}"
    head = {"id": f"batch_req_{name.removeprefix('batch_')}", "custom_id": row["custom_id"]}
    if row["status"] == EXPIRED:
        return _json({**head, "response": None, "error": json.loads(row["error"])}) + b"\n"
    body = row["answer"] if row["error"] is None else _json({"error": json.loads(row["error"])})
    response = _json({"status_code": row["status"], "request_id": f"req_{name}"})
    return b'%s, "response": %s, "body": %s}, "error": null}\n' % (_json(head)[:-1], response[:-1], body)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def write_lines(store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keeps finished lines in one commit; those of erased people are left out."""
    store.upsert("lines", [{**row, "num_bytes": len(as_line(row))} for row in rows])


def finished_lines(store: Store, batch_id: str) -> set[int]:
    """Numbers of the lines that need not be done again."""
    return set(store.read("lines", columns=["line"], where=where_in("batch_id", [batch_id]))["line"].to_pylist())


def count_lines(store: Store, batch_ids: Sequence[str]) -> dict[str, LineCounts]:
    """How far these batches are."""
    counts: dict[str, LineCounts] = defaultdict(LineCounts)
    columns = ["batch_id", "status", "num_bytes", "error", "num_tokens"]
    for row in store.read("lines", columns=columns, where=where_in("batch_id", batch_ids)).to_pylist():
        of = counts[row["batch_id"]]
        of.num_tokens += row["num_tokens"] or 0
        if row["error"] is None:
            of.completed += 1
            of.output_bytes += row["num_bytes"]
        else:
            of.failed += 1
            of.expired += row["status"] == EXPIRED
            of.error_bytes += row["num_bytes"]
    return counts


def lines_of_file(
    store: Store, batch_id: str, *, failed: bool, withheld: Set[str] = frozenset(), why: Mapping[str, Any] | None = None
) -> Iterator[bytes]:
    """The output file of a batch, or its error file, in the order of the requests and in pieces of some 16 MiB. In the
    place of a picture that shows one of the `withheld` (identity_ids) is `why`, with status 409."""
    rows = store.read("lines", columns=["line", "num_bytes"], where=_in_file(batch_id, failed)).to_pylist()
    sizes = sorted((row["line"], row["num_bytes"]) for row in rows)
    while sizes:
        first, num_bytes = sizes[0][0], 0
        while sizes and (num_bytes == 0 or num_bytes + sizes[0][1] <= _AT_ONCE):
            last, size = sizes.pop(0)
            num_bytes += size
        where = f"{_in_file(batch_id, failed)} AND line >= {first} AND line <= {last}"
        some = store.read("lines", where=where).to_pylist()
        for row in some:
            if not withheld.isdisjoint(row["people"]):
                row |= {"status": 409, "error": json.dumps(why)}
        yield b"".join(map(as_line, sorted(some, key=lambda row: row["line"])))


def empty_file(store: Store, batch_id: str, *, failed: bool) -> None:
    """Deletes the output file of a batch, or its error file, with every byte; what is counted stays."""
    columns = ["batch_id", "line", "custom_id", "people", "status", "created_at", "num_tokens"]
    rows = store.read("lines", columns=columns, where=_in_file(batch_id, failed)).to_pylist()
    error = "{}" if failed else None
    store.upsert("lines", [{**row, "answer": None, "error": error, "num_bytes": 0} for row in rows])
    store.purge("lines", "FALSE")


def _in_file(batch_id: str, failed: bool) -> str:
    which = "error IS NOT NULL" if failed else "error IS NULL"
    return f"{where_in('batch_id', [batch_id])} AND {which} AND num_bytes > 0"
