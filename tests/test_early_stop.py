"""Early stopping: off unless asked for, by the identity's own words, and the same whenever it is run."""

import numpy as np
import pytest

from factory.config import EngineConfig, Recipe, TrainConfig, preset
from factory.learn.trainer import Trainer, load_trainer
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity
from tests.make_faces import noise_face

EVERY, BELOW = 2, 0.4


@pytest.fixture(scope="module")
def trainer(tiny_pack: Pack) -> Trainer:
    return load_trainer(tiny_pack, engine=EngineConfig(precision="float64"))


def learn(trainer: Trainer, **train: object) -> Identity:
    config = TrainConfig(**{"num_steps": 12, "learning_rate": 1e-3, "views": "pool", "num_views": 4, **train})  # type: ignore[arg-type]
    method = preset("release").method
    (identity,) = trainer.train([noise_face(0, trainer.base.pack)], Recipe(method=method, train=config))
    return identity


def test_off_by_default_and_in_both_presets() -> None:
    assert TrainConfig().stop_below is preset("paper").train.stop_below is preset("release").train.stop_below is None


def test_an_identity_stops_at_the_first_look_at_which_it_hardly_moves(trainer: Trainer) -> None:
    """The rate is constant, so the words after n steps are those of a run of n steps: the rule, by hand."""
    stopped = learn(trainer, stop_below=BELOW, stop_every=EVERY)
    assert EVERY < stopped.num_steps < 12, "it is to stop early, and not at once"
    assert stopped.num_steps % EVERY == 0
    start = learn(trainer, num_steps=1, learning_rate=0.0).words[TEXT_ENCODER]
    looks = range(EVERY, stopped.num_steps + 1, EVERY)
    at = {steps: learn(trainer, num_steps=steps).words[TEXT_ENCODER] for steps in looks}
    np.testing.assert_allclose(stopped.words[TEXT_ENCODER], at[stopped.num_steps], atol=1e-7)
    before = {steps: at.get(steps - EVERY, start) for steps in at}
    shares = {n: np.linalg.norm(at[n] - before[n]) / np.linalg.norm(at[n] - start) for n in at}
    assert [n for n, share in shares.items() if share < BELOW] == [stopped.num_steps], shares


def test_its_final_loss_is_of_steps_it_made(trainer: Trainer) -> None:
    """The mean runs over a tenth of 40 steps, and there are fewer; a run of few steps reports its last one's loss."""
    short = learn(trainer, num_steps=40, stop_below=0.99, stop_every=1)
    assert 1 < short.num_steps < 4
    losses = [learn(trainer, num_steps=steps).final_loss for steps in range(1, short.num_steps + 1)]
    assert short.final_loss == pytest.approx(np.mean(losses), rel=1e-9)
