"""Trains a recogniser of people on latents: what the UNet's guesses are compared by, besides their squared error.

An error that changes who is shown may be small in squares. Comparing features of a network that tells people apart, on
latents and not on pictures (after E-LatentLPIPS, arXiv 2405.05967), makes it count, and nothing has to be decoded
for it. It sees the FR-ViT's people, none of the judge's, and is no part of the pack.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from studio.training import crew, latents
from studio.training.crops import people_split
from studio.training.dataset import Dataset
from studio.training.faces import ResBlock, standardised, supervised_contrastive
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon

WIDTHS, DIM = (64, 96, 160), 128
STEPS, PEOPLE, VIEWS = 4_000, 48, 2
NOISE_STD = 0.3  # at most, of latents with a std near 1: guesses of a UNet are not clean either
SHIFT = 2  # cells at most


class LatentFaces(nn.Module):
    """A small ResNet on scaled latents [B, C, 16, 16]."""

    def __init__(self, channels: int, identity_dim: int) -> None:
        super().__init__()
        first, *widths = WIDTHS
        self.stem = nn.Sequential(nn.Conv2d(channels, first, 3, 1, 1, bias=False), nn.BatchNorm2d(first), nn.PReLU())
        stages = [nn.Sequential(ResBlock(first, first, 1), ResBlock(first, first, 1))]
        for width_in, width in zip(WIDTHS, widths, strict=False):
            stages.append(nn.Sequential(ResBlock(width_in, width, 2), ResBlock(width, width, 1)))
        self.stages = nn.ModuleList(stages)
        last = widths[-1]
        self.head = nn.Sequential(
            nn.Conv2d(last, last, 4, groups=last, bias=False), nn.BatchNorm2d(last), nn.Flatten(), nn.Linear(last, DIM)
        )
        self.identity = nn.Linear(DIM, identity_dim)

    @classmethod
    def restored(cls, state: dict[str, torch.Tensor]) -> LatentFaces:
        """A trained network from its weights, frozen."""
        network = cls(state["stem.0.weight"].shape[1], state["identity.weight"].shape[0])
        network.load_state_dict(state)
        return network.eval().requires_grad_(False)

    def forward(self, latents_BCHW: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Feature maps of every stage, and the embedding [B, DIM]."""
        x, maps = self.stem(latents_BCHW), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps, self.head(x)


def distance(network: LatentFaces, guess: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    """How differently the network sees two batches of scaled latents, [B]: 0 for the same.

    1 - cosine of the embeddings, plus the mean over stages of the squared distance of unit feature vectors per cell
    (as in LPIPS, arXiv 1801.03924, without its weights).
    """
    with torch.no_grad():
        real_maps, real_embedding = network(real)
    maps, embedding = network(guess)
    total = 1 - F.cosine_similarity(embedding.float(), real_embedding.float(), dim=-1)
    for one, other in zip(maps, real_maps, strict=True):
        gap = F.normalize(one.float(), dim=1) - F.normalize(other.float(), dim=1)
        total = total + gap.square().sum(1).mean((1, 2)) / len(maps)
    return total


def _groups(persons: np.ndarray) -> list[np.ndarray]:
    """Rows of every person of the FR-ViT's who has two."""
    rows = np.flatnonzero(np.isin(persons, people_split("features")))
    order = rows[np.argsort(persons[rows], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(persons[order])) + 1)
    return [group for group in groups if len(group) >= VIEWS]


def _varied(batch: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Latents moved by whole cells and noisy, each by its own amount."""
    padded = F.pad(batch, [SHIFT] * 4, mode="replicate")
    side = batch.shape[-1]
    corners = rng.integers(2 * SHIFT + 1, size=(len(batch), 2))
    moved = torch.stack([one[:, y : y + side, x : x + side] for one, (y, x) in zip(padded, corners, strict=True)])
    levels = torch.from_numpy(rng.uniform(0, NOISE_STD, (len(batch), 1, 1, 1)).astype(np.float32))
    return moved + levels.to(batch.device) * torch.randn_like(moved)


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/latent_faces.pt`, on what the UNet will be trained on."""
    crew.start(latents.encode, state, device, size=torch.get_num_threads() if device.type == "cpu" else 1)
    data = Dataset(state)
    encoded = latents.load(state, "pictures", device) + latents.load(state, "views", device)
    groups, wanted = _groups(encoded.persons.cpu().numpy()), standardised(data).to(device)
    torch.manual_seed(7)
    model = LatentFaces(encoded.latents.shape[1], data.vectors.shape[1]).to(device)
    inner = [p for n, p in model.named_parameters() if p.ndim >= 2 and n.startswith("stages")]
    outer = [p for n, p in model.named_parameters() if p.ndim < 2 or not n.startswith("stages")]
    muon = Muon(inner, lr=2e-3, weight_decay=0.02)
    adam = torch.optim.AdamW(outer, lr=1.5e-3, betas=(0.9, 0.99), weight_decay=1e-3)
    run = Run(state, "latent_faces", steps=STEPS, minutes=minutes)
    run.resume(model=model, muon=muon, adam=adam)
    for step in run:
        rng = np.random.default_rng([7, step])
        for optimiser in (muon, adam):
            cosine_lr(optimiser, step, run.progress)
            optimiser.zero_grad()
        chosen = rng.choice(len(groups), PEOPLE, replace=False)
        rows = np.concatenate([rng.choice(groups[k], VIEWS, replace=False) for k in chosen])
        batch = encoded[torch.from_numpy(rows).to(device)]
        shown = _varied(batch.latents.float() * latents.SCALE, rng)
        with working_precision(device):
            _, embedding = model(shown)
            guess = model.identity(embedding)
        regression = (guess.float() - wanted[batch.persons]).square().mean()
        contrastive = supervised_contrastive(embedding, batch.persons)
        (regression + 0.5 * contrastive).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
        run.track(regression=regression, contrastive=contrastive)
    weights = {name: value.cpu() for name, value in model.state_dict().items()}
    torch.save(weights, state / "models" / "latent_faces.pt")
