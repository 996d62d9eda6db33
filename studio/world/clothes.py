"""Neck, shoulders and what covers them."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from studio.world.head import Shape, mix
from studio.world.people import Person
from studio.world.shapes import Canvas, bump, cover, shaded, smooth

CLOTH = 16  # label
NAVY, WHITE, RED = (0.10, 0.13, 0.27), (0.93, 0.94, 0.96), (0.82, 0.08, 0.10)
GREEN, BLACK, STEEL, ORANGE = (0.12, 0.52, 0.24), (0.07, 0.07, 0.08), (0.55, 0.62, 0.72), (0.95, 0.45, 0.08)


class _Body:
    """The body's coordinates and outlines on a canvas."""

    def __init__(self, canvas: Canvas, p: Person, s: Shape) -> None:
        self.canvas, self.x, self.y = canvas, canvas.bx, canvas.by
        self.ax = np.abs(self.x)
        self.neck_w = mix(0.34, 0.54, p.neck_width)
        self.chin = s.chin
        reach = mix(1.05, 1.45, p.shoulders)
        base = s.chin * 0.5 + 0.65
        slope = smooth(0.1, reach * 1.15, self.ax) * 0.40 + 0.5 * np.clip(self.ax - reach, 0, 9) ** 2
        self.shoulder_y = (base + slope).astype(np.float32)
        self.base = base
        fold = 0.03 * np.sin(9 * self.x + 5 * self.y) + 0.02 * np.sin(17 * self.x - 8 * self.y)
        height = 0.5 * np.sqrt(np.clip(self.y - self.shoulder_y, 0.0, 1)) - 0.2 * self.x * self.x + 0.5 * fold
        self.lambert, _ = canvas.light(height.astype(np.float32))

    def cloth(self, coverage: np.ndarray, colour: ArrayLike, gain: float = 1.0) -> None:
        self.canvas.paint(coverage, shaded(np.asarray(colour) * gain, self.lambert, dark=0.42, bright=0.68), CLOTH)

    def torso(self) -> np.ndarray:
        return cover(self.shoulder_y - self.y)

    def collar(self, rx: float, ry: float, dy: float = 0.0) -> np.ndarray:
        """Ellipse around the foot of the neck: below 0 inside."""
        field = np.hypot(self.x / (self.neck_w + rx), (self.y - self.base - dy) / ry) - 1
        return np.asarray(field, np.float32)


def _neck(b: _Body, p: Person) -> None:
    side = b.ax - b.neck_w - 0.35 * np.clip(b.y - b.base + 0.10, 0, 1) ** 2
    field = np.maximum(np.maximum(side, 0.3 - b.y), b.y - b.base - 0.34)
    round_neck = 0.5 * np.sqrt(np.clip(1.05 - (b.x / (b.neck_w + 0.12)) ** 2, 0.04, 1))
    lambert, _ = b.canvas.light(round_neck.astype(np.float32))
    under_chin = smooth(b.chin + 0.32, b.chin - 0.02, b.y)
    sinew = 0.10 * bump(b.ax - 0.14 - 0.25 * (b.base + 0.2 - b.y), 0.04) * smooth(b.chin, b.base, b.y)
    b.canvas.paint(cover(field.astype(np.float32)), shaded(p.skin, lambert * 0.95 - 0.34 * under_chin - sinew), 14)


def _plain(b: _Body, colour: ArrayLike) -> None:
    collar = b.collar(0.10, 0.22)
    b.cloth(b.torso() * (1 - cover(collar)), colour)
    b.cloth(cover(np.abs(collar) - 0.09) * b.torso(), colour, 0.8)


def _suit(b: _Body) -> None:
    b.cloth(b.torso() * (1 - cover(b.collar(0.02, 0.16))), NAVY, 1.1)
    opening = b.ax - 0.46 + 0.62 * (b.y - b.base)
    vee = cover(np.maximum(opening, b.base - 0.02 - b.y - 0.3 * b.ax).astype(np.float32)) * (
        1 - cover(b.collar(-0.06, 0.13))) * cover(b.shoulder_y - 0.09 - b.y)
    b.cloth(vee, WHITE, 1.05)
    knot = np.maximum(b.ax - 0.13 + 0.22 * (b.y - b.base - 0.12), np.abs(b.y - b.base - 0.21) - 0.09)
    tail = np.maximum(b.ax - 0.07 - 0.14 * (b.y - b.base - 0.3), b.base + 0.30 - b.y)
    b.cloth(cover(np.minimum(knot, tail).astype(np.float32)), RED, 1.15)
    lapel = np.maximum(opening - 0.17, -opening)
    b.cloth(cover(np.maximum(lapel, b.shoulder_y - b.y).astype(np.float32)), NAVY, 1.75)
    b.canvas.paint(0.6 * bump(opening - 0.17, 0.02) * b.torso(), (0.03, 0.04, 0.1))


def _hood(b: _Body) -> None:
    """The hoodie's hood, hanging behind the neck."""
    ring = np.hypot(b.x / (b.neck_w + 0.46), (b.y - b.base + 0.08) / 0.48) - 1
    b.cloth(cover(ring.astype(np.float32)), GREEN, 0.62)


def _hoodie(b: _Body) -> None:
    collar = b.collar(0.12, 0.27, 0.05)
    b.cloth(b.torso() * (1 - cover(collar)), GREEN)
    rim = np.abs(b.collar(0.24, 0.34, 0.02)) - 0.22
    b.cloth(cover(np.maximum(rim, b.base - 0.20 - b.y).astype(np.float32)), GREEN, 1.3)
    string = np.maximum(np.abs(b.ax - 0.22) - 0.026, np.maximum(b.base + 0.28 - b.y, b.y - b.base - 0.62))
    b.canvas.paint(cover(string.astype(np.float32)), WHITE, CLOTH)


def _striped(b: _Body) -> None:
    collar = b.collar(0.10, 0.22)
    body = b.torso() * (1 - cover(collar))
    b.cloth(body, WHITE)
    band = np.sin((b.y + 0.10 * b.x * b.x) * 29)
    b.cloth(body * cover((band * 0.034).astype(np.float32)), (0.08, 0.14, 0.45))
    b.cloth(cover(np.abs(collar) - 0.09) * b.torso(), (0.08, 0.14, 0.45))


def _spacesuit(b: _Body) -> None:
    b.cloth(b.torso() * (1 - cover(b.collar(0.14, 0.22, -0.06))), WHITE, 1.02)
    for edge in (0.62, 0.78):
        b.cloth(cover((np.abs(b.ax - edge - 0.2 * (b.y - b.base)) - 0.035).astype(np.float32)) * b.torso(), ORANGE)
    patch = np.maximum(np.abs(b.x - 0.36) - 0.13, np.abs(b.y - b.base - 0.58) - 0.09)
    b.cloth(cover(patch.astype(np.float32)), (0.12, 0.3, 0.8))
    ring = b.collar(0.34, 0.34, -0.02)
    rim = cover(ring) * (1 - cover(b.collar(0.16, 0.23, -0.06)))
    b.cloth(rim, STEEL, 1.15)
    b.canvas.paint(0.7 * rim * bump(ring + 0.13, 0.05), (0.95, 0.97, 1.0))


def _scarf(b: _Body, shirt: ArrayLike) -> None:
    _plain(b, shirt)
    middle = b.base - 0.06 - 0.10 * b.ax * b.ax
    wrap = np.maximum(np.abs(b.y - middle) - 0.24 + 0.10 * b.ax, b.ax - b.neck_w - 0.20)
    tail = np.maximum(np.abs(b.x - 0.26 - 0.1 * (b.y - b.base)) - 0.19, b.base - b.y)
    for field, phase in ((tail, 0.0), (wrap, 1.0)):
        b.cloth(cover(field.astype(np.float32)), RED, 1.12)
        knit = np.sin(24 * (b.y + (0.35 * b.x if phase else 0.0)))
        b.cloth(cover(field.astype(np.float32)) * 0.65 * smooth(0.35, 0.6, knit), (0.5, 0.03, 0.06))


def _turtleneck(b: _Body) -> None:
    b.cloth(b.torso(), BLACK, 1.25)
    roll = np.maximum(b.ax - b.neck_w - 0.06 - 0.04 * np.cos(14 * (b.y - b.base)), np.abs(b.y - b.base + 0.02) - 0.26)
    b.cloth(cover(roll.astype(np.float32)), BLACK, 1.9)
    b.canvas.paint(0.8 * bump(b.y - b.base + 0.02, 0.025) * (roll < 0), (0.02, 0.02, 0.02))


def dress(canvas: Canvas, p: Person, s: Shape) -> None:
    """Neck, body and clothes, behind the head."""
    b = _Body(canvas, p, s)
    worn = canvas.scene.clothes
    if worn == "hoodie":
        _hood(b)
    if worn == "spacesuit":
        canvas.paint(cover(b.collar(0.20, 0.26, -0.06)), (0.10, 0.11, 0.14), CLOTH)
    _neck(b, p)
    if worn == "suit":
        _suit(b)
    elif worn == "hoodie":
        _hoodie(b)
    elif worn == "striped":
        _striped(b)
    elif worn == "spacesuit":
        _spacesuit(b)
    elif worn == "scarf":
        _scarf(b, canvas.scene.shirt)
    elif worn == "turtleneck":
        _turtleneck(b)
    else:
        _plain(b, canvas.scene.shirt)
