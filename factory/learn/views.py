"""Augmented views after the VAE: fresh ones for a step, or a pool of them per slot that is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from factory.base.diffusion import DiffusionBase, EncodedImages
from factory.config import MethodConfig
from factory.learn.augment import RenderedView, apply_view, draw_view
from factory.learn.losses import mask_weights

_VAE_BATCH = 32  # images; bounds the memory of encoding a pool of views


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedViews:
    """Augmented views after the VAE, [..., C, H, W], with what the loss and the MLP need to know of them."""

    images: EncodedImages
    weights_BHW: torch.Tensor  # M_face + beta M_hair
    mirrored_B: torch.Tensor  # int64, 0 or 1

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """All there is of them; axis 0 is the view."""
        return self.images.mean_BCHW, self.images.std_BCHW, self.weights_BHW, self.mirrored_B


def encode_fresh(
    base: DiffusionBase,
    layers: Sequence[Sequence[torch.Tensor]],
    generators: Sequence[torch.Generator],
    num: int,
    method: MethodConfig,
) -> EncodedViews:
    """`num` new views of each of B people, each drawn by its own generator: B*num rows. A person's photos (each from
    `crop_layers`) take turns; where there are more photos than views, chance says which."""
    rendered: list[RenderedView] = []
    mirrored: list[bool] = []
    for photos, generator in zip(layers, generators, strict=True):
        for number in range(num):
            if len(photos) > num:
                number = int(torch.randint(len(photos), (), generator=generator))
            view = draw_view(generator, mirror=method.mirror)
            rendered.append(apply_view(photos[number % len(photos)], view, latent_side=base.latent_side))
            mirrored.append(view.mirrored)
    face_BHW, hair_BHW = (torch.stack([getattr(view, mask) for view in rendered]) for mask in ("face", "hair"))
    chunks = torch.stack([view.image for view in rendered]).split(_VAE_BATCH)
    encoded = [base.encode_images(chunk) for chunk in chunks]
    return EncodedViews(
        images=EncodedImages(
            mean_BCHW=torch.cat([part.mean_BCHW for part in encoded]),
            std_BCHW=torch.cat([part.std_BCHW for part in encoded]),
        ),
        weights_BHW=mask_weights(face_BHW, hair_BHW, method).to(base.exact_dtype),
        mirrored_B=torch.tensor(mirrored, dtype=torch.int64, device=base.device),
    )


class ViewPool:
    """K views of each slot. `state` is its memory, as tensors whose axis 0 is the slot."""

    def __init__(self, base: DiffusionBase, num_slots: int, num_views: int) -> None:
        shape, side, device = (num_slots, num_views), base.latent_side, base.device
        mean_BKCHW, std_BKCHW = (
            torch.empty(*shape, base.num_channels, side, side, dtype=base.exact_dtype, device=device) for _ in "ms"
        )
        weights_BKHW = torch.empty(*shape, side, side, dtype=base.exact_dtype, device=device)
        mirrored_BK = torch.empty(*shape, dtype=torch.int64, device=device)
        self.state = [mean_BKCHW, std_BKCHW, weights_BKHW, mirrored_BK]

    def put(self, slot: int, views: EncodedViews) -> None:
        """A slot's own K views."""
        for kept, new in zip(self.state, views.tensors(), strict=True):
            kept[slot].copy_(new)

    def take(self, view_BM: torch.Tensor) -> EncodedViews:
        """Of each of the first B slots the views of these numbers, as B*M rows."""
        slot_BM = torch.arange(len(view_BM), device=view_BM.device).unsqueeze(1).expand_as(view_BM)
        mean, std, weights, mirrored = (kept[slot_BM, view_BM].flatten(0, 1) for kept in self.state)
        return EncodedViews(
            images=EncodedImages(mean_BCHW=mean, std_BCHW=std), weights_BHW=weights, mirrored_B=mirrored
        )
