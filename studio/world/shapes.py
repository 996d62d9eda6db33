"""The drawing surface: coordinates, soft coverage of implicit shapes, painting with labels, light.

One head unit is 0.278 of the side: eyes sit at (+-0.36, 0), the chin near y = 1.1, the crown near y = -1.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, radians, sin

import cv2
import numpy as np
from numpy.typing import ArrayLike

from studio.world.scenes import Scene

UNIT = 0.278  # head unit as a fraction of the side
EYE_LINE = 0.47  # of the side, from the top
DEPTH = 0.75  # of the head at the nose, in head units; drives the parallax


def smooth(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Smoothstep of x from 0 at `low` to 1 at `high`; low > high gives the falling step."""
    t = np.clip((x - low) * (1 / (high - low)), 0, 1)
    out: np.ndarray = t * t * (3 - 2 * t)
    return out


def bump(x: np.ndarray, width: float) -> np.ndarray:
    """Gaussian exp(-(x / width)^2)."""
    t = x * (1 / width)
    out: np.ndarray = np.exp(-t * t)
    return out


def cover(field: np.ndarray) -> np.ndarray:
    """Soft coverage [0, 1] of the region field < 0: clip(0.5 - f / |grad f|), one pixel wide at the edge."""
    gx = cv2.Sobel(field, cv2.CV_32F, 1, 0, ksize=1, borderType=cv2.BORDER_REPLICATE)
    gy = cv2.Sobel(field, cv2.CV_32F, 0, 1, ksize=1, borderType=cv2.BORDER_REPLICATE)
    out: np.ndarray = np.clip(0.5 - field / (0.5 * cv2.magnitude(gx, gy) + 1e-5), 0, 1)
    return out


def noise(seed: int, cells: int, size: int, *, stretch: float = 1.0) -> np.ndarray:
    """Smooth noise in [0, 1], float32 [size, size], of `cells` across and `cells * stretch` down; same at any size."""
    rows = max(2, round(cells * stretch))
    grid = np.random.default_rng([seed, cells]).random((rows, cells), np.float32)
    return np.clip(cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)


def _depth(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    out: np.ndarray = DEPTH * np.clip(1 - (x / 0.98) ** 2 - ((y - 0.05) / 1.25) ** 2, 0, 1)
    return out


@dataclass(slots=True)
class Canvas:
    """Pixels of a picture (or a window of it) and where they lie; windows share memory with their parent."""

    size: int  # side of the whole picture in pixels
    scene: Scene
    u: np.ndarray  # float32 [H, W] place in the picture, 0..1 from the left
    v: np.ndarray  # float32 [H, W] from the top
    bx: np.ndarray  # float32 [H, W] body coordinates, head units
    by: np.ndarray
    x: np.ndarray  # float32 [H, W] coordinates on the turned head, head units
    y: np.ndarray
    rgb: np.ndarray  # float32 [H, W, 3]
    labels: np.ndarray  # uint8 [H, W]

    @property
    def pixel(self) -> float:
        """Side of a pixel in head units."""
        return 1 / (self.size * UNIT * self.scene.scale)

    def project(self, x: float, y: float, lift: float = 0.0) -> tuple[float, float]:
        """Pixel coordinates of a point on the head, `lift` head units above its surface."""
        s = self.scene
        z = float(_depth(np.asarray(x), np.asarray(y))) + lift
        px = x * cos(radians(s.yaw)) + (z - 0.3) * sin(radians(s.yaw))
        py = y * cos(radians(s.pitch)) + (z - 0.5) * sin(radians(s.pitch))
        c, n, k = cos(radians(s.roll)), sin(radians(s.roll)), UNIT * s.scale
        return (0.5 + s.dx + (px * c - py * n) * k) * self.size, (EYE_LINE + s.dy + (px * n + py * c) * k) * self.size

    def window(self, x: float, y: float, rx: float, ry: float) -> Canvas:
        """The part around a point of the head, half sizes in head units, kept inside the picture."""
        px, py = self.project(x, y)
        hx, hy = rx / self.pixel + 2, ry / self.pixel + 2
        x0, y0 = (int(np.clip(p, 0, self.size - 4)) for p in (px - hx, py - hy))
        x1, y1 = (int(np.clip(p, q + 4, self.size)) for p, q in ((px + hx + 1, x0), (py + hy + 1, y0)))
        at = (slice(y0, y1), slice(x0, x1))
        arrays = (self.u, self.v, self.bx, self.by, self.x, self.y, self.rgb, self.labels)
        return Canvas(self.size, self.scene, *(a[at] for a in arrays))

    def paint(self, coverage: np.ndarray, colour: ArrayLike, label: int | None = None) -> None:
        """Blend a colour ([3] or [H, W, 3]) over the picture; pixels covered by half or more take the label."""
        tint, coverage = np.asarray(colour, np.float32), np.asarray(coverage, np.float32)
        rows = np.flatnonzero(coverage.any(1))
        if not len(rows):
            return
        at = slice(rows[0], rows[-1] + 1)
        part = self.rgb[at]
        part += ((tint[at] if tint.ndim == 3 else tint) - part) * cv2.merge([coverage[at]] * 3)
        if label is not None:
            self.labels[coverage > 0.5] = label

    def light(self, height: np.ndarray, *, wrap: float = 0.35) -> tuple[np.ndarray, np.ndarray]:
        """Wrapped Lambert and specular term, each [0, 1] [H, W], of a height field in head units."""
        step = 0.5 / self.pixel
        gx = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1, borderType=cv2.BORDER_REPLICATE) * step
        gy = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1, borderType=cv2.BORDER_REPLICATE) * step
        norm = 1 / np.sqrt(1 + gx * gx + gy * gy)
        far = hypot(self.scene.light_x, self.scene.light_y, 1.0)
        lx, ly, lz = self.scene.light_x / far, self.scene.light_y / far, 1 / far
        facing = (lz - lx * gx - ly * gy) * norm
        half = hypot(lx, ly, lz + 1)  # halfway between light and viewer
        hx, hy, hz = lx / half, ly / half, (lz + 1) / half
        shine = np.clip((hz - hx * gx - hy * gy) * norm, 0, 1) ** 2
        shine = shine * shine * shine * shine
        return np.clip((facing + wrap) / (1 + wrap), 0, 1), shine * shine * shine


def shaded(colour: ArrayLike, lambert: np.ndarray, *, dark: float = 0.34, bright: float = 0.78) -> np.ndarray:
    """A colour under a Lambert term: shadows keep a little red; float32 [H, W, 3]."""
    base, lambert = np.asarray(colour, np.float32), np.asarray(lambert, np.float32)
    lows = [dark * red for red in (1.08, 0.96, 1.0)]
    if base.ndim == 3:
        return np.asarray(base * cv2.merge([lambert * bright + low for low in lows]))
    planes = [lambert * (bright * part) + low * part for low, part in zip(lows, base.tolist(), strict=True)]
    return np.asarray(cv2.merge(planes))


def blank(scene: Scene, size: int) -> Canvas:
    """An empty canvas with its coordinates: body, and head after undoing roll, pitch and yaw."""
    at = (np.arange(size, dtype=np.float32) + 0.5) / size
    u, v = np.meshgrid(at, at)
    k = 1 / (UNIT * scene.scale)
    bx, by = (u - 0.5 - scene.dx) * k, (v - EYE_LINE - scene.dy) * k
    c, n = cos(radians(scene.roll)), sin(radians(scene.roll))
    rx, ry = bx * c + by * n, by * c - bx * n
    (cy, sy), (cp, sp) = ((cos(radians(a)), sin(radians(a))) for a in (scene.yaw, scene.pitch))
    x, y = rx, ry
    for _ in range(4):  # fixed point: the depth of the visible surface depends on where it is
        z = _depth(x, y)
        x, y = (rx - (z - np.float32(0.3)) * sy) / cy, (ry - (z - np.float32(0.5)) * sp) / cp
    rgb, labels = np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.uint8)
    places = [np.asarray(a, np.float32) for a in (bx, by, x, y)]
    return Canvas(size, scene, u, v, places[0], places[1], places[2], places[3], rgb, labels)
