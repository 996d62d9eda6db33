"""Averaging of the words: off unless asked for, and the weighted mean of the words that each step leaves."""

import numpy as np
import pytest

from factory.config import EngineConfig, Recipe, TrainConfig, preset
from factory.learn.trainer import Trainer, load_trainer
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity
from tests.make_faces import noise_face

STEPS = 6


@pytest.fixture(scope="module")
def trainer(tiny_pack: Pack) -> Trainer:
    return load_trainer(tiny_pack, engine=EngineConfig(precision="float64"))


def learn(trainer: Trainer, **train: object) -> Identity:
    config = TrainConfig(**{"num_steps": STEPS, "learning_rate": 1e-3, "views": "pool", "num_views": 4, **train})  # type: ignore[arg-type]
    method = preset("release").method
    (identity,) = trainer.train([noise_face(0, trainer.base.pack)], Recipe(method=method, train=config))
    return identity


def test_off_by_default_and_in_both_presets() -> None:
    trains = (TrainConfig(), preset("paper").train, preset("release").train)
    assert all(train.average_power is None for train in trains)


@pytest.mark.parametrize("power", [0, 2])
def test_it_is_the_weighted_mean_of_the_words_after_each_step(power: float, trainer: Trainer) -> None:
    """The rate is constant, so the words after n steps are those of a run of n steps."""
    after = [learn(trainer, num_steps=steps).words[TEXT_ENCODER] for steps in range(1, STEPS + 1)]
    expected = np.average(after, axis=0, weights=[steps**power for steps in range(1, STEPS + 1)])
    averaged = learn(trainer, average_power=power)
    np.testing.assert_allclose(averaged.words[TEXT_ENCODER], expected, atol=1e-6)
    assert np.abs(averaged.words[TEXT_ENCODER] - after[-1]).max() > 1e-4, "steps are to move the words"
    assert averaged.final_loss == pytest.approx(learn(trainer).final_loss, rel=1e-9), "training is the same"


def test_an_identity_that_stops_early_has_the_mean_of_the_steps_it_made(trainer: Trainer) -> None:
    stopped = learn(trainer, average_power=2, stop_below=0.9, stop_every=2)
    assert 1 < stopped.num_steps < STEPS
    np.testing.assert_allclose(
        stopped.words[TEXT_ENCODER],
        learn(trainer, average_power=2, num_steps=stopped.num_steps).words[TEXT_ENCODER],
        atol=1e-7,
    )
