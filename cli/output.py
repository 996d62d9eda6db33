"""What commands print. Names and paths come from strangers: nothing of them is executed by a terminal."""

from __future__ import annotations

import sys
from io import TextIOWrapper
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from pipelines.jobs.job import Summary

_JOINERS = "\u200c\u200d"  # of letters, and of emoji: they are part of a name, and move nothing
NOTHING_USABLE = 3  # exit status


def printable(text: str) -> str:
    """Text with everything escaped that is no letter, mark, digit, sign or space: control characters, escape sequences,
    line breaks, marks that turn the writing's direction, bytes that are no UTF-8."""
    escaped = (c if c.isprintable() or c in _JOINERS else c.encode("unicode_escape", "surrogatepass") for c in text)
    return "".join(c if isinstance(c, str) else c.decode("ascii") for c in escaped)


def say(text: str, *, error: bool = False) -> None:
    """One line."""
    print(printable(text), file=sys.stderr if error else sys.stdout)


def any_text() -> None:
    """Letters that the terminal's encoding does not know are escaped too, and are no error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def show_table(columns: list[str], rows: list[list[str]]) -> None:
    """Aligned text that stays whole when it is piped."""
    lines = [columns, *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_summary(summary: Summary, root: str) -> None:
    """The job's counts, and where they are written. Exit status 3 if there were photos and all of them were refused."""
    from factory.store.tables import Store

    for line in summary.lines():
        say(line)
    say(f"{Store(root).root}/jobs/{summary.job_id}/summary.json")
    if summary.all_refused():
        say("no photo could be used: `rejects` and the job's report.html say why", error=True)
        raise typer.Exit(NOTHING_USABLE)
