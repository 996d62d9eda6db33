"""Trains the autoencoder: diffusers' AutoencoderTiny, 8 latent channels at 1/8 of the side, near mean 0 and std 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional as F

from studio import latents
from studio.dataset import Dataset
from studio.loop import Run, cosine_lr, working_precision
from studio.muon import Muon

WIDTH, LATENT_CHANNELS = 48, 8
STEPS, BATCH, CROP_PX, LR = 6_500, 16, 64, 4e-3
LATENT_NOISE = 0.03  # std added to the latents in training, so that the decoder forgives the diffusion model
FREEZE_AT = 0.7  # share of the run after which the latent statistics stay as they are
DETAIL_CLASSES = (2, 3, 4, 5, 6, 10, 11, 12, 13)  # brows, eyes, glasses, nose, mouth, lips


def make() -> AutoencoderTiny:
    """The untrained autoencoder (1.2 M parameters); blocks only from half resolution down, where they are cheap."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(0, 1, 2, 4),
        num_decoder_blocks=(4, 4, 2, 0),
    )


class _Trained(nn.Module):
    """Autoencoder with the normalisation between encoder and decoder; at the end it is folded into the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.vae = make()
        self.norm = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)

    def forward(self, images_BCHW: torch.Tensor, noise: float) -> torch.Tensor:
        latents = self.norm(self.vae.encoder(images_BCHW))
        return self.vae.decoder(latents + noise * torch.randn_like(latents))

    @torch.no_grad()
    def folded(self) -> AutoencoderTiny:
        """A plain AutoencoderTiny with the normalisation in its last encoder layer (exact: that layer is linear)."""
        vae = make()
        vae.load_state_dict(self.vae.state_dict())
        last = vae.encoder.layers[-1]
        assert self.norm.running_var is not None
        std = (self.norm.running_var + self.norm.eps).sqrt()
        last.bias.copy_((last.bias - self.norm.running_mean) / std)
        last.weight.div_(std[:, None, None, None])
        return vae.eval()


def _crops(data: Dataset, items: np.ndarray, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Image crops in [-1, 1] and their pixel weights; two of three crops contain the middle of the face."""
    images, weights = [], []
    top = data.images.shape[1] - CROP_PX
    for item in rng.choice(items, BATCH):
        x, y = rng.integers(0, top + 1, 2)
        if rng.random() < 0.67:
            x, y = np.clip(data.landmarks[item, 2] - CROP_PX / 2 + rng.uniform(-20, 20, 2), 0, top).astype(int)
        window = (item, slice(y, y + CROP_PX), slice(x, x + CROP_PX))
        images.append(np.asarray(data.images[window]))
        weights.append(np.isin(data.labels[window], DETAIL_CLASSES))
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return pixels, 1 + 2 * torch.from_numpy(np.stack(weights)).float()[:, None]


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 + half the L1 of the differences between neighbours + the squared error, weighted by pixel; plus local colour.

    Without the last term the autoencoder draws outlines first and finds red against green only after many minutes.
    """
    error = output - target
    local = F.avg_pool2d(error, 4)
    red, green, blue = local.unbind(1)
    opponents = torch.stack([red - green, blue - (red + green) / 2], dim=1)
    colour = local.square().mean() + 2 * opponents.square().mean() + opponents.abs().mean()
    dx, dy = _gradients(error)
    edges = (weight[..., 1:] * dx.abs()).mean() + (weight[..., 1:, :] * dy.abs()).mean()
    return (weight * (error.abs() + error.square())).mean() + 0.5 * edges + 2 * colour


@torch.no_grad()
def psnr(vae: AutoencoderTiny, data: Dataset, items: np.ndarray) -> float:
    """Mean PSNR in dB over whole pictures."""
    device = next(vae.parameters()).device
    values = []
    for part in np.array_split(items, -(-len(items) // 16)):
        images = torch.from_numpy(data.images[part]).permute(0, 3, 1, 2).float().to(device) / 127.5 - 1
        with working_precision(device):
            output = vae.decode(vae.encode(images).latents).sample
        error = (output.float().clamp(-1, 1) - images).div(2).square().mean((1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/vae`; logs the PSNR of held-out people."""
    torch.manual_seed(1)
    model, run = _Trained(), Run(state, "vae", steps=STEPS, minutes=minutes)
    data = Dataset(state)
    data.wait(4000)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    kernels = [p for p in model.parameters() if p.ndim == 4]
    biases = [p for p in model.parameters() if p.ndim == 1]
    muon, adam = Muon(kernels, lr=LR), torch.optim.AdamW(biases, lr=LR / 2, betas=(0.9, 0.99), weight_decay=0)
    run.resume(model=model, muon=muon, adam=adam)
    held = data.ready(held_out=True)[::25]
    items = data.ready()
    for step in run:
        if step % 200 == 0:
            items = data.ready()
        for optimiser in (muon, adam):
            cosine_lr(optimiser, step, run.progress)
            optimiser.zero_grad()
        model.train()
        model.norm.train(run.progress < FREEZE_AT)
        images, weights = _crops(data, items, np.random.default_rng([1, step]))
        images = images.to(device, memory_format=torch.channels_last)
        with working_precision(device):
            output = model(images, LATENT_NOISE)
        loss = loss_of(output.float(), images, weights.to(device))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
        run.track(loss=loss.item())
        if step % 1000 == 999:
            run.note(psnr=psnr(model.folded().to(device), data, held))
    vae = model.folded()
    run.note(psnr=psnr(vae.to(device), data, held))
    vae.cpu().save_pretrained(state / "models" / "vae")
    latents.forget(state)
    for follower in (state / "models" / "vae_faces.done", state / "checkpoints" / "vae_faces.pt"):
        follower.unlink(missing_ok=True)  # it went on from another autoencoder
