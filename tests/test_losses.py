"""Eq. 5 and 6 against closed forms on small latents."""

import numpy as np
import pytest
import torch

from factory.config import MethodConfig, preset
from factory.learn.losses import in_noise_phase, mask_weights, predicted_noise, predicted_x0, two_phase_loss

T = 1000
RNG = np.random.default_rng(0)
ABAR = np.array([0.9, 0.3])
LATENTS, NOISE, ERROR = RNG.normal(size=(3, 2, 4, 2, 2))
NOISY = np.sqrt(ABAR)[:, None, None, None] * LATENTS + np.sqrt(1 - ABAR)[:, None, None, None] * NOISE
WEIGHTS = np.array([[[1.0, 0.1], [0.0, 1.0]], [[0.0, 0.0], [1.0, 0.1]]])


def tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def loss(output: torch.Tensor, phases: list[bool], *, rec_divisor: float = 1.0, kind: str = "epsilon") -> torch.Tensor:
    noisy, latents, noise, abar, weights = tensors(NOISY, LATENTS, NOISE, ABAR, WEIGHTS)
    return two_phase_loss(
        output_BCHW=output,
        noisy_BCHW=noisy,
        latents_BCHW=latents,
        noise_BCHW=noise,
        abar_B=abar,
        noise_phase_B=torch.tensor(phases),
        weights_BHW=weights,
        prediction_type=kind,  # type: ignore[arg-type]
        rec_divisor=rec_divisor,
    )


def test_each_phase_equals_its_closed_form() -> None:
    """Noise phase: |eps_hat - eps|^2. Reconstruction: the same through Eq. 5, (1 - abar) / abar times as large."""
    values = loss(torch.from_numpy(NOISE + ERROR), [True, False]).numpy()
    weighted = (WEIGHTS[:, None] * ERROR**2).mean((1, 2, 3))
    expected = weighted * [1.0, (1 - ABAR[1]) / ABAR[1]]
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_the_release_divides_the_reconstruction_by_the_vae_scaling() -> None:
    output = torch.from_numpy(NOISE + ERROR)
    paper, release = loss(output, [True, False]), loss(output, [True, False], rec_divisor=0.18215)
    assert release[0] == paper[0]
    assert float(release[1] / paper[1]) == pytest.approx(30.14, abs=0.005)


def test_v_prediction_gives_the_same_loss_as_the_same_epsilon() -> None:
    noise_hat = NOISE + ERROR
    root, rest = np.sqrt(ABAR)[:, None, None, None], np.sqrt(1 - ABAR)[:, None, None, None]
    x0_hat = (NOISY - rest * noise_hat) / root
    velocity = torch.from_numpy(root * noise_hat - rest * x0_hat)
    noisy, abar = tensors(NOISY, ABAR)
    np.testing.assert_allclose(predicted_x0(velocity, noisy, abar, "v_prediction"), x0_hat, atol=1e-12)
    np.testing.assert_allclose(predicted_noise(velocity, noisy, abar, "v_prediction"), noise_hat, atol=1e-12)
    for phases in ([True, True], [False, False]):
        torch.testing.assert_close(
            loss(velocity, phases, kind="v_prediction"), loss(torch.from_numpy(noise_hat), phases)
        )


@pytest.mark.parametrize("phases", [[True, True], [False, False]])
def test_a_masked_out_cell_has_no_gradient_and_samples_do_not_mix(phases: list[bool]) -> None:
    output = torch.from_numpy(NOISE + ERROR).requires_grad_()
    loss(output, phases)[0].backward()
    assert output.grad is not None
    seen = output.grad[0].abs().sum(0) > 0
    assert torch.equal(seen, torch.from_numpy(WEIGHTS[0] > 0))
    assert not output.grad[1].any()


def test_phase_boundary_of_both_presets() -> None:
    """Paper: t in 1..1000, t >= 600 is noise. Release: index in 0..999, index > 600 is noise."""
    indices = torch.tensor([0, 598, 599, 600, 601, 999])
    paper = preset("paper").method
    release = preset("release").method
    assert in_noise_phase(indices, T, paper).tolist() == [False, False, True, True, True, True]
    assert in_noise_phase(indices, T, release).tolist() == [False, False, False, False, True, True]


@pytest.mark.parametrize(("alpha", "first"), [(0.0, 0), (0.55, 549), (0.7, 699)])
def test_phase_boundary_is_free_of_rounding(alpha: float, first: int) -> None:
    phase = in_noise_phase(torch.arange(T), T, MethodConfig(phase_boundary=alpha))
    assert int(phase.float().argmax()) == first
    assert int(phase.sum()) == T - first


def test_ablations_use_one_phase_only() -> None:
    indices = torch.arange(T)
    assert in_noise_phase(indices, T, MethodConfig(loss="noise")).all()
    assert not in_noise_phase(indices, T, MethodConfig(loss="reconstruction")).any()


def test_mask_weights() -> None:
    face, hair = torch.tensor([[[True, False], [False, False]]]), torch.tensor([[[False, True], [False, False]]])
    assert torch.equal(mask_weights(face, hair, MethodConfig()), torch.tensor([[[1.0, 0.1], [0.0, 0.0]]]))
    assert torch.equal(mask_weights(face, hair, MethodConfig(mask=False)), torch.ones(1, 2, 2))
    normalised = mask_weights(face, hair, MethodConfig(area_normalise=True))
    assert float(normalised.mean()) == pytest.approx(1.0)
