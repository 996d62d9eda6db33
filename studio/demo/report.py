"""The demo's report: one HTML file with everything inside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from factory.provenance.marks import mark
from studio.demo.likeness import Likeness, overall
from studio.demo.sheet import SheetRow, overlay

THUMBNAIL_PX = 256  # side of the photos in the page


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPerson:
    """A row of the sheet with its measures."""

    row: SheetRow
    identity_id: str
    likeness: Likeness
    rendered: bool  # False for the real photo, which is kept out of the means


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A step of the demo."""

    name: str
    what: str  # what it did, with counts
    seconds: float
    reused: bool  # this run found it done; `seconds` is what it took when it was done


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All that the page says."""

    people: Sequence[ReportPerson]
    captions: Sequence[str]
    prompts: Sequence[str]
    rejects: Sequence[tuple[str, str, str]]  # name, reason, detail
    stages: Sequence[Stage]
    facts: dict[str, str]  # label -> value: counts, hardware, versions
    ceiling: float | None  # likeness of new renders of the same people: what the judge says of true pictures
    title: str


def number(value: float | None) -> str:
    """A cosine with two digits, or a dash. Plain ASCII: the sheet's font has little else."""
    return "-" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"


def percent(value: float | None) -> str:
    """A share as a whole percentage, or a dash."""
    return "-" if value is None else f"{value:.0%}"


def _jpeg(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="JPEG", quality=92)
    return buffer.getvalue()


def _data_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def _thumbnail(picture: np.ndarray) -> np.ndarray:
    small = Image.fromarray(picture)
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    return np.asarray(small)


def _bar(value: float | None) -> float:
    """Width of a cosine's bar in percent; negative ones have none."""
    return 0.0 if value is None else round(100 * min(max(value, 0.0), 1.0), 1)


def html(report: Report, marked: Callable[[bytes], bytes] = mark) -> str:
    """The page as text; pictures are inside it, so it can be mailed as one file. What was drawn goes through `marked`,
    so that it says that a model made it."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters.update(thumbnail=_thumbnail, number=number, percent=percent, bar=_bar)
    environment.filters.update(uri=lambda shown: _data_uri(_jpeg(shown)))
    environment.filters.update(drawn=lambda picture: _data_uri(marked(_jpeg(picture))))
    template = environment.from_string(Path(__file__).with_name("report.html").read_text(encoding="utf-8"))
    longest = max((stage.seconds for stage in report.stages), default=0.0) or 1.0
    total = overall([person.likeness for person in report.people if person.rendered])
    return template.render(report=report, total=total, overlay=overlay, longest=longest)
