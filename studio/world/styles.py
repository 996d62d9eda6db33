"""Picture styles: filters whose sizes follow the picture's, so that a style looks the same at any resolution."""

from __future__ import annotations

import cv2
import numpy as np

from studio.world.shapes import noise, smooth

_LUMA = np.array((0.30, 0.59, 0.11), np.float32)


def _blur(image: np.ndarray, fraction: float) -> np.ndarray:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), max(fraction * image.shape[0], 0.3)), np.float32)


def _edges(grey: np.ndarray) -> np.ndarray:
    """Darkness of outlines: how far a pixel lies below its surroundings, [0, 1]."""
    return np.asarray(np.clip((_blur(grey, 0.016) - _blur(grey, 0.005)) * 7, 0, 1), np.float32)


def _sketch(image: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    size = image.shape[0]
    grey = np.asarray(image @ _LUMA, np.float32)
    person = _blur((labels > 0).astype(np.float32), 0.01)
    at = np.arange(size, dtype=np.float32) / size
    u, v = np.meshgrid(at, at)
    hatch = 0.5 + 0.5 * np.sin((u + v) * 210 + 4 * noise(seed, 8, size))
    cross = 0.5 + 0.5 * np.sin((u - v) * 190 + 4 * noise(seed + 1, 8, size))
    tone = 1 - (1 - smooth(0.02, 0.75, grey)) * (0.62 + 0.22 * hatch) - 0.15 * cross * smooth(0.35, 0.1, grey)
    outline = np.clip(cv2.morphologyEx(labels, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)), 0, 1).astype(np.float32)
    drawn = tone * (1 - 0.9 * _edges(grey)) * (1 - 0.55 * np.clip(1.6 * _blur(outline, 0.004), 0, 1))
    faint = 0.80 + 0.20 * smooth(0.1, 0.8, grey) - 0.35 * _edges(grey)
    paper = 0.955 + 0.03 * (noise(seed + 2, 60, size) - 0.5)
    drawing = paper * (faint + (drawn - faint) * person)
    return np.asarray(drawing[..., None] * np.array((1.0, 0.99, 0.96), np.float32), np.float32)


def _oil(image: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    size = image.shape[0]
    at = np.arange(size, dtype=np.float32)
    px, py = np.meshgrid(at, at)
    face = _blur((labels > 0).astype(np.float32), 0.02)
    angle = 6.3 * noise(seed, 5, size)
    grain = noise(seed + 1, 34, size) - 0.5
    reach = size * (0.06 - 0.045 * face) * grain
    moved = cv2.remap(image, px + np.cos(angle) * reach, py + np.sin(angle) * reach, cv2.INTER_LINEAR,
                      borderMode=cv2.BORDER_REFLECT)
    soft = cv2.bilateralFilter(moved, max(3, round(size * 0.024) | 1), 0.12, size * 0.012)
    levels = np.round(soft * 9) / 9
    paint = soft + (levels - soft) * (0.75 - 0.35 * face)[..., None]
    sharp = image + 1.2 * (image - _blur(image, 0.008))  # the features keep their drawing
    paint = paint + (sharp - paint) * (0.45 * face)[..., None]
    along = noise(seed + 2, 64, size, stretch=0.35) - 0.5
    across = noise(seed + 3, 22, size, stretch=2.8) - 0.5
    ridges = np.where(np.sin(angle) > 0, along, across)
    grey = paint.mean(-1, keepdims=True)
    rich = grey + (paint - grey) * 1.35
    relief = ((0.20 - 0.06 * face) * ridges)[..., None]
    warm = rich * np.array((1.05, 0.99, 0.86), np.float32)
    return np.asarray(np.clip(warm * (1 + relief) + 0.25 * relief, 0, 1), np.float32)


def _pixel(image: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    size = image.shape[0]
    cells, cell = 43, size * 3 / 128
    side = round(cells * cell)
    sharp = np.clip(image + 0.9 * (image - _blur(image, 0.015)), 0, 1)
    pad = max(side - size, 0)
    framed = cv2.copyMakeBorder(sharp, 0, pad, 0, pad, cv2.BORDER_REPLICATE)
    small = cv2.resize(framed, (cells, cells), interpolation=cv2.INTER_AREA)
    grey = small.mean(-1, keepdims=True)
    vivid = np.clip(grey + (small - grey) * 1.3, 0, 1)
    value = vivid.max(-1, keepdims=True)
    levels = vivid * (np.round(value * 8) / 8 / (value + 1e-6))  # steps of brightness keep the hue
    kinds = cv2.resize(cv2.copyMakeBorder(labels, 0, pad, 0, pad, cv2.BORDER_REPLICATE), (cells, cells),
                       interpolation=cv2.INTER_NEAREST_EXACT)
    person = (kinds > 0).astype(np.uint8)
    rim = cv2.dilate(person, np.ones((3, 3), np.uint8)) - person
    levels = np.where((rim > 0)[..., None], np.array((0.06, 0.05, 0.10), np.float32), levels)
    big = cv2.resize(levels, (side, side), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(big[:size, :size], np.float32)


def _bw(image: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    size = image.shape[0]
    grey = np.asarray(image @ _LUMA, np.float32)
    grey = grey + 0.55 * (smooth(0.0, 1.0, grey) - grey)
    at = np.linspace(-1, 1, size, dtype=np.float32)
    vignette = 1 - 0.22 * np.clip(at[:, None] ** 2 + at[None] ** 2 - 0.5, 0, 2)
    grain = 0.05 * (noise(seed, 90, size) - 0.5)
    return np.repeat(np.clip(grey * vignette + grain, 0, 1)[..., None], 3, -1).astype(np.float32)


def _watercolor(image: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    size = image.shape[0]
    at = np.linspace(-1, 1, size, dtype=np.float32)
    radius = np.hypot(at[:, None], at[None] * 1.05)
    wash = smooth(1.12, 0.92, radius + 0.5 * (noise(seed, 7, size) - 0.5) + 0.15 * (noise(seed + 1, 24, size) - 0.5))
    person = _blur((labels > 0).astype(np.float32), 0.012)
    soft = cv2.bilateralFilter(image, max(3, round(size * 0.03) | 1), 0.14, size * 0.012)
    bleed = _blur(soft, 0.03)
    colour = bleed + (soft - bleed) * (0.35 + 0.65 * person)[..., None]
    grey = colour.mean(-1, keepdims=True)
    colour = grey + (colour - grey) * 1.25
    pigment = 0.84 + 0.32 * noise(seed + 2, 12, size) + 0.12 * (noise(seed + 3, 50, size) - 0.5)
    thin = 1 - (1 - np.clip(colour, 0, 1)) * (0.80 * pigment)[..., None]
    outline = _edges(np.asarray(image @ _LUMA, np.float32))
    rim = np.clip(6 * (person - person * person) - 0.9, 0, 1)
    thin = thin * (1 - 0.65 * outline - 0.22 * rim)[..., None]
    paper = np.array((0.985, 0.975, 0.95), np.float32)
    cover = np.maximum(wash * 0.92, person * smooth(1.45, 1.15, radius))
    return np.asarray(paper + (thin - paper) * cover[..., None], np.float32)


_STYLES = {"sketch": _sketch, "oil": _oil, "pixel": _pixel, "bw": _bw, "watercolor": _watercolor}


def apply(style: str | None, image: np.ndarray, labels: np.ndarray, seed: int) -> np.ndarray:
    """The picture, float32 [S, S, 3] in [0, 1], in a style (None leaves it as it is)."""
    return image if style is None else _STYLES[style](image, labels, seed)
