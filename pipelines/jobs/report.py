"""report.html of a job: its counts, and samples of what it found and refused, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from factory.store.tombstones import Tombstones

_STYLE: Final = (
    "body{font:15px sans-serif;margin:2em;max-width:70em}figure{display:inline-block;width:8em;margin:.5em;"
    "vertical-align:top;font-size:12px;overflow-wrap:anywhere}img{max-width:96px;max-height:96px;display:block}"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A face that was found, or shows somebody again, or a photo that was refused. Its line names all whom it shows, so
    that erasing one of them can take it out."""

    html: str  # one line
    photo_id: str
    face_id: str | None = None  # None: the whole photo is shown, with everybody on it
    also: tuple[str, ...] = ()  # ids of another face and its photo

    def shows(self, erased: Tombstones) -> bool:
        """Whether somebody erased may be in it."""
        if any(map(erased.hold, self.also)):
            return True
        if self.face_id is None:
            return erased.hold_photo(self.photo_id)
        return erased.hold(self.photo_id) or erased.hold(self.face_id)


def page(title: str, counts: Sequence[str], figures: Sequence[str]) -> str:
    """The whole report."""
    return "\n".join(
        [
            f"<!doctype html><meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>",
            f"<h1>{escape(title)}</h1>",
            "<pre>",
            *map(escape, counts),
            "</pre>",
            "<h2>Samples</h2>",
            *(figures or ["<p>no new photos</p>"]),
            "",
        ]
    )
