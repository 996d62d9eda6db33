"""Trains the autoencoder on: whole pictures, in which what tells people apart counts most.

On crops with nearly even weights it spends its few latents on backgrounds, and moles, wrinkles and lips are gone.
Here pixels of the face count seven to ten times as much as the background's, and the FR-ViT compares the face as it
will see it later, aligned. It was trained on none of the judge's people.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional as F
from transformers import ViTModel

from studio import latents
from studio.align import face_grid
from studio.dataset import Dataset
from studio.loop import Run, cosine_lr, working_precision
from studio.muon import Muon
from studio.train_vae import DETAIL_CLASSES, LATENT_NOISE, loss_of, psnr

STEPS, BATCH, LR = 6_000, 8, 2e-3
BACKGROUND, HAIR, FACE, DETAIL = 0.6, 1.2, 4.0, 6.0  # weights of pixels
LIKENESS_WEIGHT = 3.0  # of the FR-ViT's distance
EMA_DECAY = 0.997


class FaceDistance:
    """How differently the FR-ViT sees aligned faces in two batches of pictures: 0 for the same."""

    def __init__(self, vit: ViTModel) -> None:
        self.vit = vit.eval().requires_grad_(False)

    def _tokens(self, images: torch.Tensor, grids: torch.Tensor) -> list[torch.Tensor]:
        faces = F.grid_sample(images, grids, align_corners=False)
        _, *layers = self.vit(pixel_values=faces, output_hidden_states=True).hidden_states
        return [F.layer_norm(layer.float(), layer.shape[-1:]) for layer in layers]

    def __call__(self, output: torch.Tensor, target: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
        """Squared distance of normalised tokens, mean over layers, plus the last CLS token's once more.

        Pictures [B, 3, S, S] in [-1, 1], `grids` [B, F, F, 2] as `face_grid` makes them for the FR-ViT's side F.
        """
        with torch.no_grad():
            real = self._tokens(target, grids)
        shown = self._tokens(output, grids)
        layers = torch.stack([(a - b).square().mean() for a, b in zip(shown, real, strict=True)])
        return layers.mean() + (shown[-1][:, 0] - real[-1][:, 0]).square().mean()


def pixel_weights(labels: np.ndarray) -> np.ndarray:
    """Weight of every pixel in the loss, from the renderer's classes of any shape."""
    weights = np.full(labels.shape, BACKGROUND, np.float32)
    weights[labels == 17] = HAIR
    weights[(labels >= 1) & (labels <= 13) & (labels != 9)] = FACE
    weights[np.isin(labels, DETAIL_CLASSES)] = DETAIL
    return weights


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train `<state>/models/vae` on, encoder and decoder; the running average takes its place."""
    torch.manual_seed(8)
    data = Dataset(state)
    data.wait(4000)
    vae = AutoencoderTiny.from_pretrained(state / "models" / "vae").to(device, memory_format=torch.channels_last)
    vit = ViTModel.from_pretrained(state / "models" / "fr_vit", add_pooling_layer=False, attn_implementation="eager")
    likeness, side_px = FaceDistance(vit.float().to(device)), vit.config.image_size
    average = copy.deepcopy(vae).requires_grad_(False)
    muon = Muon([p for p in vae.parameters() if p.ndim == 4], lr=LR)
    biases = [p for p in vae.parameters() if p.ndim == 1]
    adam = torch.optim.AdamW(biases, lr=LR / 2, betas=(0.9, 0.99), weight_decay=0)
    run = Run(state, "vae_faces", steps=STEPS, minutes=minutes)
    run.resume(model=vae, average=average, muon=muon, adam=adam)
    held, items = data.ready(held_out=True)[::25], data.ready()
    for step in run:
        if step % 200 == 0:
            items = data.ready()
        for optimiser in (muon, adam):
            cosine_lr(optimiser, step, run.progress)
            optimiser.zero_grad()
        chosen = np.random.default_rng([9, step]).choice(items, BATCH)
        pixels = torch.from_numpy(np.stack([data.images[item] for item in chosen])).to(device)
        images = (pixels.movedim(-1, 1).float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        weights = torch.from_numpy(pixel_weights(np.stack([data.labels[item] for item in chosen])))[:, None].to(device)
        grids = torch.from_numpy(np.stack([face_grid(data.landmarks[item], side_px) for item in chosen])).to(device)
        with working_precision(device):
            code = vae.encoder(images)
            output = vae.decoder(code + LATENT_NOISE * torch.randn_like(code)).float()
            unlike = likeness(output, images, grids)
        shown = loss_of(output, images, weights)
        (shown + LIKENESS_WEIGHT * unlike).backward()
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in vae.parameters()], 1 - decay)
        run.track(loss=shown.item(), unlike=unlike.item())
        if step % 1000 == 999:
            run.note(psnr=psnr(average, data, held))
    run.note(psnr=psnr(average, data, held))
    average.cpu().save_pretrained(state / "models" / "vae")
    latents.forget(state)
    (state / "models" / "vae_faces.done").touch()
