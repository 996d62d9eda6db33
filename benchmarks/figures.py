"""Figures that are written as they come, a line each, and tables of them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import markdown


class Figures:
    """What was measured, a line of OUT.jsonl each, as soon as it is."""

    def __init__(self, out: Path, part: str, seconds: float, size: str) -> None:
        self.file, self.part, self.size = out.with_suffix(".jsonl"), part, size
        self.deadline = time.monotonic() + seconds

    def add(self, what: str, value: float | str, unit: str = "", **more: float) -> None:
        """Writes one."""
        with self.file.open("a") as stream:
            stream.write(json.dumps({"part": self.part, "what": what, "value": value, "unit": unit, **more}) + "\n")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Running out of memory is a figure as well."""
        try:
            yield
        except torch.OutOfMemoryError:
            self.add(what, "out of memory")

    def late(self, what: str) -> bool:
        """Whether the time does not allow to begin this; told then."""
        if over := time.monotonic() > self.deadline:
            self.add(what, "no time was left")
        return over


def report(lines: Path) -> str:
    """The figures as tables, a part each."""
    figures: list[dict[str, Any]] = [json.loads(line) for line in lines.read_text().splitlines()]
    text = "# On a GPU\n"
    for part in dict.fromkeys(one["part"] for one in figures):
        own = [one for one in figures if one["part"] == part]
        more = list(dict.fromkeys(name for one in own for name in one if name not in ("part", "what", "value", "unit")))
        rows = [
            [
                one["what"],
                f"{_short(one['value'])} {one['unit']}".strip(),
                *(_short(one.get(name, "")) for name in more),
            ]
            for one in own
        ]
        text += f"\n## {part}\n\n" + markdown(["", "", *(name.replace("_", " ") for name in more)], rows)
    return text


def _short(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.3g}"
