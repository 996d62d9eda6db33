"""Views such as identities are learned from (factory/learn/augment.py), drawn from the data set's plain pictures."""

from __future__ import annotations

import multiprocessing as mp
import time
from pathlib import Path

import numpy as np
import torch

from factory.faces.align import align, similarity
from factory.learn.augment import apply_view, crop_layers, draw_view
from factory.records import FaceMasks
from studio.training.crops import FFHQ_PX
from studio.training.dataset import PICTURE_PX, Dataset

LATENT_PX = PICTURE_PX // 8
NUM_VIEWS = 8_000
LANDMARK_NOISE_PX = 0.5  # std: detectors are not exact


def masks_of(labels: np.ndarray) -> FaceMasks:
    """Face and hair from the renderer's classes."""
    return FaceMasks(face=(labels >= 1) & (labels <= 13) & (labels != 9), hair=labels == 17)


def view_of(data: Dataset, item: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 [S, S, 3] and bool [2, 16, 16], cells of face and of hair: aligned, jittered, cropped, on black."""
    points = np.asarray(data.landmarks[item], np.float64)
    points += np.random.default_rng([0x71E3, seed]).normal(0, LANDMARK_NOISE_PX, points.shape)
    matrix = similarity(points, FFHQ_PX)
    crop = align(np.asarray(data.images[item]), matrix, PICTURE_PX)
    masks = masks_of(np.asarray(data.labels[item]))
    aligned = FaceMasks(
        face=align(np.repeat(masks.face[..., None], 3, 2).astype(np.uint8) * 255, matrix, PICTURE_PX)[..., 0] > 127,
        hair=align(np.repeat(masks.hair[..., None], 3, 2).astype(np.uint8) * 255, matrix, PICTURE_PX)[..., 0] > 127,
    )
    view = draw_view(torch.Generator().manual_seed(seed), mirror=0.0)
    shown = apply_view(crop_layers(crop, aligned), view, latent_side=LATENT_PX)
    image = shown.image.add(1).mul(127.5).round().clamp(0, 255).byte().permute(1, 2, 0)
    return image.numpy(), torch.stack([shown.face, shown.hair]).numpy()


class Views:
    """The drawn views of a state folder, all of them; `writable` creates what is missing.

    Raises FileNotFoundError or RuntimeError where some are not drawn yet.
    """

    def __init__(self, state: Path, *, writable: bool = False) -> None:
        fields = {
            "images": (np.uint8, (NUM_VIEWS, PICTURE_PX, PICTURE_PX, 3)),
            "masks": (np.bool_, (NUM_VIEWS, 2, LATENT_PX, LATENT_PX)),
            "done": (np.bool_, (NUM_VIEWS,)),
        }
        arrays: dict[str, np.ndarray] = {}
        for name, (dtype, shape) in fields.items():
            path = state / "data" / f"view_{name}.npy"
            if not path.exists() and not writable:
                raise FileNotFoundError(f"no views under {state} yet: run python -m studio dataset --state {state}")
            if not path.exists():
                np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
            arrays[name] = np.load(path, mmap_mode="r+" if writable else "r")
        self.images, self.masks, self.done = arrays["images"], arrays["masks"], arrays["done"]
        if not writable and not self.done.all():
            raise RuntimeError(f"{self.done.sum()} of {NUM_VIEWS} views are drawn: run python -m studio dataset again")


def plan(data: Dataset) -> np.ndarray:
    """Pictures that views are drawn from, int64 [NUM_VIEWS]: plain ones of people that are not held out."""
    ready = data.ready()
    plain = ready[np.asarray(data.plain)[ready]]
    return np.resize(np.random.default_rng(5).permutation(plain), NUM_VIEWS)


def _draw(state: Path, rows: np.ndarray) -> None:
    torch.set_num_threads(1)
    data, views = Dataset(state), Views(state, writable=True)
    items = plan(data)
    for row in rows:
        views.images[row], views.masks[row] = view_of(data, int(items[row]), int(row))
        views.done[row] = True


def build(state: Path, *, processes: int = 2) -> None:
    """Draw what is missing, once all pictures are rendered."""
    missing = np.flatnonzero(~np.asarray(Views(state, writable=True).done))
    if not missing.size:
        return
    context, start = mp.get_context("spawn"), time.monotonic()
    workers = [context.Process(target=_draw, args=(state, missing[k::processes])) for k in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a process ended with code {worker.exitcode}; run the same command again to go on")
    print(f"dataset: {len(missing)} views in {time.monotonic() - start:.0f} s", flush=True)
