"""report.html of a job: its counts, and samples of what it found and refused, one a line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

_STYLE: Final = (
    "body{font:15px sans-serif;margin:2em;max-width:70em}figure{display:inline-block;width:8em;margin:.5em;"
    "vertical-align:top;font-size:12px;overflow-wrap:anywhere}img{max-width:96px;max-height:96px;display:block}"
)


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
