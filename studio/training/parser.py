"""Trains the parser: facexlib's ParseNet, small, 19 classes in BiSeNet's order, on aligned faces at 128 px."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from facexlib.parsing.parsenet import ParseNet
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from factory.faces.align import align, similarity
from studio.training.clip import pixels
from studio.training.crops import FFHQ_PX, weather
from studio.training.dataset import PICTURE_PX, Dataset
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon

# constructor arguments of ParseNet; pack.toml records the same under [parser]
OPTIONS: dict[str, Any] = {
    "in_size": PICTURE_PX,
    "out_size": PICTURE_PX,
    "min_feat_size": 16,
    "base_ch": 16,
    "parsing_ch": 19,
    "res_depth": 4,
    "ch_range": [16, 96],
}
STEPS, BATCH = 1500, 12
FACE, HAIR = (1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13), (17,)


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    """A random blurred or noisy backdrop, for pictures from elsewhere than the studio world."""
    coarse = rng.integers(0, 256, (int(rng.integers(1, 9)), int(rng.integers(1, 9)), 3)).astype(np.uint8)
    flags = cv2.INTER_CUBIC if rng.random() < 0.7 else cv2.INTER_NEAREST
    picture = cv2.resize(coarse, (PICTURE_PX, PICTURE_PX), interpolation=flags).astype(np.float32)
    picture += rng.normal(0, rng.uniform(0, 25), picture.shape)
    return np.clip(picture, 0, 255).astype(np.uint8)


def example(data: Dataset, item: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray]:
    """Aligned picture and label map; with `rng`, another place, size, light, mirror image or backdrop."""
    image, labels = np.asarray(data.images[item]), np.asarray(data.labels[item])
    matrix = similarity(data.landmarks[item], FFHQ_PX)
    if rng is not None:
        if rng.random() < 0.2:
            image = np.where((labels == 0)[..., None], _backdrop(rng), image)
        spin = cv2.getRotationMatrix2D((64.0, 64.0), float(rng.normal(0, 8)), float(np.exp(rng.normal(-0.08, 0.15))))
        matrix = spin[:, :2] @ matrix + np.array([[0, 0, 1.0]]) * (spin[:, 2:] + rng.normal(0, 4, (2, 1)))
    size = (PICTURE_PX, PICTURE_PX)
    picture = align(image, matrix, PICTURE_PX)
    target = cv2.warpAffine(labels, matrix, size, flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)
    if rng is None:
        return picture, target
    if rng.random() < 0.5:
        # left and right brow, eye and ear keep to the sides of the picture
        swap = np.arange(256, dtype=np.uint8)
        swap[[2, 3, 4, 5, 7, 8]] = [3, 2, 5, 4, 8, 7]
        picture, target = np.ascontiguousarray(picture[:, ::-1]), swap[target[:, ::-1]]
    if rng.random() < 0.5:
        hsv = cv2.cvtColor(picture, cv2.COLOR_RGB2HSV).astype(np.float32)
        hsv = hsv * (1, rng.uniform(0.2, 1.4), rng.uniform(0.6, 1.25)) + (rng.normal(0, 6), 0, rng.normal(0, 10))
        hsv[..., 0] %= 180
        picture = cv2.cvtColor(np.clip(hsv, 0, 255).astype(np.uint8), cv2.COLOR_HSV2RGB)
    if rng.random() < 0.25:
        small = int(rng.integers(40, 100))
        picture = cv2.resize(cv2.resize(picture, (small, small), interpolation=cv2.INTER_AREA), size)
    return weather(picture, rng), target


@torch.no_grad()
def iou(model: nn.Module, data: Dataset, items: np.ndarray) -> dict[str, float]:
    """IoU of the union of face classes and of hair on `items`, and the mean over classes."""
    device = next(model.parameters()).device
    model.eval()
    table = np.zeros((19, 19), np.int64)
    for part in np.array_split(items, 20):
        pairs = [example(data, int(item), None) for item in part]
        with working_precision(device):
            mask, _ = model(pixels(np.stack([p for p, _ in pairs])).to(device))
        guess = mask.argmax(1).cpu().numpy()
        table += np.bincount((np.stack([t for _, t in pairs]).astype(int) * 19 + guess).ravel(), minlength=361).reshape(
            19, 19
        )
    model.train()

    def of(group: tuple[int, ...]) -> float:
        both = table[np.ix_(group, group)].sum()
        return float(both / (table[list(group)].sum() + table[:, list(group)].sum() - both))

    present = [c for c in range(19) if table[c].sum() > 0]
    return {"face": of(FACE), "hair": of(HAIR), "mean": float(np.mean([of((c,)) for c in present]))}


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/parsing.safetensors` (fp16)."""
    torch.manual_seed(7)
    data = Dataset(state)
    data.wait(8000)
    model, earlier = ParseNet(**OPTIONS), state / "models" / "parsing.safetensors"
    if earlier.exists():  # of an earlier pack
        model.load_state_dict(load_file(earlier))
    model.to(device)  # not channels last: its reflection padding would copy every map
    muon = Muon([p for p in model.parameters() if p.ndim == 4], lr=3e-3)
    adam = torch.optim.AdamW([p for p in model.parameters() if p.ndim < 4], lr=2e-3, betas=(0.9, 0.99), weight_decay=0)
    run = Run(state, "parser", steps=STEPS, minutes=minutes)
    run.resume(model=model, muon=muon, adam=adam)
    held = data.ready(held_out=True)[::4]
    balance = torch.ones(19, device=device)
    balance[[2, 3, 4, 5, 6, 11, 12, 13]] = 2.0  # small parts
    items = data.ready()
    for step in run:
        if step % 200 == 0:
            items = data.ready()
        for optimiser in (muon, adam):
            cosine_lr(optimiser, step, run.progress)
            optimiser.zero_grad()
        rng = np.random.default_rng([7, step])
        pairs = [example(data, int(item), rng) for item in rng.choice(items, BATCH)]
        images = pixels(np.stack([p for p, _ in pairs])).to(device)
        target = torch.from_numpy(np.stack([t for _, t in pairs])).long().to(device)
        with working_precision(device):
            mask, _ = model(images)
        loss = F.cross_entropy(mask.float(), target, weight=balance)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
        run.track(loss=loss.item())
        if step % 300 == 299:
            run.note(**iou(model, data, held))
    run.note(**iou(model, data, held))
    state_dict = {k: v.half() if v.is_floating_point() else v for k, v in model.cpu().state_dict().items()}
    save_file({k: v.contiguous() for k, v in state_dict.items()}, state / "models" / "parsing.safetensors")
