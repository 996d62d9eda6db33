"""Every random number of training comes from the identity's own stream, on the CPU: the same on any device, whoever
else is in the batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from factory.base.diffusion import DiffusionBase


def identity_generator(seed: int, face_id: str) -> torch.Generator:
    """The random stream of one identity: initial weights, then its views, then the numbers of each step."""
    digest = hashlib.sha256(f"{seed}\n{face_id}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """The random numbers of one step: M samples of each of B identities, as B*M rows."""

    view_B: torch.Tensor  # int64, which view of the pool (drawn, and not used, where views are fresh)
    template_B: torch.Tensor  # int64
    timestep_B: torch.Tensor  # int64, 0..T-1
    vae_noise_BCHW: torch.Tensor  # standard normal, of the VAE's Gaussian
    noise_BCHW: torch.Tensor  # standard normal, eps of the loss


def draw_step(
    base: DiffusionBase, generators: Sequence[torch.Generator], *, num_samples: int, num_views: int, num_templates: int
) -> Draw:
    """The next numbers of each stream, on the base model's device."""
    shape = (num_samples, base.num_channels, base.latent_side, base.latent_side)
    integers: list[list[torch.Tensor]] = [[], [], []]
    normals: list[list[torch.Tensor]] = [[], []]
    for generator in generators:
        for drawn, limit in zip(integers, (num_views, num_templates, len(base.abar_T)), strict=True):
            drawn.append(torch.randint(limit, (num_samples,), generator=generator))
        for noise in normals:
            noise.append(torch.randn(shape, generator=generator, dtype=base.exact_dtype))
    view_B, template_B, timestep_B = (_send(torch.cat(drawn), base.device) for drawn in integers)
    vae_noise_BCHW, noise_BCHW = (_send(torch.cat(noise), base.device) for noise in normals)
    return Draw(
        view_B=view_B,
        template_B=template_B,
        timestep_B=timestep_B,
        vae_noise_BCHW=vae_noise_BCHW,
        noise_BCHW=noise_BCHW,
    )


def _send(tensor: torch.Tensor, device: str) -> torch.Tensor:
    """To the device; from pinned memory where it is a GPU, so that the next draw need not wait for its step."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor
