"""The projector of both presets against an independent evaluation in NumPy, and the separation of its slots."""

import numpy as np
import pytest
import torch

from factory.base.text import NUM_WORDS
from factory.config import MethodConfig, preset
from factory.learn.projector import PackedProjector, normalise_per_word

WIDTH, FEATURES = 6, 5
Array = np.ndarray


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def started(
    num_features: int, mean: torch.Tensor, std: torch.Tensor, method: MethodConfig, *seeds: int
) -> PackedProjector:
    packed = PackedProjector(len(seeds), num_features, mean, std, method)
    for slot, generator in enumerate(generators(*seeds)):
        packed.start(slot, generator)
    return packed


def projector(name: str, *seeds: int) -> PackedProjector:
    method = preset(name).method  # type: ignore[arg-type]
    moments = torch.randn(2, NUM_WORDS, WIDTH, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    packed = started(FEATURES, moments[0], moments[1].abs(), method, *seeds).double()
    noise = torch.Generator().manual_seed(5)
    with torch.no_grad():  # away from the neutral gains and biases of the start, or half the formula is not tested
        for parameter in packed.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=noise, dtype=torch.float64))
    return packed


def layer_norm(x: Array) -> Array:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def by_hand(packed: PackedProjector, slot: int, feature: Array, preset_name: str) -> Array:
    """One slot, one feature, straight from METHOD: EqualLinear, LeakyReLU, LayerNorm, EqualLinear, Eq. 4."""
    p = {name: value.detach().numpy()[slot] for name, value in packed.named_parameters()}
    hidden = feature @ (0.1 * p["weight_in"]).T + 0.1 * p["bias_in"]
    hidden = np.where(hidden > 0, hidden, 0.2 * hidden)
    hidden = layer_norm(hidden) * p["norm_gain"] + p["norm_bias"]
    raw = hidden @ (0.1 * p["weight_out"]).T + 0.1 * p["bias_out"]
    if preset_name == "release":
        normalised = (layer_norm(raw) * p["joint_gain"] + p["joint_bias"]).reshape(NUM_WORDS, WIDTH)
    else:
        words = raw.reshape(NUM_WORDS, WIDTH)
        normalised = np.stack([(word - word.mean()) / word.std() for word in words])
    return packed.std_VD.numpy() * normalised + packed.mean_VD.numpy()


@pytest.mark.parametrize("name", ["paper", "release"])
def test_words_equal_the_formula(name: str) -> None:
    packed = projector(name, 0, 1, 2)
    features = torch.randn(3, 2, FEATURES, generator=generators(7)[0], dtype=torch.float64)
    words = packed(features).detach().numpy()
    for slot in range(3):
        for sample in range(2):
            expected = by_hand(packed, slot, features[slot, sample].numpy(), name)
            np.testing.assert_allclose(words[slot, sample], expected, atol=1e-12)


def test_normalised_words_have_zero_mean_and_unit_deviation() -> None:
    words = normalise_per_word(3 + 2 * torch.randn(4, 2, 64, generator=generators(0)[0]))
    torch.testing.assert_close(words.mean(-1), torch.zeros(4, 2), atol=1e-6, rtol=0)
    torch.testing.assert_close(words.std(-1, unbiased=False), torch.ones(4, 2))


def test_without_adain_the_words_are_the_mlps() -> None:
    method = preset("paper").method
    packed = started(
        FEATURES,
        torch.full((NUM_WORDS, WIDTH), 100.0),
        torch.ones(NUM_WORDS, WIDTH),
        method.model_copy(update={"adain": False}),
        0,
    )
    features = torch.ones(1, 1, FEATURES)
    assert torch.equal(packed(features), packed.raw_words(features))


def test_a_slot_does_not_depend_on_its_neighbours() -> None:
    method = preset("release").method
    moments = torch.zeros(NUM_WORDS, WIDTH), torch.ones(NUM_WORDS, WIDTH)
    together = started(FEATURES, *moments, method, 3, 4)
    alone = started(FEATURES, *moments, method, 4)
    features = torch.randn(2, 1, FEATURES, generator=generators(1)[0])
    torch.testing.assert_close(together(features)[1:], alone(features[1:]))
    together(features)[0].sum().backward()
    for parameter in together.parameters():
        assert parameter.grad is not None
        assert not parameter.grad[1].any()


def test_parameter_count_is_the_papers() -> None:
    """5.78 M parameters with the norms, at F = 768, D = 1024."""
    method = preset("release").method
    moments = torch.zeros(NUM_WORDS, 1024), torch.ones(NUM_WORDS, 1024)
    packed = started(768, *moments, method, 0)
    assert sum(parameter.numel() for parameter in packed.parameters()) == pytest.approx(5.78e6, rel=1e-3)
