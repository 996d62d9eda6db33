"""Heads as files: PLY and SPZ, read by others and read back; turntables."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
from PIL import Image
from plyfile import PlyData

from factory.draw.gaussians import ellipsoid
from factory.draw.sculpt import show, turntable
from factory.draw.splat_files import encode_turntable, export_head, from_ply, to_ply
from factory.draw.splats import Splats, View


def some(degree: int) -> Splats:
    random = torch.Generator().manual_seed(degree)
    start = ellipsoid(30, degree, None, None, random)
    return replace(start, sh_NK3=0.3 * torch.randn(start.sh_NK3.shape, generator=random), background_3=torch.rand(3))


@pytest.mark.parametrize("degree", [0, 1])
def test_a_ply_is_read_by_others_and_read_back(degree: int, tmp_path: Path) -> None:
    splats = some(degree)
    data = to_ply(splats)
    back = from_ply(data)
    for name, tensor in splats.tensors().items():
        expected = torch.nn.functional.normalize(tensor, dim=1) if name == "quats_N4" else tensor
        torch.testing.assert_close(back.tensors()[name], expected, atol=1e-6, rtol=1e-6)
    np.testing.assert_array_equal(show(back, [View()], 32), show(splats, [View()], 32))
    vertex = PlyData.read(io.BytesIO(data))["vertex"]
    np.testing.assert_allclose(vertex["x"], splats.means_N3[:, 0])
    np.testing.assert_allclose(vertex["f_dc_2"], splats.sh_NK3[:, 0, 2])
    if degree:  # channel by channel: green's first coefficient is the fourth
        np.testing.assert_allclose(vertex["f_rest_3"], splats.sh_NK3[:, 1, 1])


@pytest.mark.parametrize("degree", [0, 1])
def test_a_splat_library_reads_both_formats(degree: int, tmp_path: Path) -> None:
    """gsply reads 3DGS's PLY as it was meant, and the SPZ up to its rounding, in a quarter of the bytes."""
    splats = some(degree)
    ply, spz = tmp_path / "head.ply", tmp_path / "head.spz"
    ply.write_bytes(to_ply(splats))
    spz.write_bytes(export_head(ply.read_bytes(), "spz"))
    exact, packed = gsply.plyread(str(ply)), gsply.read_spz(str(spz))
    np.testing.assert_allclose(exact.scales, splats.log_scales_N3)
    for read, near in ((exact, 1e-6), (packed, 0.15)):
        np.testing.assert_allclose(read.means, splats.means_N3, atol=min(near, 1e-3))
        np.testing.assert_allclose(read.opacities.ravel(), splats.logits_N, atol=near)
        np.testing.assert_allclose(read.sh0, splats.sh_NK3[:, 0], atol=near)
        if degree:
            np.testing.assert_allclose(read.shN.reshape(30, 3, 3), splats.sh_NK3[:, 1:], atol=near)


def test_what_is_no_ply_of_ours_is_told() -> None:
    data = to_ply(some(0))
    for bad, complaint in ((b"ply\nend_header\n", "no PLY of 3D Gaussians"), (data[:-1], "is cut")):
        with pytest.raises(ValueError, match=complaint):
            from_ply(bad)


def test_a_turntable_turns_to_both_sides_or_all_around() -> None:
    yaws = [view.yaw for view in turntable(8, 32)]
    assert max(yaws) == 32 and min(yaws) == -32 and yaws[0] == 0
    assert [view.yaw for view in turntable(4, 180)] == [0, 90, 180, 270]
    frames = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with Image.open(io.BytesIO(encode_turntable(frames))) as animation:
        assert animation.n_frames == 3 and animation.size == (16, 16)  # type: ignore[attr-defined]
