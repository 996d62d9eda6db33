"""Learning identities: a pack of identities equals each trained alone, and the loss goes down."""

import numpy as np
import pytest
import torch

from factory.config import MethodConfig, TrainConfig, preset
from factory.pack import Pack
from factory.records import Identity
from factory.train import Trainer, clip_per_slot, identity_id, load_trainer
from tests.make_faces import noise_face

STEPS = 6


def learn(trainer: Trainer, *numbers: int, method: MethodConfig | None = None, **train: object) -> list[Identity]:
    faces = [noise_face(number, trainer.base.pack) for number in numbers]
    config = TrainConfig(**{"num_steps": STEPS, "learning_rate": 1e-3, **train})  # type: ignore[arg-type]
    return trainer.train(faces, preset="custom", method=method or MethodConfig(mirror=0.5), train=config)


@pytest.fixture(scope="module")
def exact(tiny_pack: Pack) -> Trainer:
    return load_trainer(tiny_pack, dtype=torch.float64)


@pytest.mark.parametrize("views", ["pool", "every_step"])
@pytest.mark.parametrize("name", ["paper", "release"])
def test_packed_equals_alone(exact: Trainer, views: str, name: str) -> None:
    """Nothing is shared in a pack but the batched products: equal to rounding in float64."""
    method, _ = preset(name)  # type: ignore[arg-type]
    options = {"views": views, "num_views": 4, "samples_per_step": 2}
    together = learn(exact, 1, 2, 3, method=method, **options)
    for number, packed in zip((1, 2, 3), together, strict=True):
        (alone,) = learn(exact, number, method=method, **options)
        assert packed.identity_id == alone.identity_id
        np.testing.assert_allclose(packed.words, alone.words, atol=1e-6)
        assert packed.final_loss == pytest.approx(alone.final_loss, rel=1e-12)


def test_order_of_the_pack_does_not_matter(exact: Trainer) -> None:
    first, second = learn(exact, 1, 2), learn(exact, 2, 1)
    np.testing.assert_allclose(first[0].words, second[1].words, atol=1e-6)


def test_same_seed_same_words_other_seed_other_words(exact: Trainer) -> None:
    (words,), (again,), (other,) = learn(exact, 1), learn(exact, 1), learn(exact, 1, seed=1)
    np.testing.assert_array_equal(words.words, again.words)
    assert np.abs(words.words - other.words).max() > 1e-3
    assert words.identity_id != other.identity_id


def test_people_get_different_words_with_the_priors_moments(exact: Trainer) -> None:
    one, two = learn(exact, 1, 2)
    assert np.abs(one.words - two.words).max() > 1e-3
    mean, std = (moment.numpy() for moment in exact.prior.moments("shared"))
    normalised = (one.words - mean) / std
    np.testing.assert_allclose(normalised.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(1), 1, atol=1e-5)


def test_training_lowers_the_loss(tiny_pack: Pack) -> None:
    trainer = load_trainer(tiny_pack, dtype=torch.float32)
    options = {"views": "pool", "num_views": 4, "samples_per_step": 8, "learning_rate": 1e-2}
    method = MethodConfig(loss="noise")  # random weights predict noise badly, and that can be learnt a little
    start = learn(trainer, 1, method=method, **{**options, "num_steps": 2, "learning_rate": 0.0})
    end = learn(trainer, 1, method=method, **{**options, "num_steps": 60})
    assert end[0].final_loss < start[0].final_loss


def test_every_ablation_runs_and_changes_the_words(exact: Trainer) -> None:
    full = learn(exact, 1, method=MethodConfig())[0].words
    ablations = ({"adain": False}, {"mask": False}, {"loss": "noise"}, {"loss": "reconstruction"}, {"features": "clip"})
    for change in ablations:
        words = learn(exact, 1, method=MethodConfig(**change))[0].words
        assert np.isfinite(words).all() and np.abs(words - full).max() > 1e-6, change


def test_v_prediction_trains(tiny_pack_v: Pack) -> None:
    (identity,) = learn(load_trainer(tiny_pack_v, dtype=torch.float32), 1)
    assert np.isfinite(identity.words).all() and np.isfinite(identity.final_loss)


def test_the_frozen_model_stays_as_it_was(exact: Trainer) -> None:
    parts = (exact.base.text_encoder, exact.base.unet, exact.base.vae)
    before = [parameter.clone() for part in parts for parameter in part.parameters()]
    learn(exact, 1)
    after = [parameter for part in parts for parameter in part.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in after)


def test_clip_is_each_identitys_own() -> None:
    large, small = torch.nn.Parameter(torch.zeros(2, 3)), torch.nn.Parameter(torch.zeros(2, 2, 2))
    large.grad = torch.tensor([[3.0, 0.0, 0.0], [0.1, 0.0, 0.0]])
    small.grad = torch.zeros(2, 2, 2)
    small.grad[0, 0, 0] = 4.0
    clip_per_slot([large, small], 1.0)
    torch.testing.assert_close(large.grad, torch.tensor([[0.6, 0.0, 0.0], [0.1, 0.0, 0.0]]))
    assert float(small.grad[0, 0, 0]) == pytest.approx(0.8)


def test_identity_id_follows_face_config_and_encoder() -> None:
    method, train = preset("paper")
    base = identity_id("a", method, train, "f")
    assert base == identity_id("a", method, train, "f") and len(base) == 16
    others = {
        identity_id("b", method, train, "f"),
        identity_id("a", method, train, "g"),
        identity_id("a", method.model_copy(update={"hair_weight": 0.0}), train, "f"),
        identity_id("a", method, train.model_copy(update={"num_steps": 1}), "f"),
    }
    assert len(others | {base}) == 5


def test_no_faces_no_identities_and_progress_is_told(exact: Trainer) -> None:
    assert learn(exact) == []
    told: list[tuple[int, int]] = []
    faces = [noise_face(1, exact.base.pack)]
    config = TrainConfig(num_steps=3)
    exact.train(faces, preset="paper", method=MethodConfig(), train=config, on_step=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]
