"""Augmented views of a crop: colour jitter, mirror, a random 3/4 crop, and a random place on a black canvas.

Drawing the numbers (`draw_view`) is apart from applying them (`apply_view`), so that a view can be repeated exactly.
The masks follow the geometry and end at latent size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional
from torchvision.transforms.v2 import functional as colour

from factory.records import FaceMasks

_JITTER = 0.2  # brightness, contrast and saturation factors lie in 1 +- 0.2
_HUE = 0.01  # of the colour circle, +-
_MIN_SCALE = 0.5  # of the canvas; up to 1
_STRETCH = 0.1  # width against height, +-


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The random numbers of one augmented view."""

    order: tuple[int, ...]  # of the four jitters
    factors: tuple[float, float, float, float]  # brightness, contrast, saturation (x), hue (+, of the circle)
    mirrored: bool
    crop: tuple[float, float]  # x, y of the 3/4 crop, 0..1 of the room there is
    scale: float  # height of the pasted crop, of the canvas
    stretch: float  # its width / height
    place: tuple[float, float]  # x, y on the canvas, 0..1 of the room there is


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedView:
    """One view, ready for the VAE and the loss."""

    image: torch.Tensor  # float32 [3, S, S], RGB, -1..1; black outside the pasted crop
    face: torch.Tensor  # bool [H, W], latent cells
    hair: torch.Tensor  # bool [H, W]


def draw_view(generator: torch.Generator, *, mirror: float) -> View:
    """Random numbers of one view; `mirror` is the probability of mirroring."""
    order = tuple(torch.randperm(4, generator=generator).tolist())
    u = torch.rand(11, generator=generator, dtype=torch.float64).tolist()
    return View(
        order=order,
        factors=(*(1 + _JITTER * (2 * value - 1) for value in u[:3]), _HUE * (2 * u[3] - 1)),
        mirrored=u[4] < mirror,
        crop=(u[5], u[6]),
        scale=_MIN_SCALE + (1 - _MIN_SCALE) * u[7],
        stretch=1 + _STRETCH * (2 * u[8] - 1),
        place=(u[9], u[10]),
    )


def crop_layers(crop: np.ndarray, masks: FaceMasks) -> torch.Tensor:
    """RGB in 0..1 (of uint8 [S, S, 3]), face and hair mask as one float32 [5, S, S], so that they move as one."""
    rgb = torch.from_numpy(crop).permute(2, 0, 1).float() / 255
    return torch.cat([rgb, torch.from_numpy(np.stack([masks.face, masks.hair])).float()])


def apply_view(layers: torch.Tensor, view: View, *, latent_side: int) -> RenderedView:
    """The view of a crop. `layers` is float32 [5, S, S] from `crop_layers`, on any device."""
    side = layers.shape[-1]
    layers = torch.cat([_jitter(layers[:3], view), layers[3:]])
    if view.mirrored:
        layers = layers.flip(-1)
    size = side - side // 4  # the release's rounding of 3/4
    left, top = (round(offset * (side - size)) for offset in view.crop)
    layers = layers[:, top : top + size, left : left + size]

    height = min(int(side * view.scale), side)
    width = min(int(height * view.stretch), side)
    pasted = functional.interpolate(layers[None], (height, width), mode="bicubic", align_corners=False, antialias=True)
    canvas = torch.zeros(5, side, side, device=layers.device)
    x, y = (round(offset * (side - extent)) for offset, extent in zip(view.place, (width, height), strict=True))
    canvas[:, y : y + height, x : x + width] = pasted[0].clamp(0, 1)

    masks = functional.adaptive_avg_pool2d(canvas[3:], latent_side) >= 0.5
    return RenderedView(image=canvas[:3] * 2 - 1, face=masks[0], hair=masks[1])


def _jitter(rgb: torch.Tensor, view: View) -> torch.Tensor:
    adjust = (colour.adjust_brightness, colour.adjust_contrast, colour.adjust_saturation, colour.adjust_hue)
    for which in view.order:
        rgb = adjust[which](rgb, view.factors[which])
    return rgb
