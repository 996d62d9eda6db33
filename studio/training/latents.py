"""What the diffusion model is trained on, encoded once: the pictures, and views such as the factory draws."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from studio.training import views
from studio.training.crew import Crew
from studio.training.dataset import Dataset
from studio.training.loop import working_precision
from studio.training.views import Views, masks_of

SCALE = 1.0  # the autoencoder's scaling factor: its latents are normalised already
BATCH = {"cpu": 8, "cuda": 256}  # 15 ms a picture on a CPU, where 32 at a time take 19: cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """N encoded pictures on one device; `a + b` joins, `a[rows]` picks."""

    items: torch.Tensor  # int64 [N], numbers of the pictures in the data set
    persons: torch.Tensor  # int64 [N]
    latents: torch.Tensor  # float16 [N, C, 16, 16], as the autoencoder gives them
    face: torch.Tensor  # float16 [N, 16, 16], share of face in the cell
    hair: torch.Tensor  # float16 [N, 16, 16]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, rows: torch.Tensor) -> Encoded:
        return Encoded(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __add__(self, other: Encoded) -> Encoded:
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Encoded(**{name: torch.cat(pair) for name, pair in pairs.items()})


def _pictures(data: Dataset, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [B, S, S, 3], and bool [B, 2, S, S], where face and hair are."""
    masks = masks_of(data.labels[items])
    return data.images[items], np.stack([masks.face, masks.hair], axis=1)


def encoded_files(state: Path, kind: str) -> list[Path]:
    """What a crew of some size has encoded, if it was finished; nothing otherwise."""
    for first in sorted((state / "data").glob(f"{kind}_0_of_[0-9].npz")):
        size = int(first.stem[-1])
        files = [first.with_name(f"{kind}_{rank}_of_{size}.npz") for rank in range(size)]
        if all(file.exists() for file in files):
            return files
    return []


@torch.no_grad()
def encode(state: Path, device: torch.device, *, crew: Crew) -> None:
    """Write `<state>/data/<pictures|views>_<rank>_of_<size>.npz`; what a crew of any size has made stays."""
    vae = AutoencoderTiny.from_pretrained(state / "models" / "vae").to(device, memory_format=torch.channels_last)
    data, drawn = Dataset(state), Views(state)
    size = BATCH[device.type]
    for kind in ("pictures", "views"):
        path = state / "data" / f"{kind}_{crew.rank}_of_{crew.size}.npz"
        if path.exists() or encoded_files(state, kind):
            continue
        plan = data.ready() if kind == "pictures" else views.plan(data)
        numbers = np.arange(len(plan))[crew.rank :: crew.size]
        parts: dict[str, list[np.ndarray]] = {"latents": [], "face": [], "hair": []}
        for start in range(0, len(numbers), size):
            rows = numbers[start : start + size]
            pictures = kind == "pictures"
            images, masks = _pictures(data, plan[rows]) if pictures else (drawn.images[rows], drawn.masks[rows])
            pixels = torch.from_numpy(images).to(device).movedim(-1, 1).float().div(127.5).sub(1)
            cells = torch.from_numpy(masks).to(device).float()
            shares = functional.avg_pool2d(cells, 8) if pictures else cells
            with working_precision(device):
                latents = vae.encode(pixels.contiguous(memory_format=torch.channels_last)).latents
            for name, part in zip(parts, (latents, shares[:, 0], shares[:, 1]), strict=True):
                parts[name].append(part.half().cpu().numpy())
            if start % (100 * size) == 0:
                print(f"unet: {start} of {len(numbers)} {kind} encoded by member {crew.rank}", flush=True)
        arrays = {name: np.concatenate(part) for name, part in parts.items()}
        partial, items = path.with_suffix(".partial.npz"), plan[numbers]
        np.savez(partial, allow_pickle=False, items=items, persons=data.persons[items].astype(np.int64), **arrays)
        partial.replace(path)
    crew.sum([torch.zeros(1)])  # all wait until all are done


def forget(state: Path) -> None:
    """Remove what an autoencoder has encoded that is replaced now."""
    for kind in ("pictures", "views"):
        for file in (state / "data").glob(f"{kind}_*.npz"):
            file.unlink()


def load(state: Path, kind: str, device: torch.device) -> Encoded:
    """All encoded "pictures" or "views"."""
    files = [np.load(file) for file in encoded_files(state, kind)]
    names = [field.name for field in fields(Encoded)]
    return Encoded(**{n: torch.from_numpy(np.concatenate([file[n] for file in files])).to(device) for n in names})
