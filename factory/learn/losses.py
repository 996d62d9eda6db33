"""Eq. 5 and 6: the masked two-phase loss. Every function gives one value per sample, so that identities sharing a
batch never share a gradient. Shape suffixes: `B` samples, `C` latent channels, `H W` latent rows and columns."""

from __future__ import annotations

import torch

from factory.base.diffusion import PredictionType
from factory.config import MethodConfig


def predicted_noise(
    output_BCHW: torch.Tensor, noisy_BCHW: torch.Tensor, abar_B: torch.Tensor, prediction_type: PredictionType
) -> torch.Tensor:
    """eps_hat from the UNet's output: the output itself, or sqrt(abar) v + sqrt(1 - abar) z_t. [B, C, H, W]."""
    if prediction_type == "epsilon":
        return output_BCHW
    abar = abar_B.view(-1, 1, 1, 1)
    return abar.sqrt() * output_BCHW + (1 - abar).sqrt() * noisy_BCHW


def predicted_x0(
    output_BCHW: torch.Tensor, noisy_BCHW: torch.Tensor, abar_B: torch.Tensor, prediction_type: PredictionType
) -> torch.Tensor:
    """z0_hat (Eq. 5) from the UNet's output: (z_t - sqrt(1 - abar) eps_hat) / sqrt(abar), or, for v-prediction,
    sqrt(abar) z_t - sqrt(1 - abar) v. Shape [B, C, H, W]."""
    abar = abar_B.view(-1, 1, 1, 1)
    if prediction_type == "v_prediction":
        return abar.sqrt() * noisy_BCHW - (1 - abar).sqrt() * output_BCHW
    return (noisy_BCHW - (1 - abar).sqrt() * output_BCHW) / abar.sqrt()


def in_noise_phase(timesteps_B: torch.Tensor, num_timesteps: int, method: MethodConfig) -> torch.Tensor:
    """Which samples the noise loss judges; the others are judged by reconstruction. Bool [B].

    `timesteps_B` are the scheduler's indices 0..T-1. The paper counts t = index + 1 and takes t >= alpha T
    ("at_least"); the release takes index > alpha T ("above"): with T = 1000 they differ at indices 599 and 600.
    """
    if method.loss != "two_phase":
        return torch.full_like(timesteps_B, method.loss == "noise", dtype=torch.bool)
    boundary = round(method.phase_boundary * num_timesteps, 6)  # 0.55 * 1000 is 550.0000000000001
    if method.boundary == "at_least":
        return timesteps_B + 1 >= boundary
    return timesteps_B > boundary


def mask_weights(face_BHW: torch.Tensor, hair_BHW: torch.Tensor, method: MethodConfig) -> torch.Tensor:
    """M_face + beta M_hair of Eq. 6 (ones without the mask), float32 [B, H, W]."""
    if not method.mask:
        return torch.ones_like(face_BHW, dtype=torch.float32)
    weights = face_BHW.float() + method.hair_weight * hair_BHW.float()
    if method.area_normalise:
        weights = weights / weights.mean((1, 2), keepdim=True).clamp(min=1e-3)
    return weights


def two_phase_loss(
    *,
    output_BCHW: torch.Tensor,
    noisy_BCHW: torch.Tensor,
    latents_BCHW: torch.Tensor,
    noise_BCHW: torch.Tensor,
    abar_B: torch.Tensor,
    noise_phase_B: torch.Tensor,
    weights_BHW: torch.Tensor,
    prediction_type: PredictionType,
    rec_divisor: float,
) -> torch.Tensor:
    """Eq. 6 for each sample: weighted |eps - eps_hat|^2 in the noise phase, |z0_hat - z0|^2 below it. Float32 [B].

    The mean runs over the whole latent grid, masked cells included. `rec_divisor` is 1 in the paper; the release
    divides both sides of the reconstruction by the VAE's scaling factor.
    """
    noise_hat = predicted_noise(output_BCHW, noisy_BCHW, abar_B, prediction_type)
    x0_hat = predicted_x0(output_BCHW, noisy_BCHW, abar_B, prediction_type)
    noise_error = (noise_BCHW - noise_hat).square()
    rec_error = ((x0_hat - latents_BCHW) / rec_divisor).square()
    error_BCHW = torch.where(noise_phase_B.view(-1, 1, 1, 1), noise_error, rec_error)
    return (error_BCHW * weights_BHW.unsqueeze(1)).mean((1, 2, 3))
