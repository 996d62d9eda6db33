"""A plot of how figures grow with a size, both in powers of ten: what reads everything is a line of slope 1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from studio.results.charts import COLOURS

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 900, 460, 80, 250, 60, 60  # px
_GREY: Final = (224, 221, 214)


def plot_growth(series: Mapping[str, Mapping[float, float]], path: Path, *, title: str, size: str, unit: str) -> None:
    """Draws each figure (its name -> size -> value, both > 0) as a line with its name at the end.

    Raises ValueError if there is nothing to draw.
    """
    sizes = [x for line in series.values() for x in line]
    values = [y for line in series.values() for y in line.values()]
    if not values:
        raise ValueError("a plot needs at least one figure")
    across, up = _decades(sizes), _decades(values)
    picture = Image.new("RGB", (_WIDTH, _HEIGHT), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)

    def place(x: float, y: float) -> tuple[float, float]:
        right = (math.log10(x) - across[0]) / (across[-1] - across[0])
        high = (math.log10(y) - up[0]) / (up[-1] - up[0])
        return (
            _LEFT + right * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - high * (_HEIGHT - _TOP - _BOTTOM),
        )

    draw.text((_LEFT, 20), f"{title}, {unit}", fill="black", font=ImageFont.load_default(18))
    for decade in across:
        x, bottom = place(10.0**decade, 10.0 ** up[0])
        draw.line([(x, _TOP), (x, bottom)], fill=_GREY)
        draw.text((x, bottom + 8), f"{10**decade:,}", fill="black", font=font, anchor="mt")
    for decade in up:
        left, y = place(10.0 ** across[0], 10.0**decade)
        draw.line([(left, y), (_WIDTH - _RIGHT, y)], fill=_GREY)
        draw.text((left - 8, y), f"{10.0**decade:,.10g}", fill="black", font=font, anchor="rm")
    draw.text(((_LEFT + _WIDTH - _RIGHT) / 2, _HEIGHT - 16), size, fill="black", font=font, anchor="mm")
    taken = list[float]()  # heights of names: those that end close together stand below one another
    ends = sorted(series.items(), key=lambda one: place(1.0, one[1][max(one[1])])[1])
    for number, (name, line) in enumerate(ends):
        colour = COLOURS[number % len(COLOURS)]
        points = [place(x, y) for x, y in sorted(line.items())]
        draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        height = max([points[-1][1], *(one + 17 for one in taken[-1:])])
        taken.append(height)
        draw.text((_WIDTH - _RIGHT + 14, height), name, fill=colour, font=font, anchor="lm")
    picture.save(path)


def _decades(values: list[float]) -> range:
    """Whole powers of ten from below the least to above the most, two at least."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return range(low, max(high, low + 1) + 1)
