"""What the diffusion model is trained on, encoded once: the pictures, and views such as the factory draws."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch.nn import functional

from factory.align import FFHQ_512, align, similarity
from factory.augment import apply_view, crop_layers, draw_view
from factory.records import FaceMasks
from studio.crew import Crew
from studio.dataset import SIDE_PX, Dataset
from studio.loop import working_precision

LATENT_PX = SIDE_PX // 8
SCALE = 1.25  # the autoencoder's scaling factor: its latents have a std of 0.84
NUM_PICTURES, NUM_VIEWS = 46_400, 8_000
BATCH = 8  # 15 ms a picture, where 32 at a time take 19: cache


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """N encoded pictures; `a + b` joins, `a[rows]` picks."""

    items: np.ndarray  # int64 [N], numbers of the pictures in the data set
    persons: np.ndarray  # int64 [N]
    latents: np.ndarray  # float16 [N, C, 16, 16], as the autoencoder gives them
    face: np.ndarray  # float16 [N, 16, 16], share of face in the cell
    hair: np.ndarray  # float16 [N, 16, 16]

    def __getitem__(self, rows: np.ndarray) -> Encoded:
        return Encoded(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})

    def __add__(self, other: Encoded) -> Encoded:
        pairs = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        return Encoded(**{name: np.concatenate(pair) for name, pair in pairs.items()})


def _masks(labels: np.ndarray) -> FaceMasks:
    return FaceMasks(face=(labels >= 1) & (labels <= 13) & (labels != 9), hair=labels == 17)


def _picture(data: Dataset, item: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A picture in [-1, 1], and the shares of face and hair in its cells."""
    layers = crop_layers(np.array(data.images[item]), _masks(np.asarray(data.labels[item])))
    shares = functional.avg_pool2d(layers[3:], 8)
    return layers[:3] * 2 - 1, shares[0], shares[1]


def _view(data: Dataset, item: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same of a view as identities are learned from (factory/augment.py): aligned, jittered, cropped, on black."""
    points = np.asarray(data.landmarks[item], np.float64)
    points += np.random.default_rng([0x71E3, seed]).normal(0, 0.5, points.shape)  # detectors are not exact
    matrix = similarity(points, FFHQ_512 * (SIDE_PX / 512))
    crop = align(np.asarray(data.images[item]), matrix, SIDE_PX)
    masks = _masks(np.asarray(data.labels[item]))
    aligned = FaceMasks(
        face=align(np.repeat(masks.face[..., None], 3, 2).astype(np.uint8) * 255, matrix, SIDE_PX)[..., 0] > 127,
        hair=align(np.repeat(masks.hair[..., None], 3, 2).astype(np.uint8) * 255, matrix, SIDE_PX)[..., 0] > 127,
    )
    view = draw_view(torch.Generator().manual_seed(seed), mirror=0.0)
    shown = apply_view(crop_layers(crop, aligned), view, latent_side=LATENT_PX)
    return shown.image, shown.face.float(), shown.hair.float()


def _plan(data: Dataset, kind: str) -> np.ndarray:
    ready = data.ready()
    if kind == "pictures":
        return ready[:: max(1, len(ready) // NUM_PICTURES)]  # of everybody, as their pictures lie together
    plain = ready[np.asarray(data.plain)[ready]]
    return np.resize(np.random.default_rng(5).permutation(plain), NUM_VIEWS)


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
    data = Dataset(state)
    for kind in ("pictures", "views"):
        path = state / "data" / f"{kind}_{crew.rank}_of_{crew.size}.npz"
        if path.exists() or encoded_files(state, kind):
            continue
        plan = _plan(data, kind)[crew.rank :: crew.size]
        parts: dict[str, list[np.ndarray]] = {"latents": [], "face": [], "hair": []}
        for start in range(0, len(plan), BATCH):
            rows = range(start, min(start + BATCH, len(plan)))
            if kind == "pictures":
                shown = [_picture(data, plan[row]) for row in rows]
            else:
                shown = [_view(data, plan[row], row * crew.size + crew.rank) for row in rows]
            images, face, hair = (torch.stack(part) for part in zip(*shown, strict=True))
            with working_precision(device):
                latents = vae.encode(images.to(device, memory_format=torch.channels_last)).latents
            for name, part in zip(parts, (latents, face, hair), strict=True):
                parts[name].append(part.half().cpu().numpy())
            if start % (100 * BATCH) == 0:
                print(f"unet: {start} of {len(plan)} {kind} encoded by member {crew.rank}", flush=True)
        arrays = {name: np.concatenate(part) for name, part in parts.items()}
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, allow_pickle=False, items=plan, persons=data.persons[plan].astype(np.int64), **arrays)
        partial.replace(path)
    crew.sum([torch.zeros(1)])  # all wait until all are done


def forget(state: Path) -> None:
    """Remove what an autoencoder has encoded that is replaced now."""
    for kind in ("pictures", "views"):
        for file in (state / "data").glob(f"{kind}_*.npz"):
            file.unlink()


def load(state: Path, kind: str) -> Encoded:
    """All encoded "pictures" or "views"."""
    parts = [Encoded(**dict(np.load(file).items())) for file in encoded_files(state, kind)]
    joined = parts[0]
    for part in parts[1:]:
        joined = joined + part
    return joined
