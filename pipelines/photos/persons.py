"""Whose photos files are, by the folders that they lie in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from factory.errors import SourceError
from factory.files import local_path, shown
from factory.storage import scheme_of
from pipelines.photos.names import text_name

PersonFrom = Literal["folder"]  # what tells whose photos files are


def with_folders(places: list[dict[str, Any]], sources: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of PLACE with `folder`: the path of a file's below the outermost of the sources, of a member's in its
    archive, as shards of a data set may lie in one folder. A file right in a source has none, nor has Parquet.

    Raises SourceError, with the remedy, if no photo has one.
    """
    bases = sorted((one if scheme_of(one) else local_path(one) for one in sources), key=len)
    for place in places:
        if place["row_group"] < 0:
            path = place["uri"] if place["member"] is None else place["member"]
            place["folder"] = _folder(path.decode("utf-8", "surrogateescape"), bases)
    if not any(place["folder"] for place in places):
        raise SourceError(
            f"no photo of {shown(' and '.join(sources))} lies in a folder below it, which --person-from folder takes "
            "for a person; give the folder around them (in Parquet a column person tells whose photo a row is)"
        )
    return places


def _folder(path: str, bases: Sequence[str]) -> str | None:
    base = next((base for base in bases if path.startswith(f"{base.rstrip('/')}/")), "")
    inner = PurePosixPath(path.removeprefix(base).lstrip("/")).parent
    inner = PurePosixPath(unquote(str(inner))) if base.startswith(("http://", "https://")) else inner
    return text_name(str(inner)) if inner.parts else None
