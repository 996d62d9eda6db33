"""The parts of the studio's training that can be checked without training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from factory.pack import load_pack
from factory.prompts import PERSON
from studio.captions import VIEW_TEMPLATES
from studio.muon import Muon, orthogonal
from studio.train_unet import noise_schedule, step_weights


@pytest.mark.parametrize("shape", [(8, 8), (12, 72), (72, 12)])
def test_muons_update_is_nearly_orthogonal_and_keeps_the_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    made = orthogonal(matrix)
    assert made.shape == shape
    values = torch.linalg.svdvals(made)
    assert values.min() > 0.5 and values.max() < 1.3
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    assert float((made * (left @ right)).sum() / made.norm() / (left @ right).norm()) > 0.95


def test_muon_finds_the_minimum_of_a_quadratic() -> None:
    target = torch.randn(6, 9, generator=torch.Generator().manual_seed(1))
    parameter = nn.Parameter(torch.zeros(6, 9))
    optimiser = Muon([parameter], lr=0.05, weight_decay=0.0)
    for _ in range(300):
        optimiser.zero_grad()
        (parameter - target).square().sum().backward()
        optimiser.step()
    assert (parameter - target).abs().max() < 0.1


def test_the_schedule_ends_in_pure_noise_and_weighs_the_error_of_the_picture() -> None:
    schedule = noise_schedule()
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    weights = step_weights(schedule)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    np.testing.assert_allclose(weights * (snr + 1), (snr + 1).clamp(max=5), rtol=1e-5)


def test_the_pack_learns_identities_with_the_texts_its_views_were_named_by() -> None:
    pack = load_pack("studio")
    assert tuple(pack.prompt_templates) == VIEW_TEMPLATES
    assert all(PERSON not in template for template in pack.prompt_templates)
