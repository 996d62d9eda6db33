"""Samplers as equations: which noise levels a picture passes, and how it gets from one to the next.

A picture in the making is x = alpha x0 + sigma eps (variance preserving, alpha^2 + sigma^2 = 1); lambda = log(alpha /
sigma). Every function is of tensors whose axis 0 is the row, so that rows at different levels share a call; levels are
shaped to broadcast against x. They equal diffusers' schedulers (tests/test_samplers.py), without their state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, assert_never

import numpy as np
import torch

Sampler = Literal["dpm_solver++", "ddim", "euler"]
Prediction = Literal["epsilon", "v_prediction", "sample"]
_CLEAN = 2.0**-24  # abar of a last training step without any signal, where a level needs its logarithm


class Level(NamedTuple):
    """A noise level; in a schedule numbers, in an equation tensors that broadcast against x."""

    alpha: Any
    sigma: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The levels of one picture, n steps from noise to picture."""

    timesteps: np.ndarray  # float64 [n], what the network is told, 0..T-1
    now: Level  # float64 [n] each: where a step begins
    next: Level  # float64 [n] each: where it ends
    before: Level  # float64 [n] each: where the step before began; sigma 0 where there is no looking back

    def __len__(self) -> int:
        return len(self.timesteps)


def denoised(output: torch.Tensor, x: torch.Tensor, now: Level, prediction: Prediction) -> torch.Tensor:
    """The guess of the finished picture x0 in a network's output."""
    match prediction:
        case "epsilon":
            return (x - now.sigma * output) / now.alpha
        case "v_prediction":
            return now.alpha * x - now.sigma * output
        case "sample":
            return output
        case _:
            assert_never(prediction)


def guided(conditional: torch.Tensor, empty: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans 2022, Eq. 6, with w + 1 = scale)."""
    return empty + scale * (conditional - empty)


def ddim(x: torch.Tensor, x0: torch.Tensor, now: Level, next: Level) -> torch.Tensor:
    """DDIM (Song et al. 2021, Eq. 12, eta 0): the same noise, less of it."""
    noise = (x - now.alpha * x0) / now.sigma
    return next.alpha * x0 + next.sigma * noise


def euler(x: torch.Tensor, x0: torch.Tensor, now: Level, next: Level) -> torch.Tensor:
    """Euler's step along dx/dsigma in the variance exploding form (Karras et al. 2022, Alg. 1, no churn)."""
    exploding, s, s_next = x / now.alpha, now.sigma / now.alpha, next.sigma / next.alpha
    slope = (exploding - x0) / s
    return next.alpha * (exploding + (s_next - s) * slope)


def dpm_solver_pp_2m(
    x: torch.Tensor, x0: torch.Tensor, x0_before: torch.Tensor, before: Level, now: Level, next: Level
) -> torch.Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, Alg. 2): from the guess drawn on along the line through the last two.

    The first step has no guess before it, and the step to sigma 0 takes none (its h is infinite): both are of first
    order there, as in the authors' code.
    """
    lambda_now = torch.log(now.alpha / now.sigma)
    h = torch.log(next.alpha / next.sigma) - lambda_now  # infinite at the last step: exp(-h) is 0
    h_before = lambda_now - torch.log(before.alpha / before.sigma)
    r = h_before / h
    looks_back = (before.sigma > 0) & (next.sigma > 0)
    drawn_on = x0 + torch.where(looks_back, 1 / (2 * r), torch.zeros_like(h)) * (x0 - x0_before)
    return next.sigma / now.sigma * x - next.alpha * torch.expm1(-h) * drawn_on


def schedule(sampler: Sampler, abar_T: np.ndarray, scheduler: Mapping[str, Any], num_steps: int) -> Schedule:
    """The levels of `num_steps` steps. `abar_T` are the training schedule's float64 [T]; `scheduler` is the config of
    the pack's diffusers scheduler: its spacing of timesteps, their offset and the last level."""
    spacing, offset = scheduler.get("timestep_spacing", "leading"), int(scheduler.get("steps_offset", 0))
    match sampler:
        case "ddim":
            return _ddim_schedule(abar_T, spacing, offset, num_steps, bool(scheduler.get("set_alpha_to_one", True)))
        case "euler":
            return _chained(*_euler_levels(abar_T, spacing, offset, num_steps))
        case "dpm_solver++":
            return _chained(*_dpm_levels(abar_T, spacing, offset, num_steps))
        case _:
            assert_never(sampler)


def _dpm_levels(abar_T: np.ndarray, spacing: str, offset: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Timesteps, and sigma / alpha there: Table 2 of Lin et al. 2023, with one step more than is taken (but trailing),
    so that the last one ends above 0."""
    total = len(abar_T)
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, num_steps + 1, dtype=np.float64).round()[:0:-1]
    elif spacing == "leading":
        timesteps = np.arange(num_steps, 0, -1, dtype=np.float64) * (total // (num_steps + 1)) + offset
    else:
        timesteps = np.arange(total, 0, -total / num_steps).round() - 1
    return timesteps, np.interp(timesteps, np.arange(total), _ratios(abar_T))


def _euler_levels(abar_T: np.ndarray, spacing: str, offset: int, num_steps: int) -> tuple[np.ndarray, np.ndarray]:
    """The same, with timesteps between the training's."""
    total = len(abar_T)
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, num_steps, dtype=np.float64)[::-1]
    elif spacing == "leading":
        timesteps = np.arange(num_steps - 1, -1, -1, dtype=np.float64) * (total // num_steps) + offset
    else:
        timesteps = np.arange(total, 0, -total / num_steps).round() - 1
    return timesteps, np.interp(timesteps, np.arange(total), _ratios(abar_T))


def _chained(timesteps: np.ndarray, ratios: np.ndarray) -> Schedule:
    """Each step begins where the last one ended, and the last one ends without noise."""
    levels = np.append(ratios, 0.0)
    now, after = _level(levels[:-1]), _level(levels[1:])
    before = Level(np.roll(now.alpha, 1), np.roll(now.sigma, 1))
    before.sigma[0] = 0.0  # there is none
    return Schedule(timesteps=timesteps.astype(np.float64), now=now, next=after, before=before)


def _ddim_schedule(abar_T: np.ndarray, spacing: str, offset: int, num_steps: int, ends_without_noise: bool) -> Schedule:
    """DDIM's own: a step goes down by T // n timesteps, wherever the next one begins."""
    total = len(abar_T)
    if spacing == "linspace":
        timesteps = np.linspace(0, total - 1, num_steps, dtype=np.float64).round()[::-1]
    elif spacing == "leading":
        timesteps = np.arange(num_steps - 1, -1, -1, dtype=np.float64) * (total // num_steps) + offset
    else:
        timesteps = np.arange(total, 0, -total / num_steps).round() - 1
    down = timesteps.astype(int) - total // num_steps
    last = 1.0 if ends_without_noise else abar_T[0]
    abar_now, abar_next = abar_T[timesteps.astype(int)], np.where(down >= 0, abar_T[np.maximum(down, 0)], last)
    now, after = (Level(np.sqrt(abar), np.sqrt(1 - abar)) for abar in (abar_now, abar_next))
    before = Level(np.ones(num_steps), np.zeros(num_steps))  # it never looks back
    return Schedule(timesteps=timesteps.astype(np.float64), now=now, next=after, before=before)


def _ratios(abar_T: np.ndarray) -> np.ndarray:
    """sigma / alpha at each training step; a last step without signal gets a little."""
    abar = np.maximum(abar_T, _CLEAN)
    return np.sqrt((1 - abar) / abar)


def _level(ratio: np.ndarray) -> Level:
    alpha = 1 / np.sqrt(1 + ratio**2)
    return Level(alpha, ratio * alpha)
