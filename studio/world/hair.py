"""Twelve ways to wear hair: an implicit outline minus an opening for the face, with strands and sheen."""

from __future__ import annotations

import cv2
import numpy as np

from studio.world.head import Shape, mix
from studio.world.people import Person
from studio.world.shapes import Canvas, bump, cover, noise, smooth


def _oval(x: np.ndarray, y: np.ndarray, rx: float, ry: float, power: float = 2.2) -> np.ndarray:
    out: np.ndarray = (np.power(np.abs(x) / rx, power) + np.power(np.abs(y) / ry, power) - 1).astype(np.float32)
    return out


class Hair:
    """One person's hair on one canvas; the outlines are computed once and painted behind and before the face."""

    def __init__(self, person: Person, shape: Shape, canvas: Canvas, brim: float | None) -> None:
        self.person, self.shape, self.canvas = person, shape, canvas
        self.style = person.hair_style
        self.volume = mix(0.04, 0.17, person.hair_volume)
        self.front, self.back = self._outlines()
        if brim is not None:  # a hat presses everything above its brim
            press = (brim + 0.10 - canvas.y).astype(np.float32)
            self.front = None if self.front is None else np.maximum(self.front, press)
            self.back = None if self.back is None else np.maximum(self.back, press)
        self.cover = None if self.front is None else cover(self.front) * self._opacity()

    def _opacity(self) -> float:
        return {"buzz": 0.80, "mohawk": 1.0}.get(self.style, 1.0)

    def _opening(self, rx: float, top: float, power: float, *, sweep: float = 0.0, y: float = 0.25) -> np.ndarray:
        """Where the face shows: below 0 inside; straight sides under `y`, hairline at `top` (tilted by `sweep`)."""
        c = self.canvas
        up = np.minimum(c.y - y - sweep * c.x, 0)
        return _oval(c.x, up, rx * self.shape.width, y - top, power)

    def _cap(self, grow: float, bottom: float) -> np.ndarray:
        c, s = self.canvas, self.shape
        oval = _oval(c.x, np.minimum(c.y + 0.1, 0), s.width + grow, s.top - 0.1 + grow * 1.3, 2.3)
        return np.maximum(oval, c.y - bottom)

    def _curtain(self, flare: float, end: float, wobble: float = 0.0) -> np.ndarray:
        """Long hair's outline: a cap that goes on straight down to `end`, wider by `flare` there."""
        c, s = self.canvas, self.shape
        x = c.x + wobble * np.sin(7.5 * c.y + 1.5 * np.sign(c.x))
        grow = 0.11 + self.volume + flare * smooth(-0.1, max(end, 0.4), c.y)
        oval = np.power(np.abs(x) / (s.width + grow), 2.4) + np.power(
            np.abs(np.minimum(c.y + 0.15, 0)) / (s.top - 0.15 + 0.04 + self.volume), 2.4) - 1
        tip = c.y - end - 0.10 * np.cos(2.2 * x) + 0.1
        return np.maximum(oval, tip).astype(np.float32)

    def _cloud(self, cx: float, cy: float, radius: float, lobes: int, depth: float) -> np.ndarray:
        c = self.canvas
        theta = np.arctan2(c.y - cy, c.x - cx)
        rim = radius * (1 + depth * np.abs(np.sin(theta * lobes / 2)))
        return (np.hypot(c.x - cx, c.y - cy) - rim).astype(np.float32)

    def _outlines(self) -> tuple[np.ndarray | None, np.ndarray | None]:  # front, back
        c, s, p, v, h = self.canvas, self.shape, self.person, self.volume, self.shape.hairline
        part = 2 * p.hair_part - 1
        style = self.style
        if style == "bald":
            return None, None
        if style == "buzz":
            return np.maximum(self._cap(0.025, 0.10), -self._opening(0.93, h, 3.0)), None
        if style == "short":
            jag = 0.05 * np.sin(21 * c.x + 3 * part) * smooth(0.0, -0.4, c.y)
            cap = self._cap(0.04 + 0.7 * v, 0.14) + 0.6 * jag * smooth(-0.8, -1.1, c.y)
            return np.maximum(cap, -(self._opening(0.92, h + 0.05, 3.2) + 2.0 * jag)).astype(np.float32), None
        if style == "side_part":
            sweep = -0.30 if part > 0 else 0.30
            lean = c.x * (1 if part > 0 else -1)
            cap = self._cap(0.05 + v + 0.0, 0.12) - 0.10 * bump(lean + 0.35, 0.4) * smooth(-0.6, -1.0, c.y)
            return np.maximum(cap, -self._opening(0.92, h + 0.06, 2.4, sweep=sweep)).astype(np.float32), None
        if style == "bob":
            outer = self._curtain(0.14, mix(0.55, 0.95, p.hair_length))
            return np.maximum(outer, -self._opening(0.84, h + 0.02, 2.3, sweep=0.35 * part)), outer
        if style in ("long", "wavy"):
            wobble = 0.055 if style == "wavy" else 0.0
            outer = self._curtain(0.30 if wobble else 0.10, mix(1.25, 1.85, p.hair_length), wobble)
            opening = self._opening(0.84, h, 1.9, sweep=0.25 * part)
            return np.maximum(outer, -(opening + 3 * wobble * np.sin(8 * c.y) * smooth(-0.2, 0.3, c.y))), outer
        if style == "bangs":
            outer = self._curtain(0.06, mix(0.75, 1.6, p.hair_length))
            jag = 0.03 * np.sin(26 * c.x)
            return np.maximum(outer, -(self._opening(0.83, -0.30, 9.0) + 2 * jag)).astype(np.float32), outer
        if style == "afro":
            cloud = self._cloud(0, -0.32, mix(1.02, 1.32, p.hair_volume), 26, 0.035)
            return np.maximum(cloud, -self._opening(0.90, h, 2.6, y=0.5)), cloud
        if style == "curly":
            end = mix(0.30, 1.0, p.hair_length)
            curls = 0.05 * np.sin(11 * c.x + 1.3) * np.sin(11 * c.y)
            outer = (self._curtain(0.16, end) - 0.12 + 2.6 * curls).astype(np.float32)
            return np.maximum(outer, -(self._opening(0.86, h + 0.10, 2.5) + 2.5 * curls)).astype(np.float32), outer
        if style == "bun":
            knot = (np.hypot(c.x, c.y + s.top + 0.20) - mix(0.24, 0.36, p.hair_volume)).astype(np.float32)
            return np.maximum(self._cap(0.05, 0.06), -self._opening(0.94, h, 2.4)), knot
        height = s.top + mix(0.22, 0.48, p.hair_length)  # mohawk
        spikes = 0.07 * np.abs(np.sin(9 * c.x))
        comb = np.maximum(np.abs(c.x) - 0.20 - 0.10 * smooth(-0.8, -1.5, c.y), c.y - h - 0.02)
        comb = np.maximum(comb, -height + spikes - c.y + 0.5 * c.x * c.x)
        return comb.astype(np.float32), None

    def _texture(self) -> np.ndarray:
        """Strands or curls, about [-1, 1]."""
        c, part = self.canvas, 2 * self.person.hair_part - 1
        if self.style in ("afro", "curly", "buzz"):
            cells = {"afro": 46, "curly": 30, "buzz": 90}[self.style]
            return 2.2 * (noise(3, cells, c.size) - 0.5)
        fan = (c.x - 0.15 * part) / (0.55 + 0.45 * smooth(-1.3, 0.0, c.y))
        if self.style == "wavy":
            fan = fan + 0.07 * np.sin(8 * c.y)
        if self.style == "side_part":
            fan = c.y * 1.2 + c.x * (0.9 if part > 0 else -0.9)
        strands = 0.45 * np.sin(17 * fan + 1) + 0.35 * np.sin(31 * fan + 2.1) + 0.3 * np.sin(53 * fan)
        return np.asarray(strands, np.float32)

    def _colour(self, field: np.ndarray) -> np.ndarray:
        c, s = self.canvas, self.shape
        strands = self._texture()
        across, up = c.x / (s.width + 0.5), np.minimum(c.y, 0) / (s.top + 0.45)
        dome = np.sqrt(np.clip(1.05 - across**2 - up**2, 0.03, 1))
        rim = np.clip(-field, 0, 0.25)
        lambert, _ = c.light((0.75 * dome + 0.5 * rim + 0.012 * strands).astype(np.float32))
        base = np.asarray(self.person.hair, np.float32)
        band = bump(c.y + 0.78 + 0.25 * c.x * c.x + 0.03 * strands, 0.15)
        sheen = (0.05 + 0.12 * float(base.mean())) * band * (1 + 0.5 * strands)
        if self.style in ("afro", "curly", "buzz"):
            sheen = sheen * 0.3
        tone = (0.42 + 0.66 * lambert) * (1 + 0.15 * strands)
        out: np.ndarray = base * tone[..., None] + sheen[..., None]
        return out

    def paint_back(self) -> None:
        """Hair behind neck and shoulders, darker."""
        if self.back is not None:
            shade = 1.0 if self.style in ("bun", "afro") else 0.72
            self.canvas.paint(cover(self.back), self._colour(self.back) * shade, 17)

    def shadow(self) -> np.ndarray | None:
        """Soft shadow that the front hair throws on the face, float32 [S, S] in [0, 1]."""
        if self.cover is None:
            return None
        size = self.canvas.size
        moved = cv2.warpAffine(self.cover, np.array(((1, 0, 0), (0, 1, 0.018 * size)), np.float32), (size, size))
        return np.asarray(cv2.GaussianBlur(moved, (0, 0), 0.014 * size), np.float32)

    def paint_front(self) -> None:
        """Hair over the forehead, temples and shoulders; for a mohawk also the shaved sides."""
        if self.cover is None or self.front is None:
            return
        if self.style == "mohawk":
            sides = np.maximum(self._cap(0.01, 0.05), -self._opening(0.93, self.shape.hairline, 3.0))
            self.canvas.paint(cover(sides) * 0.40, np.asarray(self.person.hair) * 0.5)
        self.canvas.paint(self.cover, self._colour(self.front), 17)
