"""Trains the autoencoder: diffusers' AutoencoderTiny, 24 latent channels at 1/8 of the side.

The first eight channels have a standard deviation of 1 and hold the picture as well as eight can: the others are
shrunk towards 0 in a part of the training. These have 0.5 and add details; they drown earlier in the noise of a
diffusion model and are decided last, when all else is there, and an error in them costs its loss less.

Pixels of the face count more than the background's, and the FR-ViT compares the face as it will see it later, aligned.
It was trained on none of the judge's people.

The stage `decoder` goes on with the decoder alone, so that all latents, and a UNet trained on them, stay what they are.
"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional as F
from torch.utils import data as loading
from transformers import ViTModel

from studio.training import latents
from studio.training.crops import face_grid
from studio.training.dataset import Dataset
from studio.training.loop import Run, cosine_lr, working_precision
from studio.training.muon import Muon

WIDTH, LATENT_CHANNELS, MAIN_CHANNELS = 48, 24, 8
DETAIL_STD = 0.5
SHRUNK_SHARE = 0.25  # of a batch: pictures whose details are multiplied by a number between 0 and 1
BATCH, STEPS, LR = {"cpu": 8, "cuda": 64}, {"cpu": 13_000, "cuda": 2_200}, 4e-3
DECODER_STEPS, DECODER_LR = 8_000, 8e-4
LATENT_NOISE = 0.03  # std added to the latents in training, so that the decoder forgives the diffusion model
DETAIL_CLASSES = (2, 3, 4, 5, 6, 10, 11, 12, 13)  # brows, eyes, glasses, nose, mouth, lips
BACKGROUND, HAIR, FACE, DETAIL = 1.0, 1.5, 3.5, 5.0  # weights of pixels
SQUARED_WEIGHT = 4.0  # of the squared error beside the absolute one
LIKENESS_WEIGHT = 3.0  # of the FR-ViT's distance
EMA_DECAY = 0.998


def make() -> AutoencoderTiny:
    """The untrained autoencoder (1.3 M parameters); blocks only from half resolution down, where they are cheap."""
    return AutoencoderTiny(
        latent_channels=LATENT_CHANNELS,
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_encoder_blocks=(0, 1, 2, 5),
        num_decoder_blocks=(5, 4, 2, 0),
    )


class _Trained(nn.Module):
    """Autoencoder with the normalisation between encoder and decoder; at the end it is folded into the encoder."""

    channel_std: torch.Tensor
    shrunk_share = SHRUNK_SHARE
    weight_power = 1.0  # of the pixels' weights
    squared_weight = SQUARED_WEIGHT

    def __init__(self) -> None:
        super().__init__()
        self.vae = make()
        self.norm = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)
        std = torch.full((LATENT_CHANNELS, 1, 1), DETAIL_STD)
        std[:MAIN_CHANNELS] = 1
        self.register_buffer("channel_std", std)

    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        """Latents [B, C, 16, 16] of images in [-1, 1]."""
        code: torch.Tensor = self.norm(self.vae.encoder(images_BCHW)) * self.channel_std
        return code

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        code = self.encode(images_BCHW)
        shrunk = torch.rand((2, len(code), 1, 1, 1), device=code.device)
        kept = torch.where(shrunk[0] < self.shrunk_share, shrunk[1], 1.0)
        code = torch.cat([code[:, :MAIN_CHANNELS], kept * code[:, MAIN_CHANNELS:]], dim=1)
        return self.vae.decoder(code + LATENT_NOISE * torch.randn_like(code))

    @torch.no_grad()
    def folded(self) -> AutoencoderTiny:
        """A plain AutoencoderTiny with the normalisation in its last encoder layer (exact: that layer is linear)."""
        vae = make().to(self.channel_std.device)
        vae.load_state_dict(self.vae.state_dict())
        last = vae.encoder.layers[-1]
        assert self.norm.running_var is not None
        factor = self.channel_std[:, 0, 0] / (self.norm.running_var + self.norm.eps).sqrt()
        last.bias.copy_((last.bias - self.norm.running_mean) * factor)
        last.weight.mul_(factor[:, None, None, None])
        return vae.eval()


class _DecoderOnly(_Trained):
    """A finished autoencoder of which the decoder alone is trained, for the picture as a whole."""

    shrunk_share = 0.0
    weight_power = 0.5
    squared_weight = 2 * SQUARED_WEIGHT

    def __init__(self, vae: AutoencoderTiny) -> None:
        super().__init__()
        self.vae = vae
        self.vae.encoder.requires_grad_(False)

    @torch.no_grad()
    def encode(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        code: torch.Tensor = self.vae.encoder(images_BCHW)
        return code

    def folded(self) -> AutoencoderTiny:
        return self.vae.eval()


class FaceDistance:
    """How differently the FR-ViT sees aligned faces in two batches of pictures: 0 for the same."""

    def __init__(self, vit: ViTModel) -> None:
        self.vit = vit.eval().requires_grad_(False)

    def _tokens(self, images: torch.Tensor, grids: torch.Tensor) -> list[torch.Tensor]:
        faces = F.grid_sample(images, grids, padding_mode="border", align_corners=False)  # edges repeat, as in crops
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


class _Batches(loading.Dataset[tuple[torch.Tensor, ...]]):
    """Pictures uint8 [B, S, S, 3], pixel weights [B, 1, S, S] and grids for the FR-ViT, by step."""

    def __init__(self, data: Dataset, size: int, face_px: int) -> None:
        self.data, self.size, self.face_px = data, size, face_px
        self.items, self.looked = data.ready(), 0

    def __getitem__(self, step: int) -> tuple[torch.Tensor, ...]:
        if step >= self.looked + 200:  # more may be rendered by now
            self.items, self.looked = self.data.ready(), step
        chosen = np.sort(np.random.default_rng([1, step]).choice(self.items, self.size))
        grids = np.stack([face_grid(self.data.landmarks[item], self.face_px) for item in chosen])
        weights = pixel_weights(self.data.labels[chosen])[:, None]
        return torch.from_numpy(self.data.images[chosen]), torch.from_numpy(weights), torch.from_numpy(grids)


def _gradients(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor, *, squared: float) -> torch.Tensor:
    """L1, `squared` x squared error and half the L1 of neighbours' differences, by pixel weight; plus local colour.

    Without the last term the autoencoder draws outlines first and finds red against green only after many minutes.
    """
    error = output - target
    local = F.avg_pool2d(error, 4)
    red, green, blue = local.unbind(1)
    opponents = torch.stack([red - green, blue - (red + green) / 2], dim=1)
    colour = local.square().mean() + 2 * opponents.square().mean() + opponents.abs().mean()
    dx, dy = _gradients(error)
    edges = (weight[..., 1:] * dx.abs()).mean() + (weight[..., 1:, :] * dy.abs()).mean()
    return (weight * (error.abs() + squared * error.square())).mean() + 0.5 * edges + 2 * colour


def _pixels(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Images uint8 [B, S, S, 3] to [B, 3, S, S] in [-1, 1]."""
    shown = images.to(device, non_blocking=True).movedim(-1, 1).float() / 127.5 - 1
    return shown.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def psnr(vae: AutoencoderTiny, data: Dataset, items: np.ndarray) -> float:
    """Mean PSNR in dB over whole pictures."""
    device = next(vae.parameters()).device
    values = []
    for part in np.array_split(items, -(-len(items) // 16)):
        images = _pixels(torch.from_numpy(data.images[part]), device)
        with working_precision(device):
            output = vae.decode(vae.encode(images).latents).sample
        error = (output.float().clamp(-1, 1) - images).div(2).square().mean((1, 2, 3))
        values += (-10 * error.log10()).tolist()
    return float(np.mean(values))


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/vae` (the running average); logs the PSNR of held-out people. Needs the FR-ViT."""
    torch.manual_seed(1)
    average = _fit(_Trained(), state, Run(state, "vae", steps=STEPS[device.type], minutes=minutes), LR, device)
    _settle(average, Dataset(state), device)
    average.folded().cpu().save_pretrained(state / "models" / "vae")
    latents.forget(state)
    for follower in (state / "models" / "decoder.done", state / "checkpoints" / "decoder.pt"):
        follower.unlink(missing_ok=True)  # it went on from another autoencoder


def train_decoder(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train the decoder of `<state>/models/vae` on, with the same loss."""
    torch.manual_seed(2)
    model = _DecoderOnly(AutoencoderTiny.from_pretrained(state / "models" / "vae"))
    average = _fit(model, state, Run(state, "decoder", steps=DECODER_STEPS, minutes=minutes), DECODER_LR, device)
    average.folded().cpu().save_pretrained(state / "models" / "vae")
    (state / "models" / "decoder.done").touch()


@torch.no_grad()
def _settle(average: _Trained, data: Dataset, device: torch.device, *, pictures: int = 2048) -> None:
    """Take the latents' statistics anew, of the averaged encoder, over `pictures` pictures."""
    average.norm.reset_running_stats()
    average.norm.momentum = None  # a plain mean
    average.norm.train()
    items = data.ready()
    for part in np.array_split(items[:: max(1, len(items) // pictures)], pictures // 64):
        with working_precision(device):
            average.norm(average.vae.encoder(_pixels(torch.from_numpy(data.images[part]), device)))
    average.norm.eval()


def _fit(model: _Trained, state: Path, run: Run, lr: float, device: torch.device) -> _Trained:
    """Train what of `model` has gradients; returns the running average."""
    data = Dataset(state)
    data.wait(4000)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model).requires_grad_(False)
    vit = ViTModel.from_pretrained(state / "models" / "fr_vit", add_pooling_layer=False, attn_implementation="eager")
    likeness = FaceDistance(vit.float().to(device))
    trained = [p for p in model.parameters() if p.requires_grad]
    biases = [p for p in trained if p.ndim == 1]
    muon = Muon([p for p in trained if p.ndim == 4], lr=lr)
    adam = torch.optim.AdamW(biases, lr=lr / 2, betas=(0.9, 0.99), weight_decay=0)
    run.resume(model=model, average=average, muon=muon, adam=adam)
    held = data.ready(held_out=True)[::25]
    cuda = device.type == "cuda"
    batches = loading.DataLoader(
        _Batches(data, BATCH[device.type], vit.config.image_size),
        batch_size=None,
        sampler=range(run.step, 10**9),
        num_workers=4 if cuda else 0,
        prefetch_factor=4 if cuda else None,
        pin_memory=cuda,
    )
    for step, batch in zip(run, batches, strict=False):
        for optimiser in (muon, adam):
            cosine_lr(optimiser, step, run.progress)
            optimiser.zero_grad()
        images = _pixels(batch[0], device)
        weights, grids = (part.to(device, non_blocking=True) for part in batch[1:])
        with working_precision(device):
            output = model(images).float()
            unlike = likeness(output, images, grids)
        shown = loss_of(output, images, weights**model.weight_power, squared=model.squared_weight)
        (shown + LIKENESS_WEIGHT * unlike).backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        for optimiser in (muon, adam):
            optimiser.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
        run.track(loss=shown, unlike=unlike)
        if step % 1000 == 999:
            average.norm.load_state_dict(model.norm.state_dict())
            run.note(psnr=psnr(average.folded(), data, held))
    average.norm.load_state_dict(model.norm.state_dict())
    run.note(psnr=psnr(average.folded(), data, held))
    return average
