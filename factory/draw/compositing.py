"""Projected Gaussians -> pixels, front to back, with the closed form of the slopes. Constants are those of 3D Gaussian
Splatting's code. Shape suffixes: `T` tiles, `G` Gaussians of a tile in depth order, `P` pixels of a tile."""

from __future__ import annotations

from typing import Any, Final

import torch

FAINT: Final = 1 / 255  # alpha below which a Gaussian is not drawn at a pixel
_OPAQUE: Final = 0.999  # alpha at most, as light must pass for a gradient to


def composited(
    exponents_TG6: torch.Tensor,
    colours_TG3: torch.Tensor,
    middles_T2: torch.Tensor,
    pixels_P2: torch.Tensor,
    background_3: torch.Tensor,
) -> torch.Tensor:
    """Colours of the tiles' pixels [T, P, 3], front to back (Eq. 3).

    The exponent is a polynomial of the pixel's x and y: its coefficients times the pixels' monomials are one product.
    They count from the tile's middle, as float32 would lose the difference of large squares.
    """
    centre, conic, log_opacity = exponents_TG6[..., :2], exponents_TG6[..., 2:5], exponents_TG6[..., 5]
    x, y = (centre - middles_T2[:, None]).unbind(2)
    xx, yy, xy = conic.unbind(2)
    coefficients_TG6 = torch.stack(
        [
            log_opacity - 0.5 * (xx * x * x + yy * y * y) - xy * x * y,
            xx * x + xy * y,
            yy * y + xy * x,
            -0.5 * xx,
            -0.5 * yy,
            -xy,
        ],
        2,
    )
    px, py = pixels_P2.unbind(1)
    monomials_6P = torch.stack([torch.ones_like(px), px, py, px * px, py * py, px * py])
    alpha_TGP = (coefficients_TG6 @ monomials_6P).clamp(max=0).exp().clamp(max=_OPAQUE)
    alpha_TGP = torch.where(alpha_TGP < FAINT, 0, alpha_TGP)
    return _Composite.apply(alpha_TGP, colours_TG3, background_3)  # type: ignore[no-untyped-call]


class _Composite(torch.autograd.Function):
    """c = sum_i T_i alpha_i c_i + T_end c_background, T_i = prod_{j < i} (1 - alpha_j): with the closed form of its
    slopes, which needs half of the memory and of the time of the automatic one."""

    @staticmethod
    def forward(
        ctx: Any, alpha_TGP: torch.Tensor, colours_TG3: torch.Tensor, background_3: torch.Tensor
    ) -> torch.Tensor:
        through_TGP = (1 - alpha_TGP).cumprod(1)
        weights_TGP = alpha_TGP.clone()
        weights_TGP[:, 1:] *= through_TGP[:, :-1]
        picture = weights_TGP.transpose(1, 2) @ colours_TG3 + through_TGP[:, -1, :, None] * background_3
        ctx.save_for_backward(alpha_TGP, weights_TGP, through_TGP[:, -1], colours_TG3, background_3)
        return picture

    @staticmethod
    def backward(ctx: Any, *slopes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        (slope_TP3,) = slopes
        alpha_TGP, weights_TGP, end_TP, colours_TG3, background_3 = ctx.saved_tensors
        shade_TGP = colours_TG3 @ slope_TP3.transpose(1, 2)
        shaded_TGP = weights_TGP * shade_TGP
        end = (end_TP * (slope_TP3 @ background_3))[:, None]
        total = shaded_TGP.sum(1, keepdim=True) + end
        behind_TGP = total - shaded_TGP.cumsum(1)  # what the slope says of all that lies behind, the background too
        # d c / d alpha_i = T_i c_i - behind_i / (1 - alpha_i); T_i = weight_i / alpha_i, or from the next one's
        front_TGP = torch.ones_like(alpha_TGP)
        front_TGP[:, 1:] = (1 - alpha_TGP[:, :-1]).cumprod(1)
        to_alpha = front_TGP * shade_TGP - behind_TGP / (1 - alpha_TGP)
        return to_alpha, weights_TGP @ slope_TP3, (end_TP[..., None] * slope_TP3).sum((0, 1))
