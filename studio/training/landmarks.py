"""Trains the ruler for the pose control: where eyes, nose and mouth are in a rendered or generated picture.

The pack's detector was made for photographs: on real renders in wide poses its points are three pixels off, more than
the error it would have to measure. This network reads the autoencoder's latents; nothing is ever trained against it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderTiny
from torch import nn
from torch.nn import functional

from studio.training import pose_data
from studio.training.build import PACK
from studio.training.dataset import PICTURE_PX, held_out
from studio.training.loop import Run, cosine_lr, working_precision
from studio.world.head import measure
from studio.world.people import Person
from studio.world.render import render
from studio.world.scenes import Scene
from studio.world.shapes import blank

STEPS, BATCH, LR = 1_600, 64, 2e-3
WIDTH, NUM_POINTS = 96, 5
NOISE = 0.3  # at most, on latents: generated pictures are softer and rougher than encoded renders
NUM_CHECKED = 300  # pictures of held-out people


class Block(nn.Module):
    """A residual block of two convolutions."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=dilation, dilation=dilation),
            nn.GroupNorm(8, width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = x + self.inner(x)
        return out


class Landmarks(nn.Module):
    """Latents [B, C, 16, 16] -> five points [B, 5, 2], x y in shares of the side, as means of five maps."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        blocks = [Block(WIDTH, dilation) for dilation in (1, 2, 4, 1)]
        self.body = nn.Sequential(nn.Conv2d(channels, WIDTH, 3, padding=1), *blocks, nn.GroupNorm(8, WIDTH), nn.SiLU())
        self.maps = nn.Conv2d(WIDTH, NUM_POINTS, 3, padding=1)

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        maps = self.maps(self.body(latents)).float()
        side = maps.shape[-1]
        centres = (torch.arange(side, device=maps.device) + 0.5) / side
        chance = maps.flatten(2).softmax(-1).unflatten(2, (side, side))
        return torch.stack([(chance.sum(2) * centres).sum(-1), (chance.sum(3) * centres).sum(-1)], dim=-1)


def true_landmarks(person: Person, scene: Scene) -> np.ndarray:
    """The renderer's five points without drawing the picture, float32 [5, 2], shares of the side."""
    canvas = blank(scene, 4)
    points = [canvas.project(x, y, lift) for x, y, lift in measure(person, scene).landmarks()]
    return np.asarray(points, np.float32) / canvas.size


def load(state: Path, pack: Path = PACK) -> Ruler:
    """The trained network with the pack's autoencoder."""
    saved = torch.load(state / "models" / "landmarks.pt", map_location="cpu", weights_only=True)
    vae = AutoencoderTiny.from_pretrained(pack / "base" / "vae").float().eval()
    net = Landmarks(vae.config.latent_channels)
    net.load_state_dict(saved)
    return Ruler(net.eval(), vae)


class Ruler:
    """Finds the five landmarks of one head in pictures of the studio's size."""

    def __init__(self, net: Landmarks, vae: AutoencoderTiny) -> None:
        self.net, self.vae = net, vae

    @torch.no_grad()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Points float32 [B, 5, 2], pixels, of pictures uint8 [B, S, S, 3]."""
        pixels = torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1
        latents = torch.cat([self.vae.encode(part).latents for part in pixels.split(16)])
        points: np.ndarray = self.net(latents).numpy() * PICTURE_PX
        return points


def check(ruler: Ruler) -> np.ndarray:
    """Mean distance from the truth in pixels, of renders of held-out people in wide poses, float [NUM_CHECKED]."""
    scenes = [pose_data.wide_scene(np.random.default_rng([0xC4EC, number])) for number in range(NUM_CHECKED)]
    pictures = [render(held_out(number % 200), scene) for number, scene in enumerate(scenes)]
    found = ruler(np.stack([picture.image for picture in pictures]))
    errors: np.ndarray = np.linalg.norm(found - [picture.landmarks for picture in pictures], axis=2).mean(1)
    return errors


def train(state: Path, *, device: torch.device, minutes: float | None = None) -> None:
    """Train to `<state>/models/landmarks.pt` on the pictures of `pose_data`; prints the error on held-out people."""
    torch.manual_seed(7)
    pictures = pose_data.load(state)
    known = [true_landmarks(*pose_data.sample(item)[:2]) for item in range(len(pictures))]
    truth = torch.from_numpy(np.stack(known))
    net = Landmarks(pictures.latents.shape[1]).to(device)
    adam = torch.optim.AdamW(net.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=1e-3)
    run = Run(state, "landmarks", steps=STEPS, minutes=minutes)
    run.resume(net=net, adam=adam)
    random = torch.Generator()
    for step in run:
        random.manual_seed(int(np.random.SeedSequence([7, step]).generate_state(1)[0]))
        rows = torch.randint(len(truth), (BATCH,), generator=random)
        latents = pictures.latents[rows].float()
        rough = NOISE * torch.rand((BATCH, 1, 1, 1), generator=random)
        latents = (latents + rough * torch.randn(latents.shape, generator=random)).to(device)
        cosine_lr(adam, step, run.progress)
        with working_precision(device):
            found = net(latents)
        loss = functional.smooth_l1_loss(found * 16, truth[rows].to(device) * 16, beta=0.1)  # in cells
        adam.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        adam.step()
        run.track(loss=loss, px=(found.detach().cpu() - truth[rows]).norm(dim=-1).mean() * PICTURE_PX)
    (state / "models").mkdir(exist_ok=True)
    torch.save({name: value.cpu() for name, value in net.state_dict().items()}, state / "models" / "landmarks.pt")
    errors = check(load(state))
    run.note(held_out_median_px=float(np.median(errors)), held_out_mean_px=float(errors.mean()))
