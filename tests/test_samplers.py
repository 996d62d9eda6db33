"""The samplers' equations and schedules against diffusers' schedulers, step by step in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from factory.draw import samplers
from factory.draw.samplers import Level, Prediction, Sampler, Schedule

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SPACINGS = ("linspace", "leading", "trailing")
STEPS = (*range(1, 17), 20, 25, 33, 50)


def network(x: torch.Tensor, timestep: float) -> torch.Tensor:
    """Any smooth function of x and t does."""
    return torch.tanh(x * (0.5 + timestep / 2000)) + 0.1 * torch.cos(x + timestep / 100)


def at(level: Level, step: int) -> Level:
    return Level(*(torch.tensor(part[step], dtype=torch.float64) for part in level))


def ours(sampler: Sampler, plan: Schedule, x: torch.Tensor, prediction: Prediction) -> list[torch.Tensor]:
    """x after each step, from the first level's x."""
    path, x0_before = [], torch.zeros_like(x)
    for step, timestep in enumerate(plan.timesteps):
        before, now, after = (at(level, step) for level in (plan.before, plan.now, plan.next))
        x0 = samplers.denoised(network(x, timestep), x, now, prediction)
        if sampler == "ddim":
            x = samplers.ddim(x, x0, now, after)
        elif sampler == "euler":
            x = samplers.euler(x, x0, now, after)
        else:
            x = samplers.dpm_solver_pp_2m(x, x0, x0_before, before, now, after)
        x0_before = x0
        path.append(x)
    return path


def theirs(scheduler: Any, num_steps: int, x: torch.Tensor, first: Level) -> list[torch.Tensor]:
    scheduler.set_timesteps(num_steps)
    exploding = isinstance(scheduler, EulerDiscreteScheduler)
    path, x = [], x / first.alpha if exploding else x
    for step, timestep in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, timestep)
        x = scheduler.step(network(scaled, float(timestep)), timestep, x).prev_sample.double()
        shrink = float(scheduler.sigmas[step + 1] ** 2 + 1) ** 0.5 if exploding else 1.0
        path.append(x / shrink)
    return path


def compare(kind: type, sampler: Sampler, spacing: str, prediction: Prediction, **config: Any) -> None:
    scheduler = kind(**BETAS, prediction_type=prediction, timestep_spacing=spacing, **config)
    abar = scheduler.alphas_cumprod.double().numpy()
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for num_steps in STEPS:
        plan = samplers.schedule(sampler, abar, dict(scheduler.config), num_steps)
        scheduler = kind.from_config(scheduler.config)
        expected = theirs(scheduler, num_steps, x, at(plan.now, 0))
        np.testing.assert_allclose(plan.timesteps, scheduler.timesteps.numpy(), rtol=1e-6)
        for mine, other in zip(ours(sampler, plan, x, prediction), expected, strict=True):
            size = float(other.abs().max())  # their tables are float32, and so is Euler's step
            torch.testing.assert_close(mine, other, rtol=1e-6, atol=1e-6 * max(size, 1.0))


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_dpm_solver_equals_diffusers(spacing: str, prediction: Prediction, zero_snr: bool) -> None:
    offset = 1 if spacing == "leading" else 0
    extra = {"steps_offset": offset, "rescale_betas_zero_snr": zero_snr}
    compare(DPMSolverMultistepScheduler, "dpm_solver++", spacing, prediction, **extra)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("to_one", [False, True])
def test_ddim_equals_diffusers(spacing: str, prediction: Prediction, to_one: bool) -> None:
    offset = 1 if spacing == "leading" else 0
    extra = {"steps_offset": offset, "set_alpha_to_one": to_one, "clip_sample": False}
    compare(DDIMScheduler, "ddim", spacing, prediction, **extra)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_euler_equals_diffusers(spacing: str, prediction: Prediction) -> None:
    compare(EulerDiscreteScheduler, "euler", spacing, prediction, steps_offset=1 if spacing == "leading" else 0)


def test_ddim_from_no_signal_at_all_needs_no_logarithm() -> None:
    extra = {"rescale_betas_zero_snr": True, "clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    compare(DDIMScheduler, "ddim", "trailing", "v_prediction", **extra)


def test_guidance_of_one_is_the_text_alone_and_of_nought_is_none() -> None:
    text, empty = torch.tensor([1.0, 2.0]), torch.tensor([0.5, 3.0])
    torch.testing.assert_close(samplers.guided(text, empty, torch.tensor(1.0)), text)
    torch.testing.assert_close(samplers.guided(text, empty, torch.tensor(0.0)), empty)
    torch.testing.assert_close(samplers.guided(text, empty, torch.tensor(3.0)), empty + 3 * (text - empty))
