"""The evaluation's pictures, drawn with Pillow in the look of the contact sheet: whiskers, sweep, map, grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from factory.measure.formulas import Interval
from studio.demo.sheet import ACCENT, INK, PAPER, SOFT

RULE = (224, 221, 214)
COLOURS = ((196, 84, 40), (38, 96, 164), (60, 140, 90), (150, 90, 170), (200, 150, 30), (90, 90, 96))
MARGIN, ROW, PANEL, LABEL, HEAD = 40, 40, 300, 270, 150


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """A stretch of numbers on a stretch of pixels; what lies outside is drawn at the edge."""

    low: float
    high: float
    start_px: float
    end_px: float

    @classmethod
    def over(cls, values: Sequence[float], start_px: float, end_px: float) -> Axis:
        """Covers the finite values with some air."""
        finite = [value for value in values if np.isfinite(value)] or [0.0, 1.0]
        low, high = min(finite), max(finite)
        air = 0.08 * (high - low) or 0.5
        return cls(low=low - air, high=high + air, start_px=start_px, end_px=end_px)

    def at(self, value: float) -> float:
        """Pixel of a number."""
        share = min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        return self.start_px + share * (self.end_px - self.start_px)

    def ticks(self) -> list[float]:
        """Three round numbers or so."""
        step = 10.0 ** np.floor(np.log10((self.high - self.low) / 2))
        step *= next(m for m in (1, 2, 5, 10) if (self.high - self.low) / (step * m) <= 4.5)
        return [float(tick) for tick in np.arange(np.ceil(self.low / step), np.floor(self.high / step) + 1) * step]


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _sheet(width: int, height: int, title: str, subtitle: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    sheet = Image.new("RGB", (max(width, 960), height), PAPER)  # room for the title
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, MARGIN - 8), title, font=_font(34), fill=INK, anchor="lt")
    draw.text((MARGIN, MARGIN + 38), subtitle, font=_font(18), fill=SOFT, anchor="lt")
    return sheet, draw


def _number(value: float) -> str:
    return f"{value + 0.0:.4g}"  # no "-0"


def whiskers(
    rows: Mapping[str, Mapping[str, Interval]], columns: Mapping[str, str], *, title: str, subtitle: str
) -> Image.Image:
    """A panel a measure (key -> heading), a line a row: the value as a dot, its interval as a bar. The first row is
    drawn through all others as a line to compare with."""
    width = 2 * MARGIN + LABEL + len(columns) * (PANEL + 24)
    bottom = HEAD + len(rows) * ROW + 8
    sheet, draw = _sheet(width, bottom + 60, title, subtitle)
    for row, label in enumerate(rows):
        draw.text((MARGIN, HEAD + row * ROW + ROW // 2), label, font=_font(19), fill=INK, anchor="lm")
    for panel, (key, heading) in enumerate(columns.items()):
        left = MARGIN + LABEL + panel * (PANEL + 24)
        cells = [row.get(key) for row in rows.values()]
        edges = [edge for cell in cells if cell for edge in (cell.low, cell.value, cell.high)]
        axis = Axis.over(edges, left, left + PANEL)
        draw.text((left + PANEL // 2, HEAD - 14), heading, font=_font(20), fill=INK, anchor="ms")
        _ticks(draw, axis, HEAD, bottom)
        for row, cell in enumerate(cells):
            if cell is None or not np.isfinite(cell.value):
                continue
            x, y = axis.at(cell.value), HEAD + row * ROW + ROW // 2
            colour = ACCENT if row == 0 else INK
            if row == 0:
                draw.line([(x, HEAD), (x, bottom)], fill=(236, 196, 178), width=2)
            if np.isfinite(cell.low):
                draw.line([(axis.at(cell.low), y), (axis.at(cell.high), y)], fill=colour, width=3)
            draw.ellipse([x - 6, y - 6, x + 6, y + 6], fill=colour)
    return sheet


def _ticks(draw: ImageDraw.ImageDraw, axis: Axis, top: int, bottom: int) -> None:
    for tick in axis.ticks():
        x = axis.at(tick)
        draw.line([(x, top), (x, bottom)], fill=RULE)
        draw.text((x, bottom + 8), _number(tick), font=_font(15), fill=SOFT, anchor="mt")
    draw.line([(axis.start_px, bottom), (axis.end_px, bottom)], fill=SOFT)


def sweep_chart(
    alphas: Sequence[float], series: Mapping[str, Sequence[Interval]], *, title: str, subtitle: str
) -> Image.Image:
    """A panel a measure (heading -> values in the order of `alphas`), with intervals."""
    side, gap = 330, 70
    sheet, draw = _sheet(2 * MARGIN + len(series) * (side + gap), HEAD + side + 90, title, subtitle)
    for panel, (heading, cells) in enumerate(series.items()):
        left = MARGIN + panel * (side + gap) + 40
        across = Axis.over(alphas, left, left + side)
        edges = [edge for cell in cells for edge in (cell.low, cell.value, cell.high)]
        up = Axis.over(edges, HEAD + side, HEAD)
        draw.text((left + side // 2, HEAD - 14), heading, font=_font(20), fill=INK, anchor="ms")
        for tick in up.ticks():
            draw.line([(left, up.at(tick)), (left + side, up.at(tick))], fill=RULE)
            draw.text((left - 8, up.at(tick)), _number(tick), font=_font(15), fill=SOFT, anchor="rm")
        for alpha in alphas:
            draw.text((across.at(alpha), HEAD + side + 8), f"{alpha:g}", font=_font(15), fill=SOFT, anchor="mt")
        draw.text((left + side // 2, HEAD + side + 34), "alpha", font=_font(17), fill=SOFT, anchor="mt")
        points = [(across.at(alpha), up.at(cell.value)) for alpha, cell in zip(alphas, cells, strict=True)]
        draw.line(points, fill=ACCENT, width=3)
        for (x, y), cell in zip(points, cells, strict=True):
            if np.isfinite(cell.low):
                draw.line([(x, up.at(cell.low)), (x, up.at(cell.high))], fill=ACCENT, width=2)
            draw.ellipse([x - 5, y - 5, x + 5, y + 5], fill=ACCENT)
    return sheet


def word_map(
    prior: np.ndarray, groups: Mapping[str, np.ndarray], *, title: str, subtitle: str
) -> tuple[Image.Image, dict[str, int]]:
    """Celebrity names [N, V, D] and learned words [P, V, D] on the first two principal components of the names.

    The picture shows three deviations of the names either way; also given: how many of each group lie outside of it.
    """
    names = prior.reshape(len(prior), -1)
    mean = names.mean(0)
    components = np.linalg.svd(names - mean, full_matrices=False)[2][:2]
    plane = (names - mean) @ components.T
    reach = 3 * plane.std(0)
    side = 720
    across = Axis(low=-reach[0], high=reach[0], start_px=MARGIN, end_px=MARGIN + side)
    up = Axis(low=-reach[1], high=reach[1], start_px=HEAD + side, end_px=HEAD)
    sheet, draw = _sheet(2 * MARGIN + side + 330, HEAD + side + MARGIN, title, subtitle)
    draw.rectangle([MARGIN, HEAD, MARGIN + side, HEAD + side], outline=RULE, width=2)
    for x, y in plane:
        _dot(draw, across.at(x), up.at(y), 4, (176, 174, 170))
    legend = [("celebrity names", (176, 174, 170), len(prior), 0)]
    outside: dict[str, int] = {}
    for (label, words), colour in zip(groups.items(), COLOURS, strict=False):
        points = (words.reshape(len(words), -1) - mean) @ components.T
        outside[label] = int((np.abs(points) > reach).any(1).sum())
        for x, y in points:
            _dot(draw, across.at(x), up.at(y), 6, colour)
        legend.append((label, colour, len(words), outside[label]))
    for line, (label, colour, num, lost) in enumerate(legend):
        top = HEAD + 20 + 44 * line
        _dot(draw, MARGIN + side + 34, top, 7, colour)
        text = f"{label} ({num}{f', {lost} at the edge' if lost else ''})"
        draw.text((MARGIN + side + 52, top), text, font=_font(18), fill=INK, anchor="lm")
    return sheet, outside


def _dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: int, colour: tuple[int, int, int]) -> None:
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=colour)


def picture_grid(
    rows: Mapping[str, Sequence[np.ndarray]], captions: Sequence[str], *, title: str, subtitle: str, cell: int = 128
) -> Image.Image:
    """Pictures uint8 [S, S, 3] RGB, a labelled row each, columns captioned."""
    label, gap = 230, 6
    sheet, draw = _sheet(
        2 * MARGIN + label + len(captions) * (cell + gap), HEAD + len(rows) * (cell + gap) + MARGIN, title, subtitle
    )
    for column, caption in enumerate(captions):
        size = 17
        while size > 10 and draw.textlength(caption, font=_font(size)) > cell:
            size -= 1
        x = MARGIN + label + column * (cell + gap) + cell // 2
        draw.text((x, HEAD - 10), caption, font=_font(size), fill=SOFT, anchor="ms")
    for number, (name, pictures) in enumerate(rows.items()):
        top = HEAD + number * (cell + gap)
        draw.text((MARGIN, top + cell // 2), name, font=_font(19), fill=INK, anchor="lm")
        for column, picture in enumerate(pictures):
            shown = Image.fromarray(picture).resize((cell, cell), Image.Resampling.LANCZOS)
            sheet.paste(shown, (MARGIN + label + column * (cell + gap), top))
    return sheet
