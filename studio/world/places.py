"""Backgrounds: plain gradients and seven places, and the light that a place throws on the person."""

from __future__ import annotations

import numpy as np

from studio.world.shapes import Canvas, bump, noise, smooth

SNOWFALL = 0.3  # sides a second that flakes fall
WAVES, TIDE = 9.0, np.pi  # radians a second: of the lines on the water, of the water's edge on the sand


def _fade(t: np.ndarray, *stops: tuple[float, float, float]) -> np.ndarray:
    """Piecewise linear colour ramp over t in [0, 1], float32 [H, W, 3]."""
    at = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(t, at, [stop[k] for stop in stops]) for k in range(3)], -1).astype(np.float32)


def _over(image: np.ndarray, coverage: np.ndarray, colour: object) -> None:
    image += (np.asarray(colour, np.float32) - image) * coverage[..., None]


def _edge(distance: np.ndarray, soft: float = 0.008) -> np.ndarray:
    return smooth(soft, -soft, distance)


def _plain(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    glow = bump(np.hypot(c.u - 0.5, c.v - 0.4), 0.75)
    mottle = 0.15 * (noise(c.scene.seed, 5, c.size) - 0.5)
    return _fade(np.clip(1 - glow + mottle, 0, 1), c.scene.background, c.scene.background_low)


def _snow(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    image = _fade(c.v, (0.60, 0.72, 0.88), (0.88, 0.92, 0.97), (0.95, 0.97, 1.0))
    for _ in range(9):
        x, base, height = rng.random(), 0.60 + 0.05 * rng.random(), rng.uniform(0.25, 0.48)
        t = (c.v - base + height) / height
        jag = 0.75 + 0.25 * ((t * 5) % 1.0)
        tree = np.abs(c.u - x) - 0.30 * height * np.clip(t, 0, 1) * jag
        _over(image, _edge(tree) * (t > 0) * (t < 1), (0.20, 0.42, 0.40))
        _over(image, 0.8 * _edge(tree) * (t > 0) * (t < 1) * ((t * 5) % 1.0 < 0.35), (0.92, 0.96, 1.0))
    hill = 0.60 + 0.03 * np.sin(6 * c.u + rng.uniform(0, 6))
    _over(image, _edge(hill - c.v), (0.95, 0.97, 1.0))
    return image


def _beach(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    image = _fade(c.v * 1.8, (0.20, 0.55, 0.95), (0.72, 0.90, 1.0))
    cloud = noise(c.scene.seed, 6, c.size, stretch=1.5) * smooth(0.45, 0.2, c.v)
    _over(image, 0.9 * smooth(0.5, 0.75, cloud), (1.0, 1.0, 1.0))
    _over(image, _edge(0.50 - c.v), (0.06, 0.45, 0.72))
    lines = np.sin(150 * c.v + 5 * np.sin(9 * c.u) - WAVES * c.scene.time)
    _over(image, 0.5 * smooth(0.4, 0.9, lines) * _edge(0.50 - c.v), (0.3, 0.75, 0.9))
    shore = 0.68 + 0.025 * np.sin(7 * c.u + rng.uniform(0, 6)) - 0.045 * np.sin(TIDE * c.scene.time)
    _over(image, _edge(shore - 0.03 - c.v), (0.93, 0.98, 1.0))
    _over(image, _edge(shore - c.v), (0.95, 0.83, 0.58))
    lean = 0.09 if rng.random() < 0.5 else 0.91  # a palm at one side
    trunk = np.abs(c.u - lean - 0.10 * (c.v - 0.4) ** 2) - 0.018
    _over(image, _edge(trunk) * (c.v > 0.24) * (c.v < 0.74), (0.45, 0.30, 0.16))
    theta, reach = np.arctan2(c.v - 0.24, c.u - lean), np.hypot(c.u - lean, c.v - 0.24)
    leaves = reach - 0.20 * np.abs(np.cos(2.5 * theta + 0.4)) ** 0.6
    _over(image, _edge(leaves), (0.10, 0.48, 0.18))
    return image


def _forest(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    image = _fade(c.v, (0.35, 0.62, 0.22), (0.55, 0.75, 0.35), (0.22, 0.42, 0.14))
    _over(image, 0.8 * smooth(0.45, 0.7, noise(c.scene.seed, 14, c.size)), (0.14, 0.40, 0.12))
    for k in range(7):
        x, half = (k + rng.uniform(0.1, 0.9)) / 7, rng.uniform(0.014, 0.042)
        trunk = np.abs(c.u - x - 0.03 * np.sin(3 * c.v + k)) - half
        bark = (0.36, 0.23, 0.13) if k % 2 else (0.24, 0.15, 0.09)
        _over(image, _edge(trunk), bark)
        _over(image, 0.4 * _edge(trunk) * smooth(0, half, c.u - x), (0.08, 0.05, 0.03))
    leaves = noise(c.scene.seed + 1, 22, c.size) * smooth(0.35, 0.0, c.v)
    _over(image, smooth(0.28, 0.42, leaves), (0.45, 0.72, 0.18))
    return image


def _city(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    image = _fade(c.v, (0.03, 0.03, 0.12), (0.10, 0.09, 0.26), (0.18, 0.12, 0.30))
    left = 0.0
    while left < 1:
        width, roof = rng.uniform(0.10, 0.18), rng.uniform(0.08, 0.42)
        inside = (c.u >= left) & (c.u < left + width - 0.01) & (c.v > roof)
        image[inside] = np.array((0.10, 0.10, 0.19), np.float32) * rng.uniform(0.7, 1.6)
        gx, gy = (c.u - left) / 0.032, (c.v - roof) / 0.045
        lit = (rng.random((40, 8)) < 0.55)[np.clip(gy, 0, 39).astype(int), np.clip(gx, 0, 7).astype(int)]
        pane = (np.abs(gx % 1 - 0.5) < 0.3) & (np.abs(gy % 1 - 0.5) < 0.3) & (c.u < left + width - 0.02)
        image[inside & lit & pane] = np.array((1.0, 0.82, 0.38), np.float32)
        left += width
    for _ in range(9):
        x, y, r = rng.random(), rng.uniform(0.5, 0.95), rng.uniform(0.015, 0.04)
        glow = ((1.0, 0.35, 0.2), (1.0, 0.8, 0.3), (0.3, 0.7, 1.0))[rng.integers(3)]
        _over(image, 0.75 * _edge(np.hypot(c.u - x, c.v - y) - r), glow)
    return image


def _library(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    covers = np.array(((0.62, 0.12, 0.10), (0.12, 0.25, 0.45), (0.16, 0.40, 0.22), (0.75, 0.58, 0.22),
                       (0.45, 0.26, 0.14), (0.80, 0.74, 0.62), (0.38, 0.14, 0.30)), np.float32)
    row = np.clip((c.v / 0.2).astype(int), 0, 5)
    inside, book_w = c.v / 0.2 % 1.0, 1 / 26
    column = np.clip((c.u / book_w).astype(int), 0, 25)
    colour, tall = rng.integers(len(covers), size=(6, 26)), rng.uniform(0.12, 0.35, (6, 26)).astype(np.float32)
    image = np.full((*c.u.shape, 3), (0.16, 0.09, 0.05), np.float32)
    across = np.abs(c.u / book_w % 1.0 - 0.5) * 2
    book = (inside > tall[row, column]) & (inside < 0.88) & (across < 0.9)
    shade = (1.0 - 0.45 * across**2)[..., None]
    image[book] = (covers[colour[row, column]] * shade)[book]
    image[inside >= 0.88] = (0.50, 0.31, 0.16)
    stripe = book & (np.abs(inside - 0.55) < 0.03)
    image[stripe] = (0.92, 0.78, 0.4)
    return np.asarray(image * 0.92, np.float32)


def _sunset(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    image = _fade(c.v * 1.45, (0.28, 0.14, 0.45), (0.75, 0.25, 0.42), (0.99, 0.50, 0.22), (1.0, 0.80, 0.35))
    x = 0.18 if rng.random() < 0.5 else 0.82
    dist = np.hypot(c.u - x, c.v - 0.52)
    _over(image, 0.6 * bump(dist, 0.22), (1.0, 0.85, 0.45))
    _over(image, _edge(dist - 0.10), (1.0, 0.95, 0.68))
    bars = np.abs(c.v - 0.25 - 0.05 * np.sin(5 * c.u + rng.uniform(0, 6))) - 0.03 * noise(c.scene.seed, 5, c.size)
    _over(image, 0.55 * _edge(bars, 0.02), (0.99, 0.45, 0.45))
    hills = 0.66 + 0.04 * np.sin(5 * c.u + rng.uniform(0, 6)) + 0.02 * np.sin(11 * c.u)
    _over(image, _edge(hills - c.v), (0.18, 0.08, 0.20))
    return image


def _space(c: Canvas, rng: np.random.Generator) -> np.ndarray:
    nebula = noise(c.scene.seed, 6, c.size)
    haze = nebula * smooth(0.1, 0.9, c.u * 0.5 + c.v * 0.5)
    image = _fade(haze, (0.01, 0.01, 0.05), (0.08, 0.04, 0.22), (0.40, 0.12, 0.45))
    dots = np.zeros_like(c.u)
    for _ in range(60):
        x, y, r = rng.random(), rng.random(), rng.uniform(0.003, 0.007)
        dots = np.maximum(dots, smooth(r * r * 2.2, 0.0, (c.u - x) ** 2 + (c.v - y) ** 2))
    _over(image, dots, (1.0, 1.0, 0.95))
    x = 0.16 if rng.random() < 0.5 else 0.84
    dx, dy, r = c.u - x, c.v - 0.20, 0.11
    ball = np.hypot(dx, dy)
    bands = 0.85 + 0.15 * np.sin(60 * dy + 3 * dx)
    lit = (bands * np.clip(0.9 - (dx + dy) * 4, 0.15, 1.2))[..., None]
    ring = np.abs(np.hypot(dx, (dy + 0.25 * dx) * 3.2) - 0.17) - 0.02
    _over(image, _edge(ball - r), np.array((0.95, 0.55, 0.25), np.float32) * lit)
    _over(image, 0.85 * _edge(ring) * ((ball > r) | (dy + 0.25 * dx > 0)), (0.85, 0.78, 0.62))
    return image


_PLACES = {None: _plain, "snow": _snow, "beach": _beach, "forest": _forest, "city": _city, "library": _library,
           "sunset": _sunset, "space": _space}  # fmt: skip
_TINTS: dict[str | None, tuple[float, float, float]] = {
    "snow": (0.97, 1.0, 1.05), "beach": (1.05, 1.02, 0.96), "forest": (0.96, 1.03, 0.93), "city": (0.90, 0.89, 0.98),
    "library": (1.02, 0.96, 0.88), "sunset": (1.08, 0.94, 0.84), "space": (0.95, 0.95, 1.02),
}  # fmt: skip


def backdrop(c: Canvas) -> np.ndarray:
    """What stands behind the person, float32 [S, S, 3] in [0, 1]."""
    return _PLACES[c.scene.place](c, np.random.default_rng(c.scene.seed))


def atmosphere(c: Canvas) -> np.ndarray:
    """The picture with the light's colour on the person, and falling snow where it snows; float32 [S, S, 3]."""
    warmth = c.scene.warmth
    light = np.array((1 + 0.035 * warmth, 1.0, 1 - 0.05 * warmth)) * c.scene.gain * _TINTS.get(c.scene.place, (1, 1, 1))
    image: np.ndarray = np.where((c.labels > 0)[..., None], c.rgb * light.astype(np.float32), c.rgb)
    if c.scene.place == "snow":
        rng, flakes = np.random.default_rng([c.scene.seed, 1]), np.zeros_like(c.u)
        for _ in range(42):
            x, y, r = rng.random(), (rng.random() + SNOWFALL * c.scene.time) % 1, rng.uniform(0.006, 0.014)
            if abs(x - 0.5) < 0.2 and 0.25 < y < 0.8:  # not on the face
                continue
            flakes = np.maximum(flakes, smooth(r * 1.2, r * 0.6, np.hypot(c.u - x, c.v - y)))
        _over(image, 0.95 * flakes, (1.0, 1.0, 1.0))
    return np.asarray(image, np.float32)
