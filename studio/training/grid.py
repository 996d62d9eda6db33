"""Contact sheets: the same people and prompts from a model in training, with the same noise each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from diffusers import AutoencoderTiny, DPMSolverMultistepScheduler
from torch import nn

from studio.training.loop import working_precision

PROMPTS = (
    "a photo of {}",
    "a photo of {} wearing a red beanie",
    "a photo of {} wearing black glasses in the snow",
    "a photo of {} wearing a golden crown on the beach",
    "a photo of {} wearing a spacesuit in space",
    "a pencil sketch of {}",
    "an oil painting of {} in a forest",
    "a photo of {} smiling wearing a suit with a red tie in a library",
)
GUIDANCE, NUM_STEPS = 3.0, 20


def write_png(path: Path, rows: list[np.ndarray]) -> None:
    """Save rows of pictures, each uint8 [N, H, W, 3] RGB, as one picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = np.concatenate([np.concatenate(list(row), axis=1) for row in rows], axis=0)
    cv2.imwrite(str(path), cv2.cvtColor(sheet, cv2.COLOR_RGB2BGR))


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """Images in [-1, 1], [B, 3, H, W], to uint8 [B, H, W, 3]."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


@torch.no_grad()
def sample(
    unet: nn.Module,
    vae: AutoencoderTiny,
    context: torch.Tensor,
    empty: torch.Tensor,
    schedule: Any,
    *,
    scale: float = 1.0,
    seed: int = 0,
) -> np.ndarray:
    """Pictures for text states [B, L, D], with guidance against `empty` [1, L, D]; `scale` is the latents' factor."""
    solver = DPMSolverMultistepScheduler.from_config(schedule.config)
    solver.set_timesteps(NUM_STEPS)
    num, device = len(context), context.device
    shape = (num, vae.config.latent_channels, 16, 16)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)
    states = torch.cat([empty.expand_as(context), context])
    with working_precision(device):
        for step in solver.timesteps:
            guess = unet(torch.cat([latents, latents]), step.to(device), states).sample.float()
            without, with_text = guess.chunk(2)
            latents = solver.step(without + GUIDANCE * (with_text - without), step, latents).prev_sample
        return to_uint8(vae.decode(latents / scale).sample)
