"""3D Gaussians: the rasteriser against closed forms, finite differences, a plain loop, the skeletons and gsplat."""

from __future__ import annotations

from dataclasses import replace
from math import exp

import numpy as np
import pytest
import torch

from factory.draw.splats import SH_C0, Camera, Splats, head_camera, rasterise
from factory.faces.pose import POINTS, HeadPose, landmarks


def some(num: int, *, degree: int = 1, seed: int = 0, size: float = 0.1) -> Splats:
    random = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    return Splats(
        means_N3=0.5 * normal(num, 3),
        log_scales_N3=normal(num, 3) * 0.3 + np.log(size),
        quats_N4=normal(num, 4),
        logits_N=normal(num),
        sh_NK3=normal(num, (degree + 1) ** 2, 3) * 0.3,
        background_3=torch.tensor([0.2, 0.4, 0.6], dtype=torch.float64),
    )


def camera(splats: Splats, side_px: int, **pose: float) -> Camera:
    return head_camera(HeadPose(**pose), side_px, like=splats.means_N3)


def by_a_loop(splats: Splats, seen_by: Camera) -> np.ndarray:
    """Every Gaussian at every pixel, nearest first, as the paper writes it."""
    width, height = seen_by.size_px
    rotation, shift = seen_by.rotation_33.numpy(), seen_by.shift_3.numpy()
    y, x = np.mgrid[:height, :width] + 0.5
    light, picture = np.ones((height, width)), np.zeros((height, width, 3))
    seen = splats.means_N3.numpy() @ rotation.T + shift
    for n in np.argsort(seen[:, 2]):
        w, i, j, k = (splats.quats_N4[n] / splats.quats_N4[n].norm()).tolist()
        axes = np.array(
            [
                [1 - 2 * (j * j + k * k), 2 * (i * j - w * k), 2 * (i * k + w * j)],
                [2 * (i * j + w * k), 1 - 2 * (i * i + k * k), 2 * (j * k - w * i)],
                [2 * (i * k - w * j), 2 * (j * k + w * i), 1 - 2 * (i * i + j * j)],
            ]
        )
        spread = axes @ np.diag(np.exp(splats.log_scales_N3[n].numpy() * 2)) @ axes.T
        a, b, depth = seen[n]
        slope = seen_by.focal_px * np.array([[1 / depth, 0, -a / depth**2], [0, 1 / depth, -b / depth**2]])
        covariance = slope @ rotation @ spread @ rotation.T @ slope.T + 0.3 * np.eye(2)
        apart = np.stack([x, y], 2) - (seen_by.focal_px * seen[n, :2] / depth + seen_by.centre_px)
        inner = np.einsum("hwi,ij,hwj->hw", apart, np.linalg.inv(covariance), apart)
        alpha = np.minimum(torch.sigmoid(splats.logits_N[n]).item() * np.exp(-0.5 * inner), 0.999)
        alpha[alpha < 1 / 255] = 0
        eye = -rotation.T @ shift
        way = splats.means_N3[n].numpy() - eye
        way /= np.linalg.norm(way)
        basis = np.array([SH_C0, *(0.4886025119029199 * np.array([-way[1], way[2], -way[0]]))])
        colour = np.maximum(0.5 + basis[: splats.sh_NK3.shape[1]] @ splats.sh_NK3[n].numpy(), 0)
        picture += (light * alpha)[..., None] * colour
        light *= 1 - alpha
    return picture + light[..., None] * splats.background_3.numpy()


@pytest.mark.parametrize("degree", [0, 1])
@pytest.mark.parametrize("tile_px", [None, 16, 7])
def test_it_draws_what_a_loop_over_all_gaussians_and_pixels_draws(degree: int, tile_px: int | None) -> None:
    splats = some(60, degree=degree)
    seen_by = camera(splats, 40, yaw=20, pitch=-7, roll=5, scale=0.9, dx=0.05)
    drawn = rasterise(splats, seen_by, tile_px=tile_px).picture_3HW
    np.testing.assert_allclose(drawn.permute(1, 2, 0), by_a_loop(splats, seen_by), atol=1e-10)


def drawn_with_slopes(splats: Splats, tile_px: int | None) -> list[torch.Tensor]:
    own = {name: value.clone().requires_grad_() for name, value in splats.tensors().items()}
    drawn = rasterise(Splats(**own), camera(splats, 128, yaw=10), tile_px=tile_px).picture_3HW
    weight = torch.linspace(-1, 1, drawn.numel(), dtype=drawn.dtype).view_as(drawn)
    (drawn * weight).sum().backward()
    slopes = [value.grad for value in own.values() if value.grad is not None]
    assert len(slopes) == len(own)
    return [drawn.detach(), *slopes]


def test_tiles_are_the_whole_picture_with_its_gradients_also_in_float32() -> None:
    """In float32 a pixel may fall on the other side of the alpha below which nothing is drawn, 1/255."""
    splats = some(600, size=0.06)
    whole = drawn_with_slopes(splats, None)
    for a, b in zip(whole, drawn_with_slopes(splats, 16), strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    single = replace(splats, **{name: value.float() for name, value in splats.tensors().items()})
    for a, b in zip(whole, drawn_with_slopes(single, 16), strict=True):
        assert (a - b).abs().mean() <= 1e-3 * a.abs().mean()


@pytest.mark.parametrize("tile_px", [None, 8])
def test_gradients_are_those_of_finite_differences(tile_px: int | None) -> None:
    splats = some(9, size=0.3)
    seen_by = camera(splats, 18, yaw=-12, pitch=4)
    splats = replace(splats, sh_NK3=splats.sh_NK3 * 0.3)  # away from the kink at black

    def picture(*tensors: torch.Tensor) -> torch.Tensor:
        return rasterise(
            Splats(**dict(zip(splats.tensors(), tensors, strict=True))), seen_by, tile_px=tile_px
        ).picture_3HW

    tensors = [value.clone().requires_grad_() for value in splats.tensors().values()]
    # steps so small that no pixel crosses the alpha below which nothing is drawn
    assert torch.autograd.gradcheck(picture, tensors, eps=1e-8, atol=2e-5, rtol=1e-4)


def test_one_gaussian_is_its_closed_form() -> None:
    """A round Gaussian on the camera's axis: variance (focal s / depth)^2 + 0.3 px^2, colour over background."""
    splats = replace(
        some(1, degree=0),
        means_N3=torch.tensor([[0.0, 0.0, -0.3]], dtype=torch.float64),
        log_scales_N3=torch.full((1, 3), np.log(0.2), dtype=torch.float64),
        logits_N=torch.zeros(1, dtype=torch.float64),
        sh_NK3=torch.tensor([[[1.0, 0.0, -1.0]]], dtype=torch.float64),
    )
    seen_by = camera(splats, 64)
    drawn = rasterise(splats, seen_by).picture_3HW
    variance = (0.278 * 64 * 0.2) ** 2 + 0.3
    for row, column in ((30, 32), (33, 36), (25, 30)):
        away = (column + 0.5 - 32) ** 2 + (row + 0.5 - 0.47 * 64) ** 2
        alpha = 0.5 * exp(-0.5 * away / variance)
        for channel, value in enumerate((1.0, 0.0, -1.0)):
            expected = alpha * (0.5 + SH_C0 * value) + (1 - alpha) * splats.background_3[channel].item()
            assert drawn[channel, row, column].item() == pytest.approx(expected, abs=1e-9)


def test_the_nearer_one_hides_the_other_whatever_their_order() -> None:
    red, blue = [1.77, -1.77, -1.77], [-1.77, -1.77, 1.77]
    two = replace(
        some(2, degree=0),
        means_N3=torch.tensor([[0, 0, 0.5], [0, 0, -0.5]], dtype=torch.float64),
        log_scales_N3=torch.full((2, 3), np.log(0.3), dtype=torch.float64),
        logits_N=torch.full((2,), 9.0, dtype=torch.float64),
        sh_NK3=torch.tensor([[red], [blue]], dtype=torch.float64),
    )
    swapped = replace(two, means_N3=two.means_N3.flip(0), sh_NK3=two.sh_NK3.flip(0))
    for splats in (two, swapped):
        middle = rasterise(splats, camera(splats, 32)).picture_3HW[:, 15, 15]
        torch.testing.assert_close(middle, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64), atol=0.05, rtol=0)


def test_nothing_in_sight_is_the_background() -> None:
    splats = some(3)
    away = replace(splats, means_N3=splats.means_N3 - torch.tensor([0, 0, 40.0]))  # behind the camera
    for none in (away, replace(splats, logits_N=torch.full((3,), -20.0, dtype=torch.float64))):
        drawn = rasterise(none, camera(none, 20)).picture_3HW
        torch.testing.assert_close(drawn, none.background_3.view(3, 1, 1).expand(3, 20, 20))


@pytest.mark.parametrize(
    "pose",
    [
        HeadPose(),
        HeadPose(yaw=25),
        HeadPose(pitch=10),
        HeadPose(yaw=-20, pitch=5, roll=15, scale=0.8, dx=0.1, dy=-0.05),
    ],
)
def test_the_camera_of_a_pose_sees_the_head_where_its_skeleton_is(pose: HeadPose) -> None:
    """But for perspective, and for the skeletons' own way of turning and nodding at once: 1.5 px of 128."""
    dome = [
        (x, y, 0.75 * max(0.0, 1 - (x / 0.98) ** 2 - ((y - 0.05) / 1.25) ** 2) + lift) for x, y, lift in POINTS.values()
    ]
    points = torch.tensor(dome[:5]) * torch.tensor([1.0, 1.0, -1.0])
    seen_by = head_camera(pose, 128)
    x, y, depth = (points @ seen_by.rotation_33.T + seen_by.shift_3).unbind(1)
    places = torch.stack([x, y], 1) / depth[:, None] * seen_by.focal_px + torch.tensor(seen_by.centre_px)
    assert np.linalg.norm(places.numpy() - landmarks(pose) * 128, axis=1).max() < 1.5


@pytest.mark.gpu
def test_gsplat_draws_the_same_and_has_the_same_gradients() -> None:
    pytest.importorskip("gsplat")
    found = []
    for device in ("cpu", "cuda"):
        own = {name: value.float().to(device).requires_grad_() for name, value in some(500).tensors().items()}
        seen_by = head_camera(HeadPose(yaw=15, pitch=5), 128, like=own["means_N3"].detach())
        drawn = rasterise(Splats(**own), seen_by).picture_3HW
        weight = torch.linspace(-1, 1, drawn.numel(), device=device).view_as(drawn)
        (drawn * weight).sum().backward()
        found.append([drawn.detach().cpu(), *(value.grad.cpu() for value in own.values() if value.grad is not None)])
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() <= 5e-3 * a.abs().max()
