"""Augmented views: drawn from their own generator, masks follow the picture, black and unmasked outside."""

import numpy as np
import pytest
import torch

from factory.learn.augment import View, apply_view, crop_layers, draw_view
from factory.records import FaceMasks

SIDE, LATENT = 64, 8
PLAIN = View(
    order=(0, 1, 2, 3),
    factors=(1.0, 1.0, 1.0, 0.0),
    mirrored=False,
    crop=(0.5, 0.5),
    scale=1.0,
    stretch=1.0,
    place=(0.0, 0.0),
)


def layers() -> torch.Tensor:
    """A red left half, which is face, and a blue right half, which is hair."""
    crop = np.zeros((SIDE, SIDE, 3), np.uint8)
    crop[:, : SIDE // 2, 0] = 255
    crop[:, SIDE // 2 :, 2] = 255
    face = crop[..., 0] > 0
    return crop_layers(crop, FaceMasks(face=face, hair=~face))


def changed(**fields: object) -> View:
    values = {name: getattr(PLAIN, name) for name in View.__slots__}
    return View(**{**values, **fields})  # type: ignore[arg-type]


def test_masks_follow_the_geometry() -> None:
    view = apply_view(layers(), PLAIN, latent_side=LATENT)
    assert view.face[:, : LATENT // 2].all() and not view.face[:, LATENT // 2 :].any()
    assert torch.equal(view.hair, ~view.face)
    assert view.image[0, 0, 0] > 0.9 and view.image[2, 0, 0] < -0.9


def test_mirror_swaps_the_sides() -> None:
    view = apply_view(layers(), changed(mirrored=True), latent_side=LATENT)
    assert view.face[:, LATENT // 2 :].all() and not view.face[:, : LATENT // 2].any()
    assert view.image[2, 0, 0] > 0.9


def test_outside_the_pasted_crop_all_is_black_and_unmasked() -> None:
    view = apply_view(layers(), changed(scale=0.5, place=(1.0, 1.0)), latent_side=LATENT)
    half, cells = SIDE // 2, LATENT // 2
    assert (view.image[:, :half] == -1).all() and (view.image[:, :, :half] == -1).all()
    assert not view.face[:cells].any() and not view.hair[:, :cells].any()
    assert (view.face | view.hair)[cells:, cells:].all()


def test_crop_is_three_quarters_of_the_side() -> None:
    """The colour border lies at half the side; a crop from the left end shows it at 2/3 of its own width."""
    view = apply_view(layers(), changed(crop=(0.0, 0.0)), latent_side=SIDE)
    assert int(view.face[0].sum()) == pytest.approx(SIDE * 2 / 3, abs=1)


def test_draws_repeat_and_stay_in_range() -> None:
    generator = torch.Generator().manual_seed(1)
    views = [draw_view(generator, mirror=0.5) for _ in range(200)]
    again = torch.Generator().manual_seed(1)
    assert views == [draw_view(again, mirror=0.5) for _ in range(200)]
    assert 60 < sum(view.mirrored for view in views) < 140
    assert all(0.5 <= view.scale <= 1 and 0.9 <= view.stretch <= 1.1 for view in views)
    assert all(0.8 <= factor <= 1.2 for view in views for factor in view.factors[:3])
    assert all(abs(view.factors[3]) <= 0.01 for view in views)
    assert not any(draw_view(generator, mirror=0.0).mirrored for _ in range(50))


@pytest.mark.parametrize("seed", range(8))
def test_any_view_renders(seed: int) -> None:
    view = apply_view(layers(), draw_view(torch.Generator().manual_seed(seed), mirror=0.5), latent_side=LATENT)
    assert view.image.shape == (3, SIDE, SIDE)
    assert float(view.image.min()) >= -1 and float(view.image.max()) <= 1
    assert not (view.face & view.hair).any()
