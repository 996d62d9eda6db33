"""Trains the two face networks: the FR-ViT, whose features the method reads, and the judge, which only measures.

They differ in people, architecture, input and size, so that a picture cannot please the judge by pleasing the FR-ViT.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from transformers import ViTConfig, ViTImageProcessor, ViTModel

from studio.training.clip import pixels
from studio.training.crops import cropped, items_by_person
from studio.training.dataset import Dataset
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon

VIT_PX, VIT_PATCH_PX, VIT_WIDTH, VIT_LAYERS = 80, 10, 160, 5
JUDGE_PX, JUDGE_WIDTHS, JUDGE_DIM = 112, (24, 48, 96, 160), 128
FEATURES_STEPS, JUDGE_STEPS = 3000, 3000
PEOPLE, VIEWS = 24, 3  # of a batch
TEMPERATURE = 0.1
INNER = ("vit.layers", "vit.encoder", "body")  # matrices that Muon trains


class Features(nn.Module):
    """ViTModel without pooler; its CLS token is trained by two linear heads that are thrown away."""

    side_px = VIT_PX

    def __init__(self, identity_dim: int) -> None:
        super().__init__()
        config = ViTConfig(
            image_size=VIT_PX,
            patch_size=VIT_PATCH_PX,
            hidden_size=VIT_WIDTH,
            num_hidden_layers=VIT_LAYERS,
            num_attention_heads=5,
            intermediate_size=4 * VIT_WIDTH,
        )
        config._attn_implementation = "eager"
        self.vit = ViTModel(config, add_pooling_layer=False)
        self.identity, self.embedding = nn.Linear(VIT_WIDTH, identity_dim), nn.Linear(VIT_WIDTH, 128)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding [B, 128] and guess of the standardised identity vector [B, P], for images in [-1, 1]."""
        cls = self.vit(pixel_values=images_BCHW).last_hidden_state[:, 0]
        return self.embedding(cls), self.identity(cls)


class ResBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(width_in, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width))
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width))
        self.skip = nn.Sequential(nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        self.act = nn.PReLU(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [B, width, H / stride, W / stride]."""
        return self.skip(x) + self.second(self.act(self.first(x)))


class Judge(nn.Module):
    """A small ResNet on ArcFace-aligned faces, 112 px."""

    side_px = JUDGE_PX

    def __init__(self, identity_dim: int) -> None:
        super().__init__()
        stem, *widths = JUDGE_WIDTHS
        blocks: list[nn.Module] = [nn.Conv2d(3, stem, 5, 2, 2, bias=False), nn.BatchNorm2d(stem), nn.PReLU(stem)]
        for width_in, width, depth in zip(JUDGE_WIDTHS, widths, (2, 3, 2), strict=False):
            blocks += [ResBlock(width_in if i == 0 else width, width, 2 if i == 0 else 1) for i in range(depth)]
        last = widths[-1]
        # a depthwise kernel as large as the map keeps where things are in a face, unlike average pooling
        blocks += [nn.Conv2d(last, last, 7, groups=last, bias=False), nn.BatchNorm2d(last), nn.Flatten()]
        self.body = nn.Sequential(*blocks, nn.Linear(last, JUDGE_DIM))
        self.identity = nn.Linear(JUDGE_DIM, identity_dim)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding [B, 128] and guess of the standardised identity vector [B, P], for images in [-1, 1]."""
        embedding = self.body(images_BCHW)
        return embedding, self.identity(embedding)


def supervised_contrastive(embedding: torch.Tensor, persons: torch.Tensor) -> torch.Tensor:
    """Mean over pairs of the same person of -log softmax of their cosine (arXiv 2004.11362)."""
    unit = F.normalize(embedding.float(), dim=-1)
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    log_share = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf).log_softmax(1)
    same = (persons[:, None] == persons[None]) & ~itself
    return -log_share[same].mean()


def _batch(
    data: Dataset, groups: list[np.ndarray], seed: list[int], judge: bool, side_px: int
) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(seed)
    chosen = rng.choice(len(groups), PEOPLE, replace=False)
    items = np.concatenate([rng.choice(groups[k], VIEWS, replace=len(groups[k]) < VIEWS) for k in chosen])
    crops = [cropped(data, int(item), rng, judge=judge, side_px=side_px) for item in items]
    return pixels(np.stack(crops)), items


@torch.no_grad()
def verify(model: nn.Module, data: Dataset, *, judge: bool) -> tuple[float, float]:
    """TAR at FAR 1 % between all pictures of held-out people, and R2 of the identity guess."""
    device = next(model.parameters()).device
    items = data.ready(held_out=True)
    model.eval()
    embeddings, guesses = [], []
    for part in np.array_split(items, 25):
        crops = [cropped(data, int(item), None, judge=judge, side_px=model.side_px) for item in part]  # type: ignore[arg-type]
        with working_precision(device):
            embedding, guess = model(pixels(np.stack(crops)).to(device))
        embeddings.append(F.normalize(embedding.float(), dim=-1).cpu())
        guesses.append(guess.float().cpu())
    model.train()
    unit = torch.cat(embeddings)
    persons = torch.from_numpy(data.persons[items])
    same = persons[:, None] == persons[None]
    upper = torch.ones_like(same).triu(1)
    scores = unit @ unit.T
    limit = torch.quantile(scores[~same & upper][::7], 0.99)
    wanted = standardised(data)[data.persons[items]]
    r2 = 1 - (torch.cat(guesses) - wanted).square().mean() / wanted.square().mean()
    return float((scores[same & upper] > limit).float().mean()), float(r2)


def standardised(data: Dataset) -> torch.Tensor:
    """Identity vectors [N, P] of everybody, mean 0 and std 1 (or less, where a trait hardly varies)."""
    vectors = torch.from_numpy(data.vectors)
    return (vectors - vectors.mean(0)) / vectors.std(0).clamp(min=0.05)


def _train(
    state: Path, model: Features | Judge, name: str, steps: int, device: torch.device, minutes: float | None
) -> None:
    data, judge = Dataset(state), isinstance(model, Judge)
    data.wait(10_000)
    model.to(device)
    inner = [p for n, p in model.named_parameters() if p.ndim >= 2 and n.startswith(INNER)]
    outer = [p for n, p in model.named_parameters() if p.ndim < 2 or not n.startswith(INNER)]
    muon = Muon(inner, lr=2e-3, weight_decay=0.02)
    adam = torch.optim.AdamW(outer, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    run = Run(state, name, steps=steps, minutes=minutes)
    run.resume(model=model, muon=muon, adam=adam)
    wanted = standardised(data)
    people = items_by_person(data, name)
    for step in run:
        if step % 200 == 0:
            people = items_by_person(data, name)
        for optimiser in (muon, adam):
            cosine_lr(optimiser, step, run.progress)
            optimiser.zero_grad()
        images, items = _batch(data, people, [5 + judge, step], judge, model.side_px)
        persons = torch.from_numpy(data.persons[items]).to(device)
        with working_precision(device):
            embedding, guess = model(images.to(device))
        regression = (guess.float() - wanted[persons.cpu()].to(device)).square().mean()
        contrastive = supervised_contrastive(embedding, persons)
        (regression + 0.5 * contrastive).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
        run.track(regression=regression.item(), contrastive=contrastive.item())
        if step % 500 == 499:
            run.note(**dict(zip(("tar", "r2"), verify(model, data, judge=judge), strict=True)))
    run.note(**dict(zip(("tar", "r2"), verify(model, data, judge=judge), strict=True)))


def train_features(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train the FR-ViT to `<state>/models/fr_vit`."""
    torch.manual_seed(5)
    model = Features(Dataset(state).vectors.shape[1])
    _train(state, model, "features", FEATURES_STEPS, device, minutes)
    folder = state / "models" / "fr_vit"
    model.vit.cpu().eval().save_pretrained(folder)
    size = {"height": VIT_PX, "width": VIT_PX}
    ViTImageProcessor(size=size, image_mean=[0.5] * 3, image_std=[0.5] * 3, resample=2).save_pretrained(folder)


def train_judge(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train the judge to `<state>/models/judge.onnx`."""
    torch.manual_seed(6)
    model = Judge(Dataset(state).vectors.shape[1])
    _train(state, model, "judge", JUDGE_STEPS, device, minutes)
    example = torch.zeros(1, 3, JUDGE_PX, JUDGE_PX)
    names = {"input_names": ["input.1"], "output_names": ["embedding"], "dynamic_axes": {"input.1": {0: "n"}}}
    torch.onnx.export(model.body.cpu().eval(), (example,), str(state / "models" / "judge.onnx"), dynamo=False, **names)  # type: ignore[arg-type]
