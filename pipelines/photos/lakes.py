"""Tables that lie in many Parquet files with a log of which of them count (Delta Lake, Iceberg, Hudi): read as plain
Parquet as long as nothing was ever taken out of them.

Their files keep rows that were deleted or replaced, such as of somebody who had them deleted, until a clean-up removes
the files. Which rows are left only their own readers tell.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from factory.errors import SourceError
from factory.files import shown
from pipelines.photos.entries import faults_of, open_file

_LOGS: Final = (  # end of a path, in any of these tables
    ("Delta", re.compile(r"/_delta_log/\d{20}\.json$")),
    ("Iceberg", re.compile(r"/metadata/[^/]+\.metadata\.json$")),
    ("Hudi", re.compile(r"/\.hoodie(?:/|$)")),
)
_MOST: Final = 2**26  # bytes of a log's file
_REMEDY: Final = "write the rows that are left as Parquet with its own reader (Spark, DuckDB, Polars), and give that"


def is_log(path: str) -> bool:
    """Whether a file, or a folder, is part of such a table's log."""
    return any(pattern.search(path) for _, pattern in _LOGS)


def check_whole(logs: Iterable[str]) -> None:
    """Raises SourceError, with the remedy, if rows may have been taken out of a table of these logs (uris)."""
    found: dict[tuple[str, str], list[str]] = {}
    for uri in sorted(logs):
        kind, at = next((kind, match.start()) for kind, pattern in _LOGS if (match := pattern.search(uri)))
        found.setdefault((kind, uri[:at]), []).append(uri)
    for (kind, place), files in found.items():
        if why := {"Delta": _of_delta, "Iceberg": _of_iceberg, "Hudi": _of_hudi}[kind](files):
            raise SourceError(f"{shown(place)} is a table of {kind}, {why}; {_REMEDY}")


def _of_delta(files: list[str]) -> str:
    if not files[0].endswith(f"/{0:020}.json"):
        return "of which the first commits are gone, so that it cannot be seen which files count"
    removed = any("remove" in action for file in files for action in _lines(file))
    deleted = any((action.get("add") or {}).get("deletionVector") for file in files for action in _lines(file))
    return "out of which rows were taken that its files still hold" if removed or deleted else ""


def _of_iceberg(files: list[str]) -> str:
    made = {
        snapshot.get("summary", {}).get("operation", "append")
        for file in files
        for state in _lines(file, whole=True)
        for snapshot in state.get("snapshots") or ()
    }
    return "" if made <= {"append"} else "out of which rows were taken that its files may still hold"


def _of_hudi(_files: list[str]) -> str:
    return "whose files hold rows as they were before, too"


def _lines(uri: str, *, whole: bool = False) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON, one a line or one in all. Raises SourceError if it cannot be read."""
    try:
        with open_file(uri) as stream:
            text = stream.read(_MOST).decode()
        objects = [json.loads(line) for line in ([text] if whole else text.splitlines()) if line.strip()]
    except faults_of(uri) as error:
        raise SourceError(f"{shown(uri)} cannot be read ({shown(str(error))[:200]}); {_REMEDY}") from None
    return (one for one in objects if isinstance(one, dict))
