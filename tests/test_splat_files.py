"""Heads as files: PLY, SPZ and glTF, read by others and read back; turntables."""

from __future__ import annotations

import gzip
import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from plyfile import PlyData

from factory.draw.clips import decode_mp4, encode_webp
from factory.draw.gaussians import ellipsoid
from factory.draw.sculpt import show, turntable
from factory.draw.splat_files import export_head, from_ply, to_gltf, to_ply, to_spz, turntable_mp4, write_head
from factory.draw.splats import SH_C0, Splats, View


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


def strictly_read(data: bytes) -> np.ndarray:
    """float32 [N, 62], as viewers read it that know the lines of 3DGS's own files and no other."""
    head, _, body = data.partition(b"end_header\n")
    ply, layout, count, *properties = head.decode("ascii").splitlines()
    assert (ply, layout) == ("ply", "format binary_little_endian 1.0") and count.startswith("element vertex ")
    rest = [f"f_rest_{number}" for number in range(45)]
    names = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    names += [*(f"scale_{axis}" for axis in range(3)), *(f"rot_{axis}" for axis in range(4))]
    assert properties == [f"property float {name}" for name in names]
    assert len(body) == 248 * int(count.split()[-1])
    return np.frombuffer(body, "<f4").reshape(-1, 62)


@pytest.mark.parametrize("degree", [0, 1])
def test_files_that_leave_have_what_strict_viewers_want(degree: int, tmp_path: Path) -> None:
    splats = some(degree)
    stored = to_ply(splats)
    plain = write_head(stored, b"", tmp_path / "ada", "plain-ply", marked=lambda data: data + b"marked")
    assert plain.name == "ada.plain.ply"
    table = strictly_read(plain.read_bytes())
    assert np.isfinite(table).all() and (np.abs(table[:, -4:]).max(1) > 0).all()
    np.testing.assert_allclose(table[:, :3], splats.means_N3)
    rest = table[:, 9:54].reshape(-1, 3, 15)
    np.testing.assert_allclose(rest[:, :, : 3 * degree], splats.sh_NK3[:, 1:].transpose(1, 2))
    assert not rest[:, :, 3 * degree :].any()
    full = export_head(stored, "ply")
    commented = [line for line in full.splitlines(True) if line.startswith(b"comment ")]
    assert len(commented) == 1 and full.replace(commented[0], b"") == plain.read_bytes()
    assert to_ply(from_ply(full)) == to_ply(from_ply(stored)), "read back whole, with its background"
    read = gsply.plyread(str(plain))
    np.testing.assert_allclose(read.opacities.ravel(), splats.logits_N)


def test_colours_that_turn_more_than_a_heads_are_told() -> None:
    full = bytearray(export_head(to_ply(some(1)), "ply"))
    start = full.index(b"end_header\n") + len(b"end_header\n")
    full[start + 4 * 14 : start + 4 * 15] = np.float32(1).tobytes()  # f_rest_5, of degree 2
    with pytest.raises(ValueError, match="degree 2 or 3"):
        from_ply(bytes(full))


@pytest.mark.parametrize("degree", [0, 1])
def test_a_splat_library_reads_both_formats(degree: int, tmp_path: Path) -> None:
    """gsply reads 3DGS's PLY as it was meant, and the SPZ up to its rounding, in a quarter of the bytes: its y is up
    and its z comes towards the viewer, so all of it is turned by half a turn about x."""
    splats = some(degree)
    ply, spz = tmp_path / "head.ply", tmp_path / "head.spz"
    ply.write_bytes(to_ply(splats))
    spz.write_bytes(export_head(ply.read_bytes(), "spz"))
    exact, packed = gsply.plyread(str(ply)), gsply.read_spz(str(spz))
    np.testing.assert_allclose(exact.scales, splats.log_scales_N3)
    for read, near, turn in ((exact, 1e-6, [1, 1, 1]), (packed, 0.15, [1, -1, -1])):
        np.testing.assert_allclose(read.means, splats.means_N3.numpy() * turn, atol=min(near, 1e-3))
        axes = np.array(turn)[:, None] * axes_of(splats.quats_N4.numpy())
        np.testing.assert_allclose(np.abs((axes_of(read.quats) * axes).sum(1)), 1, atol=0.02)  # +v and -v are one axis
        np.testing.assert_allclose(read.opacities.ravel(), splats.logits_N, atol=near)
        np.testing.assert_allclose(read.sh0, splats.sh_NK3[:, 0], atol=near)
        if degree:
            of_y_z_x = np.array([turn[1], turn[2], turn[0]])[:, None]
            np.testing.assert_allclose(read.shN.reshape(30, 3, 3), splats.sh_NK3[:, 1:].numpy() * of_y_z_x, atol=near)


def axes_of(quats_N4: np.ndarray) -> np.ndarray:
    """The three axes of each Gaussian, [N, 3, 3], as columns; w x y z."""
    w, x, y, z = (quats_N4 / np.linalg.norm(quats_N4, axis=1, keepdims=True)).T
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows).transpose(2, 0, 1)


def test_an_spz_is_as_its_format_says() -> None:
    """Read by hand after Niantic's description of the layout, not by the library that wrote it."""
    splats = some(0)
    data = gzip.decompress(to_spz(to_ply(splats)))
    magic, version, num, degree, fraction_bits = struct.unpack("<IIIBB", data[:14])
    assert (magic, num, degree) == (0x5053474E, 30, 0) and version in (2, 3)
    packed = np.frombuffer(data, np.uint8, 9 * num, 16).reshape(num, 3, 3).astype(np.int32)
    places = packed[..., 0] | packed[..., 1] << 8 | packed[..., 2] << 16
    places = np.where(places >= 1 << 23, places - (1 << 24), places) / (1 << fraction_bits)
    np.testing.assert_allclose(places, splats.means_N3.numpy() * [1, -1, -1], atol=1 / (1 << fraction_bits))
    opacities, colours, scales = np.split(np.frombuffer(data, np.uint8, 7 * num, 16 + 9 * num), [num, 4 * num])
    np.testing.assert_allclose(opacities / 255, splats.logits_N.sigmoid(), atol=1 / 255)
    np.testing.assert_allclose((colours.reshape(num, 3) / 255 - 0.5) / 0.15, splats.sh_NK3[:, 0], atol=0.03)
    np.testing.assert_allclose(scales.reshape(num, 3) / 16 - 10, splats.log_scales_N3, atol=1 / 16)


def test_a_gltf_is_read_by_a_mesh_library_as_points(tmp_path: Path) -> None:
    """trimesh does not know the extension: it sees upright points, in metres, in the Gaussians' colours."""
    splats = some(0)
    write_head(to_ply(splats), b"", tmp_path / "ada.1", "gltf")
    scene = trimesh.load_scene(tmp_path / "ada.1.glb")
    (name,) = scene.graph.nodes_geometry
    placed, (cloud,) = scene.graph[name][0], scene.geometry.values()
    points = trimesh.transform_points(cloud.vertices, placed)
    np.testing.assert_allclose(points, 0.1 * splats.means_N3.numpy() * [1, -1, -1], atol=1e-6)
    seen = (0.5 + SH_C0 * splats.sh_NK3[:, 0]).clamp(0, 1).numpy()
    np.testing.assert_allclose(cloud.colors[:, :3] / 255, seen**2.2, atol=0.01)  # linear light


@pytest.mark.parametrize("degree", [0, 1])
def test_a_gltf_has_the_attributes_of_the_extension(degree: int) -> None:
    """Read by hand after Khronos' description: the binary container, its accessors, and what they mean."""
    splats = some(degree)
    data = to_gltf(to_ply(splats))
    magic, version, length, json_bytes = struct.unpack("<4sIII", data[:16])
    assert (magic, version, length) == (b"glTF", 2, len(data))
    document, body = json.loads(data[20 : 20 + json_bytes]), data[28 + json_bytes :]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"] and "extensionsRequired" not in document
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0
    known = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    assert primitive["extensions"]["KHR_gaussian_splatting"] == known
    np.testing.assert_allclose(document["scenes"][0]["extras"]["background"], splats.background_3)

    def column(name: str) -> np.ndarray:
        accessor = document["accessors"][primitive["attributes"][name]]
        view, width = document["bufferViews"][accessor["bufferView"]], {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
        assert accessor["componentType"] == 5126 and accessor["count"] == len(splats)
        values = np.frombuffer(body, "<f4", view["byteLength"] // 4, view["byteOffset"])
        return values.reshape(len(splats), width[accessor["type"]])

    own = "KHR_gaussian_splatting:"
    np.testing.assert_array_equal(column("POSITION"), splats.means_N3)
    np.testing.assert_allclose(column(own + "SCALE"), splats.log_scales_N3.exp(), rtol=1e-6)
    np.testing.assert_allclose(column(own + "OPACITY")[:, 0], splats.logits_N.sigmoid(), rtol=1e-6)
    turned = torch.nn.functional.normalize(splats.quats_N4, dim=1)[:, [1, 2, 3, 0]]
    np.testing.assert_allclose(column(own + "ROTATION"), turned, atol=1e-6)
    np.testing.assert_array_equal(column(own + "SH_DEGREE_0_COEF_0"), splats.sh_NK3[:, 0])
    for number in range(3 * degree):
        np.testing.assert_array_equal(column(own + f"SH_DEGREE_1_COEF_{number}"), splats.sh_NK3[:, 1 + number])
    assert len(primitive["attributes"]) == 6 + 3 * degree


def test_what_is_no_ply_of_ours_is_told() -> None:
    data = to_ply(some(0))
    for bad, complaint in ((b"ply\nend_header\n", "no PLY of 3D Gaussians"), (data[:-1], "is cut")):
        with pytest.raises(ValueError, match=complaint):
            from_ply(bad)


def test_a_turntable_turns_to_both_sides_or_all_around() -> None:
    yaws = [view.yaw for view in turntable(8, 32)]
    assert max(yaws) == 32 and min(yaws) == -32 and yaws[0] == 0
    assert [view.yaw for view in turntable(4, 180)] == [0, 90, 180, 270]


def test_turntables_of_before_are_read_too(tmp_path: Path) -> None:
    """They were WebP; now they are MP4, and exported as either or as pictures."""
    frames = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 16 * 16 * 3).reshape(5, 16, 16, 3)
    mp4 = turntable_mp4(encode_webp(frames, 80))
    assert turntable_mp4(mp4) is mp4
    decoded = decode_mp4(mp4)
    assert decoded.shape == frames.shape and abs(decoded.astype(int) - frames).max() < 8
    write_head(b"", mp4, tmp_path / "ada", "webp")
    with Image.open(tmp_path / "ada.webp") as animation:
        assert animation.n_frames == 5 and animation.size == (16, 16)  # type: ignore[attr-defined]
    assert len(list(write_head(b"", mp4, tmp_path / "ada", "frames").iterdir())) == 5
