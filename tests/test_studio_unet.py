"""What the studio's UNet is trained with: its optimiser, its objective, and how a trained one is taken further."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from studio.training import unet as train_unet
from studio.training.latent_faces import LatentFaces, distance
from studio.training.latents import Encoded
from studio.training.muon import Muon, orthogonal
from studio.training.objective import LIKENESS_BELOW, Objective, noise_schedule, step_weights
from studio.training.unet import TEXT_WIDTH, make
from studio.training.unpack import follow, widen


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


def test_muon_updates_alike_matrices_together_as_it_updates_each_alone() -> None:
    shapes = [(6, 9), (6, 9), (6, 1, 3, 3), (9, 6)]
    together = [nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(2))) for shape in shapes]
    alone = [nn.Parameter(p.detach().clone()) for p in together]
    optimisers = [Muon(together, lr=0.1), *(Muon([p], lr=0.1) for p in alone)]
    for parameters in (together, alone):
        sum((p * torch.arange(p.numel()).view_as(p).sin()).sum() for p in parameters).backward()  # type: ignore[union-attr]
    for optimiser in optimisers:
        optimiser.step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a, b)


def test_a_unet_follows_to_latents_that_hold_the_old_ones() -> None:
    """Where the old latents are the first of the new ones and independent of the others, nothing is lost."""
    random = torch.Generator().manual_seed(3)
    after = torch.randn(20_000, 6, generator=random).double()
    unet = make(4).eval()
    followed = follow(unet, after[:, :4], after).eval()
    noisy, context = torch.randn(2, 6, 16, 16, generator=random), torch.randn(2, 5, TEXT_WIDTH, generator=random)
    with torch.no_grad():
        before = unet(noisy[:, :4], torch.tensor([10, 900]), context).sample
        now = followed(noisy, torch.tensor([10, 900]), context).sample
    torch.testing.assert_close(now[:, :4], before, rtol=0.05, atol=0.05)


def test_a_widened_unet_predicts_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nearly: where a skip joins a widened and an unchanged level, groups of a normalisation hold other channels."""
    monkeypatch.setattr(train_unet, "WIDTHS", (64, 160))
    narrow = make(4).eval()
    monkeypatch.undo()
    wide = widen(narrow).eval()
    assert wide.config.block_out_channels == train_unet.WIDTHS
    random = torch.Generator().manual_seed(3)
    noisy, context = torch.randn(2, 4, 16, 16, generator=random), torch.randn(2, 5, TEXT_WIDTH, generator=random)
    outputs: list[list[torch.Tensor]] = [[], []]
    for unet, kept in zip((narrow, wide), outputs, strict=True):
        unet.mid_block.register_forward_hook(lambda *args, kept=kept: kept.append(args[-1]))
        with torch.no_grad():
            kept.append(unet(noisy, torch.tensor([10, 900]), context).sample)
    torch.testing.assert_close(outputs[1][0], outputs[0][0], rtol=1e-3, atol=1e-4)  # no such skip before the middle
    assert (outputs[1][1] - outputs[0][1]).square().mean() < 0.05 * outputs[0][1].square().mean()
    kernel = wide.down_blocks[0].resnets[0].conv1.weight
    assert (kernel[:, 0] - kernel[:, 1]).abs().mean() > 0.1 * kernel.abs().mean()  # else copies would stay alike


def test_distance_of_latents_is_nought_for_the_same_and_shows_the_guess_where_to_go() -> None:
    torch.manual_seed(4)
    network = LatentFaces(4, 7).eval().requires_grad_(False)
    real = torch.randn(3, 4, 16, 16)
    guess = torch.randn(3, 4, 16, 16, requires_grad=True)
    torch.testing.assert_close(distance(network, real, real), torch.zeros(3), atol=1e-5, rtol=0)
    before = distance(network, guess, real)
    (gradient,) = torch.autograd.grad(before.sum(), [guess])
    after = distance(network, guess - 0.1 * gradient / gradient.norm() * guess.norm(), real)
    assert before.shape == (3,) and after.sum() < before.sum()


def test_the_schedule_ends_in_pure_noise_and_weighs_the_error_of_the_picture() -> None:
    schedule = noise_schedule()
    assert float(schedule.alphas_cumprod[-1]) == pytest.approx(0, abs=1e-6)
    weights = step_weights(schedule)
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)
    np.testing.assert_allclose(weights * (snr + 1), (snr + 1).clamp(max=10), rtol=1e-5)


def _rows(num: int) -> Encoded:
    cells = torch.zeros(num, 16, 16)
    names = {"latents": torch.zeros(num, 4, 16, 16), "face": cells, "hair": cells}
    return Encoded(items=torch.arange(num), persons=torch.arange(num), **names)


def test_time_steps_cover_the_schedule_and_likeness_looks_at_the_clear_ones_alone(tmp_path: Path) -> None:
    torch.manual_seed(6)
    (tmp_path / "models").mkdir()
    torch.save(LatentFaces(4, 7).state_dict(), tmp_path / "models" / "latent_faces.pt")
    objective = Objective(tmp_path, torch.device("cpu"))
    steps = objective.steps(8, torch.Generator().manual_seed(0))
    assert (steps // 125).tolist() == list(range(8))
    noise, clean = torch.randn(8, 4, 16, 16), torch.randn(8, 4, 16, 16)
    truth = objective.schedule.get_velocity(clean, noise, steps)
    assert float(objective(truth, clean, noise, steps, _rows(8))["loss"]) < 1e-6
    clear = steps < LIKENESS_BELOW
    for wrong, seen in ((clear, True), (~clear, False)):
        guess = truth + wrong[:, None, None, None] * torch.randn(truth.shape)
        assert (float(objective(guess, clean, noise, steps, _rows(8))["unlike"]) > 1e-3) == seen


def test_encoded_pictures_are_joined_and_picked_row_by_row() -> None:
    both = _rows(3) + _rows(2)
    assert len(both) == 5 and both[torch.tensor([4, 0])].persons.tolist() == [1, 0]
