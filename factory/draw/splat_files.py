"""Heads as files: the PLY layout of 3D Gaussian Splatting, which is also how the store keeps them, SPZ, turntables."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Final, Literal

import gsply
import numpy as np
import torch
from PIL import Image

from factory.draw.splats import Splats

SplatFormat = Literal["ply", "spz"]
_BACKGROUND: Final = "comment background "
_MS: Final = 80  # of a turntable's frame


def to_ply(splats: Splats) -> bytes:
    """The layout of 3D Gaussian Splatting's code: binary, float32; opacities as logits, scales as logarithms,
    quaternions w x y z. The background, for which it has no place, is a comment of the header."""
    numbers = {name: tensor.detach().float().cpu().numpy() for name, tensor in splats.tensors().items()}
    num = len(splats)
    rest = numbers["sh_NK3"][:, 1:].transpose(0, 2, 1).reshape(num, -1)  # channel by channel, as the code has them
    quats = numbers["quats_N4"] / np.linalg.norm(numbers["quats_N4"], axis=1, keepdims=True)
    columns = [numbers["means_N3"], np.zeros((num, 3), np.float32), numbers["sh_NK3"][:, 0], rest]
    columns += [numbers["logits_N"][:, None], numbers["log_scales_N3"], quats]
    background = " ".join(f"{value:.9g}" for value in numbers["background_3"])
    header = ["ply", "format binary_little_endian 1.0", _BACKGROUND + background, f"element vertex {num}"]
    header += [f"property float {name}" for name in _properties(rest.shape[1])]
    table = np.concatenate(columns, axis=1).astype("<f4")
    return "\n".join([*header, "end_header", ""]).encode("ascii") + table.tobytes()


def from_ply(data: bytes) -> Splats:
    """What `to_ply` wrote. ValueError for anything else."""
    head, end, body = data.partition(b"end_header\n")
    lines = head.decode("ascii", "replace").splitlines()
    names = [line.split()[-1] for line in lines if line.startswith("property float ")]
    counts = [line for line in lines if line.startswith("element vertex ")]
    backgrounds = [line.removeprefix(_BACKGROUND) for line in lines if line.startswith(_BACKGROUND)]
    num_rest = sum(name.startswith("f_rest_") for name in names)
    if not end or len(counts) != 1 or names != _properties(num_rest) or num_rest not in (0, 9):
        raise ValueError("this is no PLY of 3D Gaussians as `identity-factory sculpt` writes them")
    num = int(counts[0].split()[-1])
    if len(body) != 4 * num * len(names):
        raise ValueError(f"the PLY is cut: {len(body)} bytes for {num} Gaussians of {4 * len(names)}")
    table = torch.from_numpy(np.frombuffer(body, "<f4").reshape(num, len(names)).astype(np.float32))
    means, _, base, rest, logits, scales, quats = table.split([3, 3, 3, num_rest, 1, 3, 4], dim=1)
    higher = rest.reshape(num, 3, -1).transpose(1, 2)
    background = [float(value) for value in backgrounds[0].split()] if backgrounds else [0.0, 0.0, 0.0]
    return Splats(
        means_N3=means,
        log_scales_N3=scales,
        quats_N4=quats,
        logits_N=logits[:, 0],
        sh_NK3=torch.cat([base[:, None], higher], 1),
        background_3=torch.tensor(background),
    )


def _properties(num_rest: int) -> list[str]:
    rest = [f"f_rest_{number}" for number in range(num_rest)]
    own = [*"xyz", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", *rest, "opacity"]
    return [*own, *(f"scale_{axis}" for axis in range(3)), *(f"rot_{axis}" for axis in range(4))]


def to_spz(splats: Splats) -> bytes:
    """Niantic's compressed format, a fifth of the PLY, written by gsply."""
    with tempfile.TemporaryDirectory() as folder:
        ply, spz = Path(folder) / "head.ply", Path(folder) / "head.spz"
        ply.write_bytes(to_ply(splats))
        gsply.write_spz(str(spz), gsply.plyread(str(ply)))
        return spz.read_bytes()


def export_head(ply: bytes, file_format: SplatFormat) -> bytes:
    """A stored head as a file of this format."""
    return ply if file_format == "ply" else to_spz(from_ply(ply))


def encode_turntable(frames: np.ndarray) -> bytes:
    """An animated WebP of frames uint8 [F, H, W, 3], RGB, which repeats."""
    first, *others = (Image.fromarray(frame) for frame in frames)
    buffer = io.BytesIO()
    first.save(buffer, "WEBP", save_all=True, append_images=others, duration=_MS, loop=0, quality=85, method=4)
    return buffer.getvalue()
