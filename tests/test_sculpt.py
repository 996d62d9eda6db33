"""Heads of Gaussians: the two objectives, growing, interruptions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from factory.base.diffusion import DiffusionBase
from factory.config import SculptConfig
from factory.draw.control import PoseNet
from factory.draw.distill import Guide
from factory.draw.gaussians import Growing, ellipsoid
from factory.draw.sculpt import Sculptor, _Work
from factory.draw.splats import SH_C0, View
from factory.draw.texts import TextStates
from factory.pack import Pack
from factory.store.tables import Store
from pipelines import sculpt as job
from tests.make_heads import CONFIG, head_request, make_posed


@pytest.fixture(scope="module")
def posed(tiny_pack: Pack, tmp_path_factory: pytest.TempPathFactory) -> Pack:
    return make_posed(tiny_pack, tmp_path_factory.mktemp("posed") / "pack")


@pytest.fixture(scope="module")
def sculptor(posed: Pack) -> Sculptor:
    return Sculptor(posed)


def guide(sculptor: Sculptor, config: SculptConfig) -> Guide:
    base = sculptor.base
    return Guide(base, PoseNet(base), TextStates(base), head_request(base.pack).identity, "a photo of <person>", config)


class Oracle:
    """Stands for a UNet that sees the same finished latent in everything: the base model's whole opinion."""

    def __init__(self, base: DiffusionBase, x0: torch.Tensor) -> None:
        self.base, self.x0, self.asked = base, x0, list[float]()

    def __call__(self, x: torch.Tensor, times: torch.Tensor, *_: Any) -> torch.Tensor:
        self.asked.append(float(times[0]))
        abar = self.base.abar_T[times.long()].view(-1, 1, 1, 1)
        return (x - abar.sqrt() * self.x0) / (1 - abar).sqrt()  # the tiny pack predicts epsilon


@pytest.mark.parametrize("interval", [0.05, 0.2])
def test_matching_is_its_equation_where_the_model_knows_one_picture(
    sculptor: Sculptor, monkeypatch: pytest.MonkeyPatch, interval: float
) -> None:
    """With one guess x0 everywhere, eps(x_t, t) = eps(x_s, s): every DDIM step keeps the noise, and the loss is 0."""
    asked = guide(sculptor, CONFIG.model_copy(update={"interval_t": interval, "control": False}))
    oracle = Oracle(sculptor.base, torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)))
    monkeypatch.setattr(sculptor.base, "denoise", oracle)
    renders = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    loss = asked.matching_loss(renders, [View(), View(yaw=9)], 0.7)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    s = round(0.7 * 1000) - round(interval * 1000)
    assert oracle.asked == [*range(0, s, 200), s, 700], "inversion in steps of 200, then s, then t"


def test_matching_pulls_along_the_difference_of_the_two_predictions(
    sculptor: Sculptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """d loss / d latent = w(t) (eps_t - eps_s) / cells, by numbers put into the model's mouth."""
    config = CONFIG.model_copy(update={"control": False, "guidance_scale": 1.0, "inversion_t": 1.0})
    asked, base = guide(sculptor, config), sculptor.base
    answers = iter([torch.full((1, 4, 8, 8), value) for value in (0.0, 0.25, 0.75)])  # at 0, at s, at t
    monkeypatch.setattr(base, "denoise", lambda *_: next(answers))
    latent = torch.zeros(1, 4, 8, 8, requires_grad=True)
    monkeypatch.setattr(asked, "_latents", lambda _: latent)
    asked.matching_loss(torch.zeros(1, 3, 64, 64), [View()], 0.5).backward()
    abar = base.abar_T[500]
    expected = ((1 - abar) / abar).sqrt() * (0.75 - 0.25) / latent.numel()
    assert latent.grad is not None
    torch.testing.assert_close(latent.grad, expected.expand_as(latent), rtol=1e-4, atol=0)


def test_gradients_of_both_objectives_reach_every_gaussians_colour(sculptor: Sculptor, posed: Pack) -> None:
    for objective in ("ism", "reconstruction"):
        config = CONFIG.model_copy(update={"objective": objective, "num_gaussians": 8})
        work = _Work(guide(sculptor, config), head_request(posed, config))
        before = work.growing.splats.detached()
        work.iterate()
        moved = (work.growing.splats.sh_NK3 - before.sh_NK3).abs().amax((1, 2))
        assert (moved > 0).float().mean() > 0.7, objective


def test_the_control_is_what_tells_views_apart(sculptor: Sculptor) -> None:
    views = [View(yaw=-30), View(yaw=30)]
    apart = []
    for control in (True, False):
        asked = guide(sculptor, CONFIG.model_copy(update={"control": control}))
        noise = asked.noise(1, torch.Generator().manual_seed(0))
        left, right = asked.pictures(None, views, 1.0, noise, 2)
        apart.append((left - right).abs().max().item())
        assert asked.posed is control
    assert apart[0] > 1e-3 and apart[1] < 1e-3
    words = [guide(sculptor, CONFIG.model_copy(update={"control": False}))._said(View(yaw=yaw)) for yaw in (0, 90, 180)]
    assert [text.rpartition(", ")[2] for text in words] == ["front view", "side view", "back view"]


def test_a_pack_without_heads_is_seen_from_all_around_and_one_with_them_is_not(
    posed: Pack, tiny_pack_posed: Pack, store: Store
) -> None:
    """A control of OpenPose's bodies says nothing of a head's view: words do."""
    around = {"yaw_limit": 180.0, "pitch_limit": 30.0, "num_iterations": 2, "objective": "ism"}
    config = CONFIG.model_copy(update=around)
    assert len(Sculptor(tiny_pack_posed).sculpt(head_request(tiny_pack_posed, config))) >= 8
    with pytest.raises(ValueError, match="yaw_limit 180 is beyond the 32 degrees"):
        job.sculpt(store.root, posed.root, prompts=["<person>"], config=config)


@pytest.mark.parametrize("objective", ["ism", "reconstruction"])
def test_an_interrupted_head_is_the_one_made_in_one_go(sculptor: Sculptor, posed: Pack, objective: str) -> None:
    asked = head_request(posed, CONFIG.model_copy(update={"objective": objective}))
    kept: dict[int, bytes] = {}
    steps: list[tuple[int, int]] = []
    whole = sculptor.sculpt(
        asked,
        on_step=lambda *step: steps.append(step),
        on_checkpoint=lambda state, done: kept.update({done: state}),
        checkpoint_every_s=0.0,
    )
    assert steps == [(n, 6) for n in range(1, 7)] and list(kept) == [1, 2, 3, 4, 5]
    for done in (1, 4):
        again = sculptor.sculpt(asked, checkpoint=kept[done])
        for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True):
            assert torch.equal(a, b)
    other = sculptor.sculpt(replace(asked, config=asked.config.model_copy(update={"seed": 1})))
    assert other.means_N3.shape != whole.means_N3.shape or not torch.equal(other.means_N3, whole.means_N3)


def test_who_is_faint_goes_and_who_is_pulled_most_becomes_two() -> None:
    random = torch.Generator().manual_seed(0)
    start = ellipsoid(20, 0, None, None, random)
    start.log_scales_N3[:] = np.log(0.05)
    start.logits_N[3] = -9.0
    start.log_scales_N3[7] = np.log(0.5)
    growing = Growing(start)
    centres = torch.zeros(20, 2, requires_grad=True)
    centres.grad = torch.zeros(20, 2)
    centres.grad[7], centres.grad[9] = 5.0, 4.0
    growing.splats.means_N3.sum().backward()
    growing.step([centres])
    growing.densify(21, 0.03, random, grow=0.11)
    grown = growing.splats
    assert len(grown) == 19 + 2, "one is gone, two have become four"
    assert (grown.logits_N.sigmoid() > 0.03).all()
    np.testing.assert_allclose(grown.log_scales_N3[[6, 19]].detach(), np.log(0.5 / 1.6), atol=0.05)  # it was large
    np.testing.assert_allclose(grown.log_scales_N3[20].detach(), start.log_scales_N3[9], atol=0.05)  # a copy
    growing.splats.means_N3.sum().backward()
    growing.step([])  # Adam's moments fit the new tensors
    growing.densify(10, 0.03, random)
    assert len(growing.splats) == 21, "none are added beyond the limit"


def test_it_begins_in_the_colours_of_the_photo() -> None:
    crop = np.zeros((64, 64, 3), np.uint8)
    crop[:, :32], crop[:, 32:] = (255, 0, 0), (0, 0, 255)
    mask = np.ones((64, 64), bool)
    mask[:16] = False
    start = ellipsoid(400, 0, crop, mask, torch.Generator().manual_seed(0))
    colours = 0.5 + SH_C0 * start.sh_NK3[:, 0]
    x, y = start.means_N3[:, 0], start.means_N3[:, 1]
    middle = (y > -0.4) & (y < 0.9)
    assert (colours[middle & (x < -0.1), 0] > 0.99).all() and (colours[middle & (x > 0.1), 2] > 0.99).all()
    assert (colours[y < -0.75] - 0.5).abs().max() < 1e-6, "above the mask it is grey"
