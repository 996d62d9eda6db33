"""3D Gaussians and a differentiable rasteriser: plain torch on a CPU, gsplat where there is CUDA and gsplat.

The equations are 3D Gaussian Splatting's (Kerbl et al. 2023, arXiv 2308.04079) with the constants of its published
code, so that the same splats look the same elsewhere. Axes are OpenCV's: x right, y down, z away from the viewer;
lengths are head units (factory/faces/pose.py). Shape suffixes: `N` Gaussians, `K` coefficients of spherical harmonics
(1 or 4), `T` tiles, `G` Gaussians of a tile in depth order, `P` pixels of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from math import cos, log, radians, sin
from typing import Any, Final

import torch

from factory.draw.compositing import FAINT, composited
from factory.faces.pose import EYE_LINE, HEAD_UNIT, PITCH_PIVOT, YAW_PIVOT, HeadPose

SH_C0: Final = 0.28209479177387814  # of degree 0
SH_C1: Final = 0.4886025119029199  # of degree 1
_DILATION: Final = 0.3  # px^2 added to a projected covariance: no Gaussian falls between pixels
_NEAR: Final = 0.2  # depth from which on Gaussians are drawn
_TILE_PX: Final = 8
_TOGETHER: Final = 32  # tiles of similar numbers of Gaussians are padded to one length and share a call
_NOTHING: Final = -1e4  # logarithm of an alpha that is none


@dataclass(frozen=True, slots=True, kw_only=True)
class Splats:
    """3D Gaussians as they are optimised: float32 or float64 tensors, unbounded."""

    means_N3: torch.Tensor  # head units
    log_scales_N3: torch.Tensor  # logarithm of the standard deviations along the own axes, head units
    quats_N4: torch.Tensor  # w x y z of the own axes' rotation, of any length
    logits_N: torch.Tensor  # sigmoid gives the opacity
    sh_NK3: torch.Tensor  # spherical harmonics of RGB; colour = 1/2 + their sum, 0..1 and beyond
    background_3: torch.Tensor  # RGB behind everything

    def __len__(self) -> int:
        return len(self.means_N3)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By field name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def detached(self) -> Splats:
        """The same numbers without a graph."""
        return replace(self, **{name: tensor.detach().clone() for name, tensor in self.tensors().items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """How a head is seen: `HeadPose` without its limits, which are those of one pose control."""

    yaw: float = 0.0  # degrees, positive turns the face to image right
    pitch: float = 0.0  # degrees, positive looks down
    roll: float = 0.0  # degrees, positive is clockwise
    scale: float = 1.0
    dx: float = 0.0  # shift from the middle, share of the side
    dy: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A pinhole camera."""

    rotation_33: torch.Tensor  # world to camera
    shift_3: torch.Tensor  # x_camera = rotation x + shift
    focal_px: float
    centre_px: tuple[float, float]  # x y of the axis; pixel (0, 0) has its middle at (0.5, 0.5)
    size_px: tuple[int, int]  # width, height


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """What a camera sees."""

    picture_3HW: torch.Tensor  # RGB, 0 to about 1
    centres_N2: torch.Tensor  # x y of the Gaussians in px; its gradient says which ones are too few


def head_camera(
    pose: HeadPose | View, side_px: int, *, distance: float = 12.0, like: torch.Tensor | None = None
) -> Camera:
    """The camera that sees an unturned head in a pose, as the pose's skeleton is drawn (factory/faces/pose.py).

    `distance` of the camera in head units: skeletons know no perspective, so it is far away.
    """
    yaw, pitch, roll = (radians(angle) for angle in (pose.yaw, pose.pitch, pose.roll))
    kind = torch.zeros((), dtype=torch.float32) if like is None else like
    turn = torch.tensor([[cos(yaw), 0, -sin(yaw)], [0, 1, 0], [sin(yaw), 0, cos(yaw)]], dtype=torch.float64)
    nod = torch.tensor([[1, 0, 0], [0, cos(pitch), -sin(pitch)], [0, sin(pitch), cos(pitch)]], dtype=torch.float64)
    tilt = torch.tensor([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]], dtype=torch.float64)
    rotation = tilt @ nod @ turn
    shift = torch.tensor([0, 0, distance]) - rotation @ torch.tensor([0, 0, -YAW_PIVOT], dtype=torch.float64)
    unit = HEAD_UNIT * pose.scale
    deeper = (YAW_PIVOT - PITCH_PIVOT) * sin(pitch) * unit  # skeletons nod about an axis of their own
    x, y = 0.5 + pose.dx - deeper * sin(roll), EYE_LINE + pose.dy + deeper * cos(roll)
    return Camera(
        rotation_33=rotation.to(kind),
        shift_3=shift.to(kind),
        focal_px=unit * side_px * distance,
        centre_px=(x * side_px, y * side_px),
        size_px=(side_px, side_px),
    )


def rasterise(splats: Splats, camera: Camera, *, tile_px: int | None = _TILE_PX) -> Rendered:
    """What a camera sees, with gradients to every tensor of `splats`.

    `tile_px` is the side of the tiles, each of which looks at the Gaussians that reach it (None: the whole picture is
    one); it changes rounding only. On CUDA gsplat does it, where it is installed.
    """
    if splats.means_N3.is_cuda and (gsplat := _gsplat()) is not None:
        return _by_gsplat(gsplat, splats, camera)
    width, height = camera.size_px
    seen_N3 = splats.means_N3 @ camera.rotation_33.T + camera.shift_3
    centres_N2, covariances_N3 = _projected(splats, camera, seen_N3)
    colours_N3 = _colours(splats, camera)
    log_opacity_N = torch.nn.functional.logsigmoid(splats.logits_N)
    with torch.no_grad():
        order = seen_N3[:, 2].argsort()
        drawn = (seen_N3[:, 2] > _NEAR) & (log_opacity_N > log(FAINT))
        order = order[drawn[order]]
        # where alpha falls to FAINT: x^2 <= 2 log(opacity / faint) variance
        reach_N2 = (2 * (log_opacity_N - log(FAINT)).clamp(min=0)[:, None] * covariances_N3[:, :2]).sqrt()
        side = tile_px or max(width, height)
        corners_T2 = _corners(width, height, side, splats.means_N3)
        members = _members(centres_N2[order], reach_N2[order], corners_T2, side)
    conics_N3 = _inverse(covariances_N3)
    # a last Gaussian that nobody sees fills up shorter lists
    of_G = torch.cat([order, order.new_tensor([len(splats)])])
    exponents = _appended(torch.cat([centres_N2, conics_N3, log_opacity_N[:, None]], 1), _unseen(centres_N2))[of_G]
    colours = _appended(colours_N3, colours_N3.new_zeros(3))[of_G]
    pixels_P2 = _pixels(side, splats.means_N3)
    parts = [
        composited(exponents[index_TG], colours[index_TG], corners_T2[tiles] + side / 2, pixels_P2, splats.background_3)
        for tiles, index_TG in members
    ]
    tiles = torch.cat([tiles for tiles, _ in members]).argsort()
    rows, columns = -(-height // side), -(-width // side)
    whole = torch.cat(parts)[tiles].view(rows, columns, side, side, 3).permute(4, 0, 2, 1, 3)
    picture = whole.reshape(3, rows * side, columns * side)[:, :height, :width]
    return Rendered(picture_3HW=picture, centres_N2=centres_N2)


def rotations(quats_N4: torch.Tensor) -> torch.Tensor:
    """Rotation matrices [N, 3, 3] of quaternions w x y z of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats_N4, dim=1).unbind(1)
    rows = (
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )
    return torch.stack(rows, 1).view(-1, 3, 3)


def _projected(splats: Splats, camera: Camera, seen_N3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres [N, 2] in px, and covariances [N, 3] (xx, yy, xy) in px^2: Eq. 5, with J the slope of the projection."""
    x, y, depth = seen_N3[:, 0], seen_N3[:, 1], seen_N3[:, 2].clamp(min=_NEAR)
    focal = camera.focal_px
    centres_N2 = torch.stack([focal * x / depth + camera.centre_px[0], focal * y / depth + camera.centre_px[1]], 1)
    zero = torch.zeros_like(x)
    slope_N23 = torch.stack([focal / depth, zero, -focal * x / depth**2, zero, focal / depth, -focal * y / depth**2], 1)
    axes_N33 = camera.rotation_33 @ rotations(splats.quats_N4) * splats.log_scales_N3.exp()[:, None]
    spread_N23 = slope_N23.view(-1, 2, 3) @ axes_N33
    variance_N2 = spread_N23.square().sum(2) + _DILATION
    return centres_N2, torch.cat([variance_N2, (spread_N23[:, 0] * spread_N23[:, 1]).sum(1, keepdim=True)], 1)


def _inverse(covariances_N3: torch.Tensor) -> torch.Tensor:
    """Of symmetric matrices xx, yy, xy."""
    xx, yy, xy = covariances_N3.unbind(1)
    return torch.stack([yy, xx, -xy], 1) / (xx * yy - xy * xy)[:, None]


def _colours(splats: Splats, camera: Camera) -> torch.Tensor:
    """RGB [N, 3] as seen from the camera; no less than 0."""
    colours_N3 = 0.5 + SH_C0 * splats.sh_NK3[:, 0]
    if splats.sh_NK3.shape[1] > 1:
        eye_3 = -camera.rotation_33.T @ camera.shift_3
        x, y, z = torch.nn.functional.normalize(splats.means_N3 - eye_3, dim=1).unbind(1)
        basis_NK = SH_C1 * torch.stack([-y, z, -x], 1)
        colours_N3 = colours_N3 + (basis_NK[:, :, None] * splats.sh_NK3[:, 1:4]).sum(1)
    return colours_N3.clamp(min=0)


def _corners(width: int, height: int, side: int, like: torch.Tensor) -> torch.Tensor:
    """Upper left corners x y of the tiles, row by row, [T, 2] px."""
    y, x = torch.meshgrid(torch.arange(0, height, side), torch.arange(0, width, side), indexing="ij")
    return torch.stack([x, y], 2).view(-1, 2).to(like)


def _pixels(side: int, like: torch.Tensor) -> torch.Tensor:
    """Middles x y of a tile's pixels from its own middle, [P, 2] px."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([x, y], 2).view(-1, 2).to(like) + 0.5 - side / 2


def _members(
    centres_N2: torch.Tensor, reach_N2: torch.Tensor, corners_T2: torch.Tensor, side: int
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Tiles of similar length, and which Gaussians (in the order given) reach each of them [T, G], filled up with N."""
    columns, rows = (corners_T2[:, axis].unique() for axis in (0, 1))
    lows, highs = (centres_N2 - reach_N2).unbind(1), (centres_N2 + reach_N2).unbind(1)
    across, down = (
        (low <= at[:, None] + side) & (high >= at[:, None])
        for low, high, at in zip(lows, highs, (columns, rows), strict=True)
    )
    inside_TN = (down[:, None] & across[None]).flatten(0, 1)
    counts_T = inside_TN.sum(1)
    tile, gaussian = inside_TN.nonzero(as_tuple=True)
    place = torch.arange(len(tile), device=tile.device) - (counts_T.cumsum(0) - counts_T)[tile]
    index_TG = gaussian.new_full((len(corners_T2), max(1, int(counts_T.max()))), len(centres_N2))
    index_TG[tile, place] = gaussian
    groups = counts_T.argsort().split(_TOGETHER)
    return [(group, index_TG[group, : max(1, int(counts_T[group].max()))]) for group in groups]


def _unseen(like: torch.Tensor) -> torch.Tensor:
    """Centre, conic and log opacity of a Gaussian that nobody sees."""
    return like.new_tensor([0, 0, 0, 0, 0, _NOTHING])


def _appended(rows: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
    return torch.cat([rows, row[None]])


def _gsplat() -> Any:
    """The library, None where it is not installed."""
    try:
        import gsplat
    except ImportError:
        return None
    return gsplat


def _by_gsplat(gsplat: Any, splats: Splats, camera: Camera) -> Rendered:
    """The same by gsplat (Ye et al. 2024, arXiv 2409.06765), whose constants are these."""
    view_44 = torch.eye(4).to(splats.means_N3)
    view_44[:3, :3], view_44[:3, 3] = camera.rotation_33, camera.shift_3
    focal, (x, y), (width, height) = camera.focal_px, camera.centre_px, camera.size_px
    intrinsics_33 = torch.tensor([[focal, 0, x], [0, focal, y], [0, 0, 1]]).to(splats.means_N3)
    pictures, _, facts = gsplat.rasterization(
        splats.means_N3,
        torch.nn.functional.normalize(splats.quats_N4, dim=1),
        splats.log_scales_N3.exp(),
        splats.logits_N.sigmoid(),
        splats.sh_NK3,
        view_44[None],
        intrinsics_33[None],
        width,
        height,
        near_plane=_NEAR,
        eps2d=_DILATION,
        sh_degree=0 if splats.sh_NK3.shape[1] == 1 else 1,
        backgrounds=splats.background_3[None],
        packed=False,
    )
    return Rendered(picture_3HW=pictures[0].movedim(-1, 0), centres_N2=facts["means2d"][0])
