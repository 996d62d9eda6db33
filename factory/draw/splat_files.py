"""Heads as files: PLY in the layout of 3D Gaussian Splatting, SPZ, glTF, clips.

The store keeps a PLY with the coefficients that a head has; the files that leave have all 62 properties.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from math import pi
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, cast, get_args

import gsply
import numpy as np
import pygltflib as gltf
from PIL import Image, ImageSequence

from factory.draw.clips import ClipFormat, encode_mp4, write_clip
from factory.files import write_whole
from factory.provenance.exports import ModelKind
from factory.provenance.marks import mark

if TYPE_CHECKING:  # torch is loaded where Gaussians are tensors, and not where a server gives out files
    from factory.draw.splats import Splats

SplatFormat: TypeAlias = Literal["ply", "plain-ply", "spz", "gltf"]
HeadFormat: TypeAlias = Literal["ply", "plain-ply", "spz", "gltf", "mp4", "gif", "webp", "frames"]  # or the turntable
SUFFIXES: Final[dict[SplatFormat, str]] = {"ply": "ply", "plain-ply": "plain.ply", "spz": "spz", "gltf": "glb"}
TURNTABLE_FPS: Final = 12
_BACKGROUND: Final = "comment background "
_REST: Final = 45  # coefficients beyond the base colour in 3DGS's own files, which are of degree 3
_KHR: Final = "KHR_gaussian_splatting"
_UPRIGHT: Final = (1.0, 0.0, 0.0, 0.0)  # quaternion x y z w, half a turn about x: in glTF y is up, faces look along z
_SH_C0: Final = 0.5 / pi**0.5  # spherical harmonics of degree 0
_METRES: Final = 0.1  # in a head unit: the ellipsoid that a head begins as is 2.5 of them high


def to_ply(splats: Splats) -> bytes:
    """The layout of 3D Gaussian Splatting's code: binary, float32; opacities as logits, scales as logarithms,
    quaternions w x y z. The background, for which it has no place, is a comment of the header."""
    numbers = {name: tensor.detach().float().cpu().numpy() for name, tensor in splats.tensors().items()}
    numbers["quats_N4"] = numbers["quats_N4"] / np.linalg.norm(numbers["quats_N4"], axis=1, keepdims=True)
    return _ply(numbers, 3 * (numbers["sh_NK3"].shape[1] - 1), has_background=True)


def full_ply(ply: bytes, *, has_background: bool) -> bytes:
    """A head's PLY with all 62 properties of 3D Gaussian Splatting's code, as many viewers want them: the coefficients
    of degrees that it has not are 0. Without its background there is no comment in it, which some viewers cannot pass
    over."""
    return _ply(_columns(ply), _REST, has_background=has_background)


def _ply(numbers: dict[str, np.ndarray], num_rest: int, *, has_background: bool) -> bytes:
    num, higher = len(numbers["means_N3"]), numbers["sh_NK3"][:, 1:]
    rest = np.zeros((num, 3, num_rest // 3), np.float32)  # channel by channel, as the code has them
    rest[:, :, : higher.shape[1]] = higher.transpose(0, 2, 1)
    columns = [numbers["means_N3"], np.zeros((num, 3), np.float32), numbers["sh_NK3"][:, 0], rest.reshape(num, -1)]
    columns += [numbers["logits_N"][:, None], numbers["log_scales_N3"], numbers["quats_N4"]]
    header = ["ply", "format binary_little_endian 1.0"]
    if has_background:
        header.append(_BACKGROUND + " ".join(f"{value:.9g}" for value in numbers["background_3"]))
    header += [f"element vertex {num}", *(f"property float {name}" for name in _properties(num_rest))]
    table = np.concatenate(columns, axis=1).astype("<f4")
    return "\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes()


def from_ply(data: bytes) -> Splats:
    """What `to_ply` or `full_ply` wrote. ValueError for anything else."""
    import torch

    from factory.draw.splats import Splats

    return Splats(**{name: torch.from_numpy(column) for name, column in _columns(data).items()})


def _columns(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of `Splats` by their names, float32. ValueError for what `_ply` did not write."""
    head, end, body = data.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    counts = [line for line in lines if line.startswith("element vertex ")]
    backgrounds = [line.removeprefix(_BACKGROUND) for line in lines if line.startswith(_BACKGROUND)]
    num_rest = sum(name.startswith("f_rest_") for name in names)
    if not end or len(counts) != 1 or names != _properties(num_rest) or num_rest not in (0, 9, _REST):
        raise ValueError("this is no PLY of 3D Gaussians as `identity-factory sculpt` writes them")
    num = int(counts[0].split()[-1])
    if len(body) != 4 * num * len(names):
        raise ValueError(f"the PLY is cut: {len(body)} bytes for {num} Gaussians of {4 * len(names)}")
    table = np.frombuffer(body, "<f4").reshape(num, len(names)).astype(np.float32)
    means, _, base, rest, logits, scales, quats = np.split(table, np.cumsum([3, 3, 3, num_rest, 1, 3]), axis=1)
    higher = rest.reshape(num, 3, num_rest // 3).transpose(0, 2, 1)
    if num_rest == _REST:  # of degree 1 at most here
        if higher[:, 3:].any():
            raise ValueError("the colours of this PLY turn with the view by degree 2 or 3; heads here have 0 or 1")
        higher = higher[:, : 3 if higher.any() else 0]
    background = [float(value) for value in backgrounds[0].split()] if backgrounds else [0.0, 0.0, 0.0]
    return {
        "means_N3": means,
        "log_scales_N3": scales,
        "quats_N4": quats,
        "logits_N": logits[:, 0],
        "sh_NK3": np.concatenate([base[:, None], higher], axis=1),
        "background_3": np.array(background, np.float32),
    }


def _properties(num_rest: int) -> list[str]:
    rest = [f"f_rest_{number}" for number in range(num_rest)]
    own = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    return [*own, *(f"scale_{axis}" for axis in range(3)), *(f"rot_{axis}" for axis in range(4))]


def to_spz(head: bytes) -> bytes:
    """A head's PLY in Niantic's compressed format, a fifth of it, written by gsply. There y is up and z comes towards
    the viewer, where PLY has both the other way round: half a turn about x."""
    with tempfile.TemporaryDirectory() as folder:
        ply, spz = Path(folder) / "head.ply", Path(folder) / "head.spz"
        ply.write_bytes(head)
        data = gsply.plyread(str(ply))
        data.means[:, 1:] *= -1
        data.quats[:, 2:] *= -1  # w x y z
        if data.shN is not None:
            data.shN[:, :2] *= -1  # of degree 1: those along y and z, then x
        gsply.write_spz(str(spz), data)
        return spz.read_bytes()


def to_gltf(ply: bytes) -> bytes:
    """A head's PLY as binary glTF with Khronos' KHR_gaussian_splatting, by pygltflib: upright, about life size, in m.

    Who does not know the extension sees points in the Gaussians' colours. The background is `extras` of the scene.
    """
    numbers = _columns(ply)
    sh_NK3, opacity_N = numbers["sh_NK3"], 1 / (1 + np.exp(-numbers["logits_N"]))
    quats = numbers["quats_N4"] / np.linalg.norm(numbers["quats_N4"], axis=1, keepdims=True)
    seen = (0.5 + _SH_C0 * sh_NK3[:, 0]).clip(0, 1)
    linear = np.where(seen <= 0.04045, seen / 12.92, ((seen + 0.055) / 1.055) ** 2.4)  # as glTF has vertex colours
    columns = {
        "POSITION": numbers["means_N3"],
        "COLOR_0": np.concatenate([linear, opacity_N[:, None]], axis=1),
        f"{_KHR}:ROTATION": np.roll(quats, -1, axis=1),  # w x y z -> x y z w
        f"{_KHR}:SCALE": np.exp(numbers["log_scales_N3"]),
        f"{_KHR}:OPACITY": opacity_N,
    }
    for number in range(sh_NK3.shape[1]):  # 0, then the three of degree 1 from m = -1 to 1, as 3DGS has them
        degree = int(number > 0)
        columns[f"{_KHR}:SH_DEGREE_{degree}_COEF_{number - degree}"] = sh_NK3[:, number]
    document, body = gltf.GLTF2(extensionsUsed=[_KHR]), b""
    for column in columns.values():
        data = np.ascontiguousarray(column, "<f4")
        accessor = gltf.Accessor(
            bufferView=len(document.accessors),
            componentType=gltf.FLOAT,
            count=len(data),
            type=gltf.SCALAR if data.ndim == 1 else f"VEC{data.shape[1]}",
        )
        if not document.accessors:  # of positions the format wants them
            accessor.min, accessor.max = data.min(0).tolist(), data.max(0).tolist()
        document.accessors.append(accessor)
        view = gltf.BufferView(buffer=0, byteOffset=len(body), byteLength=data.nbytes, target=gltf.ARRAY_BUFFER)
        document.bufferViews.append(view)
        body += data.tobytes()
    points = gltf.Primitive(
        mode=gltf.POINTS,
        attributes=gltf.Attributes(**{name: number for number, name in enumerate(columns)}),
        extensions={_KHR: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    )
    document.meshes = [gltf.Mesh(primitives=[points])]
    document.nodes = [gltf.Node(mesh=0, rotation=list(_UPRIGHT), scale=[_METRES] * 3)]
    document.scene = 0
    document.scenes = [gltf.Scene(nodes=[0], extras={"background": numbers["background_3"].tolist()})]
    document.buffers = [gltf.Buffer(byteLength=len(body))]
    document.set_binary_blob(body)
    return b"".join(document.save_to_bytes())


def export_head(ply: bytes, file_format: SplatFormat) -> bytes:
    """A stored head as a file of this format."""
    if file_format in ("ply", "plain-ply"):
        return full_ply(ply, has_background=file_format == "ply")
    return to_spz(ply) if file_format == "spz" else to_gltf(ply)


def head_as(ply: bytes, kind: ModelKind) -> bytes:
    """A stored head as a file of this kind, as provenance knows them."""
    return export_head(ply, "gltf" if kind == "glb" else kind)


def turntable_mp4(turntable: bytes) -> bytes:
    """A stored turntable as MP4; before MP4 it was kept as WebP."""
    if not turntable.startswith(b"RIFF"):
        return turntable
    with Image.open(io.BytesIO(turntable)) as animation:
        frames = [np.array(frame.convert("RGB")) for frame in ImageSequence.Iterator(animation)]
    return encode_mp4(np.stack(frames), TURNTABLE_FPS)


def write_head(
    ply: bytes, turntable: bytes, stem: Path, file_format: HeadFormat, marked: Callable[[bytes], bytes] = mark
) -> Path:
    """A stored head as a file <stem>.ply, .plain.ply, .spz, .glb, .mp4, .gif or .webp, or its turntable as a folder of
    PNGs.

    Each goes through `marked`, so that it says that a model made it; a plain PLY can say nothing.
    """
    if file_format in get_args(ClipFormat):
        return write_clip(turntable_mp4(turntable), TURNTABLE_FPS, stem, cast(ClipFormat, file_format), marked)
    stem.parent.mkdir(parents=True, exist_ok=True)
    of_splats = cast(SplatFormat, file_format)
    file = stem.with_name(f"{stem.name}.{SUFFIXES[of_splats]}")  # with_suffix would cut a name at its last point
    data = export_head(ply, of_splats)
    write_whole(file, data if of_splats == "plain-ply" else marked(data))
    return file
