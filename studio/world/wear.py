"""Hats and glasses, on the turned head."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import ArrayLike

from studio.world.head import Shape, mix
from studio.world.people import Person
from studio.world.shapes import Canvas, bump, cover, shaded, smooth

RED, BLUE, GOLD, WHITE = (0.82, 0.07, 0.09), (0.10, 0.25, 0.75), (0.98, 0.75, 0.14), (0.95, 0.95, 0.96)
BROWN, BLACK = (0.55, 0.33, 0.15), (0.06, 0.06, 0.07)


def paint_glasses(c: Canvas, s: Shape) -> None:
    """Thick black frames with clear or dark lenses; labels follow the frame, and dark lenses."""
    if c.scene.glasses is None:
        return
    ax, dark = np.abs(c.x), c.scene.glasses == "sunglasses"
    rx, ry = (0.285, 0.215) if dark else (0.265, 0.215)
    x, y = (ax - max(s.eye_x, rx + 0.05)) / rx, (c.y - 0.02) / ry
    lens = (np.power(np.power(np.abs(x), 3.5) + np.power(np.abs(y), 3.5), 1 / 3.5) - 1) * ry
    lens = lens.astype(np.float32)
    inner = max(s.eye_x, rx + 0.05) - rx
    bridge = np.maximum(np.abs(c.y + 0.05 - 0.3 * c.x * c.x) - 0.032, ax - inner - 0.01)
    outer = max(s.eye_x, rx + 0.05) + rx
    temple = np.maximum(np.abs(c.y + 0.07) - 0.035, np.maximum(outer - ax, ax - s.width - 0.02))
    if dark:
        tint = np.array((0.05, 0.05, 0.07), np.float32) + (0.22 * smooth(0.15, -0.2, c.y))[..., None]
        c.paint(cover(lens) * 0.97, tint, 6)
        c.paint(cover(lens) * 0.5 * bump(x + y * 0.7 + 0.35, 0.13), (0.75, 0.8, 0.9))
    else:
        c.paint(cover(lens) * (0.05 + 0.16 * bump(x + y * 0.8 + 0.5, 0.14)), (0.9, 0.95, 1.0))
    frame = np.minimum(np.minimum(np.abs(lens) - 0.034, bridge), temple)
    c.paint(cover(frame.astype(np.float32)), (0.03, 0.03, 0.035), 6)


class _Hatter:
    """Shared measures: half width at the brim line, brim height, and a way to paint lit parts."""

    def __init__(self, c: Canvas, p: Person, s: Shape) -> None:
        self.c, self.x, self.y, self.ax = c, c.x, c.y, np.abs(c.x)
        fluffy = p.hair_style not in ("bald", "buzz", "mohawk")
        self.half = s.width + (0.04 + 0.5 * mix(0.04, 0.17, p.hair_volume) if fluffy else 0.03)
        self.brim, self.top = s.brim, s.top

    def put(self, field: np.ndarray, colour: ArrayLike, *, bulge: float = 0.6, gain: float = 1.0) -> np.ndarray:
        depth = np.sqrt(np.clip(1.02 - (self.x / (self.half * 1.15)) ** 2, 0.03, 1)) + 0.3 * np.clip(-field, 0, 0.3)
        lambert, shine = self.c.light((bulge * depth).astype(np.float32))
        coverage = cover(field.astype(np.float32))
        paint = shaded(np.asarray(colour) * gain, lambert, dark=0.45, bright=0.68) + cv2.merge([0.1 * shine] * 3)
        self.c.paint(coverage, paint, 18)
        return coverage

    def dome(self, rx: float, height: float, power: float = 2.3) -> np.ndarray:
        up = np.abs(np.minimum(self.y - self.brim, 0)) / height
        oval = (np.power(self.ax / rx, power) + np.power(up, power) - 1) * 0.6
        return np.asarray(np.maximum(oval, self.y - self.brim))


def _beanie(h: _Hatter) -> None:
    high = h.top + h.brim + 0.22
    ball = np.hypot(h.x, h.y - h.brim + high + 0.10) - 0.18 - 0.015 * np.sin(40 * h.x) * np.sin(40 * h.y)
    h.put(h.dome(h.half + 0.07, high), RED)
    rib = 0.5 + 0.5 * np.sin(30 * h.x / (1.1 + 0.25 * h.y))
    h.c.paint(cover(h.dome(h.half + 0.07, high).astype(np.float32)) * 0.35 * smooth(0.3, 0.0, rib), (0.35, 0.0, 0.02))
    band = np.maximum(np.abs(h.y - h.brim + 0.03 - 0.08 * h.x * h.x) - 0.15, h.ax - h.half - 0.11)
    h.put(band, RED, gain=1.18)
    h.c.paint(cover(band.astype(np.float32)) * 0.4 * smooth(0.3, 0.0, 0.5 + 0.5 * np.sin(28 * h.x)), (0.4, 0.0, 0.03))
    h.put(ball, WHITE)


def _cap(h: _Hatter) -> None:
    high = h.top + h.brim + 0.18
    crown = h.dome(h.half + 0.06, high)
    h.put(crown, BLUE)
    seams = np.minimum(np.abs(h.x), np.abs(h.ax - 0.42 * np.sqrt(np.clip(1.1 + h.y * 0.6, 0, 2))))
    h.c.paint(cover(crown.astype(np.float32)) * 0.5 * bump(seams, 0.02), (0.03, 0.08, 0.35))
    badge = np.hypot(h.x, (h.y - h.brim + 0.32)) - 0.15
    h.put(badge, WHITE)
    visor = np.power(h.ax / (h.half * 0.86), 2.6) + np.power(np.abs(h.y - h.brim - 0.04) / 0.19, 2.2) - 1
    h.put(visor * 0.15, BLUE, gain=0.72)
    h.c.paint(0.5 * bump(h.y - h.brim + 0.08 - 0.05 * h.x * h.x, 0.03) * (visor < 0), (0.4, 0.55, 1.0))


def _crown(h: _Hatter) -> None:
    base = -0.66
    phase = np.abs(((h.x / (h.half + 0.02) * 2.5 + 0.5) % 1.0) - 0.5) * 2  # 0 at the points, 1 between
    points = base - 0.26 - 0.34 * (1 - phase)
    low = base + 0.05 - 0.10 * (h.x / h.half) ** 2
    field = np.maximum(np.maximum(points - h.y, h.y - low), h.ax - h.half - 0.03)
    coverage = h.put(field, GOLD, gain=1.1)
    h.c.paint(coverage * 0.5 * bump(h.y - low + 0.04, 0.03), (0.55, 0.33, 0.02))
    h.c.paint(coverage * 0.6 * bump((h.x + 0.25) - 0.1 * h.y, 0.10), (1.0, 0.97, 0.75))
    for k, gem in zip((-1, 0, 1), ((0.1, 0.3, 0.9), (0.85, 0.05, 0.1), (0.05, 0.6, 0.25)), strict=True):
        spot = np.hypot(h.x - k * 0.42, h.y - base + 0.10 + 0.06 * abs(k)) - 0.062
        h.c.paint(cover(spot.astype(np.float32)), gem)


def _santa(h: _Hatter) -> None:
    rise = (h.brim - h.y) / 1.05  # 0 at the brim, 1 at the tip
    lean = 0.62 * np.clip(rise, 0, 1.2) ** 2
    cone = np.maximum(np.abs(h.x - lean) - (h.half + 0.03) * np.clip(1.02 - rise, 0, 1.1) ** 0.8, h.y - h.brim)
    cone = np.maximum(cone, rise - 1.0)
    h.put(cone, RED)
    h.c.paint(cover(cone.astype(np.float32)) * 0.4 * bump(h.x - lean - 0.18, 0.07), (0.4, 0.0, 0.03))
    fuzz = 0.018 * np.sin(26 * h.x) + 0.01 * np.sin(43 * h.x)
    h.put(np.maximum(np.abs(h.y - h.brim - 0.01 - 0.10 * h.x * h.x) - 0.145 + fuzz, h.ax - h.half - 0.12), WHITE)
    h.put(np.hypot(h.x - 0.70, h.y - h.brim + 1.0) - 0.19, WHITE)


def _cowboy(h: _Hatter) -> None:
    high = h.top + h.brim + 0.34
    dent = 0.20 * bump(h.x, 0.22)
    up = np.abs(np.minimum(h.y - h.brim, 0)) / (high - dent)
    crown = np.maximum((np.power(h.ax / (h.half * 0.86), 3.2) + np.power(up, 3.2) - 1) * 0.4, h.y - h.brim)
    curl = h.brim + 0.03 - 0.24 * np.clip(h.ax / 1.5, 0, 1) ** 2.2
    h.put(crown, BROWN, gain=1.05)
    band = np.maximum(np.abs(h.y - h.brim + 0.17) - 0.07, h.ax - h.half * 0.86)
    h.put(np.maximum(band, h.y - h.brim), (0.2, 0.1, 0.05))
    rim = np.abs(h.y - curl) - 0.10 * np.sqrt(np.clip(1.02 - (h.ax / 1.5) ** 4, 0, 1))
    h.put(np.maximum(rim, h.ax - 1.5), BROWN, bulge=0.2)
    h.c.paint(0.45 * bump(h.y - curl - 0.07, 0.035) * (rim < 0) * (h.ax < 1.5), (0.18, 0.09, 0.03))


def _top_hat(h: _Hatter) -> None:
    side = h.ax - h.half * 0.80 - 0.06 * (h.brim - h.y)
    tube = np.maximum(np.maximum(side, h.y - h.brim), h.brim - 1.22 - h.y)
    h.put(tube, BLACK, gain=1.7)
    h.c.paint(cover(tube.astype(np.float32)) * 0.35 * bump(h.x + 0.32, 0.09), (0.6, 0.6, 0.68))
    h.put(np.maximum(tube, np.abs(h.y - h.brim + 0.17) - 0.11), (0.75, 0.06, 0.1))
    rim = np.hypot(h.x / (h.half + 0.36), (h.y - h.brim + 0.10 * (h.x / 1.1) ** 2) / 0.11) - 1
    h.put(rim * 0.11, BLACK, bulge=0.2, gain=1.5)


def _headphones(h: _Hatter) -> None:
    radius = np.hypot(h.x / (h.half + 0.15), np.minimum(h.y - 0.1, 0) / (h.top + 0.29)) - 1
    h.put(np.maximum(np.abs(radius) - 0.055, h.y - 0.1), (0.10, 0.10, 0.12))
    for side in (-1, 1):
        cup = np.power(np.abs(h.x - side * (h.half + 0.10)) / 0.17, 2.6) + np.power(np.abs(h.y - 0.16) / 0.36, 2.6) - 1
        coverage = h.put(cup * 0.15, RED, gain=1.05)
        h.c.paint(coverage * 0.6 * bump(h.x - side * (h.half + 0.02), 0.035), (0.12, 0.05, 0.06))


_HATS = {"beanie": _beanie, "cap": _cap, "crown": _crown, "santa": _santa, "cowboy": _cowboy, "top_hat": _top_hat,
         "headphones": _headphones}  # fmt: skip


def paint_hat(c: Canvas, p: Person, s: Shape) -> None:
    """The scene's hat, if any, over hair and forehead."""
    if c.scene.hat is not None:
        _HATS[c.scene.hat](_Hatter(c, p, s))
