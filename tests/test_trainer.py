"""Learning identities: each equals the one learned alone, whoever shares the batch, and the loss goes down."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
import torch

from factory.config import EngineConfig, MethodConfig, Recipe, TrainConfig, preset
from factory.faces.people import of_one_person
from factory.ids import identity_id
from factory.learn.augment import crop_layers
from factory.learn.trainer import Learned, Trainer, load_trainer
from factory.learn.views import encode_fresh
from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity, PreparedFace
from tests.make_faces import noise_face

STEPS = 6
MIXED = TrainConfig(
    num_steps=8, learning_rate=1e-3, views="pool", num_views=4, stop_below=0.25, stop_every=1, average_power=2
)
FACES = (0, 1, 2, 3, 4)


def learn(trainer: Trainer, *numbers: int, method: MethodConfig | None = None, **train: object) -> list[Identity]:
    faces = [noise_face(number, trainer.base.pack) for number in numbers]
    config = TrainConfig(**{"num_steps": STEPS, "learning_rate": 1e-3, **train})  # type: ignore[arg-type]
    return trainer.train(faces, Recipe(method=method or MethodConfig(mirror=0.5), train=config))


def exact_words(
    trainer: Trainer, faces: Sequence[PreparedFace], method: MethodConfig, train: TrainConfig, slots: int | None = None
) -> dict[str, Learned]:
    """By face, with the words in the precision they were learned in."""
    sized = Trainer(trainer.base, EngineConfig(slots=slots))
    waves = list(sized.stream(faces, Recipe(method=method, train=train)))
    learned = {one.face.face_id: one for wave in waves for one in wave}
    assert len(learned) == sum(map(len, waves)) == len(faces)
    return learned


def farthest(some: dict[str, Learned], others: dict[str, Learned]) -> float:
    """The largest difference between the words of the same face."""
    assert set(some) <= set(others)
    return max(float(np.abs(one.words_VD - others[face].words_VD).max()) for face, one in some.items())


@pytest.fixture(scope="module")
def exact(tiny_pack: Pack) -> Trainer:
    return load_trainer(tiny_pack, engine=EngineConfig(precision="float64"))


@pytest.fixture(scope="module")
def single(tiny_pack: Pack) -> Trainer:
    return load_trainer(tiny_pack, engine=EngineConfig(precision="float32"))


@pytest.mark.parametrize("views", ["pool", "every_step"])
@pytest.mark.parametrize("name", ["paper", "release"])
def test_packed_equals_alone(exact: Trainer, views: str, name: str) -> None:
    """Nothing is shared in a pack but the batched products: equal to rounding in float64."""
    method = preset(name).method  # type: ignore[arg-type]
    train = TrainConfig(num_steps=STEPS, learning_rate=1e-3, views=views, num_views=4, samples_per_step=2)  # type: ignore[arg-type]
    faces = [noise_face(number, exact.base.pack) for number in (1, 2, 3)]
    together = exact_words(exact, faces, method, train)
    for face in faces:
        alone = exact_words(exact, [face], method, train)
        packed = together[face.face_id]
        assert packed.words_VD.dtype == np.float64
        assert farthest(alone, together) < 1e-12
        assert packed.identity is not None
        (other,) = (one.identity for one in alone.values())
        assert other is not None and packed.identity.identity_id == other.identity_id
        assert packed.identity.final_loss == pytest.approx(other.final_loss, rel=1e-12)


@pytest.mark.parametrize(("precision", "tolerance"), [("exact", 1e-12), ("single", 1e-5)])
def test_mixed_step_counts_and_refilled_slots_change_nothing(
    precision: str, tolerance: float, request: pytest.FixtureRequest
) -> None:
    """Identities that stop after different numbers of steps, in slots that others had before, in any order."""
    trainer: Trainer = request.getfixturevalue(precision)
    method = preset("release").method
    faces = [noise_face(number, trainer.base.pack) for number in FACES]
    alone: dict[str, Learned] = {}
    for face in faces:
        alone |= exact_words(trainer, [face], method, MIXED)
    steps = {face: one.identity.num_steps for face, one in alone.items() if one.identity is not None}
    assert len(set(steps.values())) >= 3, "the counts are to differ"
    for slots, order in ((2, faces), (3, faces[::-1]), (len(faces), faces)):
        packed = exact_words(trainer, order, method, MIXED, slots)
        assert {face: one.identity.num_steps for face, one in packed.items() if one.identity} == steps
        assert farthest(packed, alone) < tolerance, (slots, [face.face_id for face in order])


def test_bfloat16_packed_differs_no_more_than_bfloat16_from_float32(tiny_pack: Pack, single: Trainer) -> None:
    half = load_trainer(tiny_pack, engine=EngineConfig(precision="bfloat16"))
    method = preset("paper").method
    train = TrainConfig(num_steps=STEPS, learning_rate=1e-3, views="pool", num_views=4)
    faces = [noise_face(number, tiny_pack) for number in (1, 2, 3)]
    together, reference = exact_words(half, faces, method, train), exact_words(single, faces, method, train)
    alone: dict[str, Learned] = {}
    for face in faces:
        alone |= exact_words(half, [face], method, train)
    packing, precision = (
        np.sqrt(np.mean([(together[face].words_VD - other[face].words_VD) ** 2 for face in together]))
        for other in (alone, reference)
    )
    assert precision > 1e-6, "bfloat16 was not used"
    assert packing <= precision


def test_faces_are_taken_as_slots_come_free(single: Trainer) -> None:
    taken: list[int] = []

    def faces() -> Iterator[PreparedFace]:
        for number in FACES:
            taken.append(number)
            yield noise_face(number, single.base.pack)

    trainer = Trainer(single.base, EngineConfig(slots=2))
    train = TrainConfig(num_steps=2, views="pool", num_views=1)
    waves = trainer.stream(faces(), Recipe(train=train))
    assert taken == []
    sizes = [(len(wave), len(taken)) for wave in waves]
    assert sizes == [(2, 2), (2, 4), (1, 5)]


def test_a_face_that_diverges_is_told_and_does_not_touch_the_others(exact: Trainer) -> None:
    broken, sound = (noise_face(number, exact.base.pack) for number in (1, 2))
    broken.features.crop[:] = np.nan
    method, train = MethodConfig(), TrainConfig(num_steps=3, learning_rate=1e-3, views="pool", num_views=2)
    together = exact_words(exact, [broken, sound], method, train)
    assert together[broken.face_id].identity is None
    assert farthest(exact_words(exact, [sound], method, train), together) < 1e-12
    identities = exact.train([broken, sound], Recipe(method=method, train=train))
    assert [identity.face_id for identity in identities] == [sound.face_id]


def test_same_seed_same_words_other_seed_other_words(exact: Trainer) -> None:
    (words,), (again,), (other,) = learn(exact, 1), learn(exact, 1), learn(exact, 1, seed=1)
    np.testing.assert_array_equal(words.words[TEXT_ENCODER], again.words[TEXT_ENCODER])
    assert np.abs(words.words[TEXT_ENCODER] - other.words[TEXT_ENCODER]).max() > 1e-3
    assert words.identity_id != other.identity_id


def test_people_get_different_words_with_the_priors_moments(exact: Trainer) -> None:
    one, two = learn(exact, 1, 2)
    assert np.abs(one.words[TEXT_ENCODER] - two.words[TEXT_ENCODER]).max() > 1e-3
    mean, std = (moment.numpy() for moment in exact.prior.moments("shared"))
    normalised = (one.words[TEXT_ENCODER] - mean) / std
    np.testing.assert_allclose(normalised.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(normalised.std(1), 1, atol=1e-5)


def test_training_lowers_the_loss(single: Trainer) -> None:
    options = {"views": "pool", "num_views": 4, "samples_per_step": 8, "learning_rate": 1e-2}
    method = MethodConfig(loss="noise")  # random weights predict noise badly, and that can be learnt a little
    start = learn(single, 1, method=method, **{**options, "num_steps": 2, "learning_rate": 0.0})
    end = learn(single, 1, method=method, **{**options, "num_steps": 60})
    assert end[0].final_loss < start[0].final_loss


def test_every_ablation_runs_and_changes_the_words(exact: Trainer) -> None:
    full = learn(exact, 1, method=MethodConfig())[0].words[TEXT_ENCODER]
    ablations = ({"adain": False}, {"mask": False}, {"loss": "noise"}, {"loss": "reconstruction"}, {"features": "clip"})
    for change in ablations:
        words = learn(exact, 1, method=MethodConfig(**change))[0].words[TEXT_ENCODER]
        assert np.isfinite(words).all() and np.abs(words - full).max() > 1e-6, change


def test_v_prediction_trains(tiny_pack_v: Pack) -> None:
    (identity,) = learn(load_trainer(tiny_pack_v), 1)
    assert np.isfinite(identity.words[TEXT_ENCODER]).all() and np.isfinite(identity.final_loss)


def test_the_frozen_model_stays_as_it_was(exact: Trainer) -> None:
    parts = (exact.base.text_encoder, exact.base.unet, exact.base.vae)
    before = [parameter.clone() for part in parts for parameter in part.parameters()]
    learn(exact, 1)
    after = [parameter for part in parts for parameter in part.parameters()]
    assert all(torch.equal(old, new) for old, new in zip(before, after, strict=True))
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in after)


def test_identity_id_follows_face_config_and_encoder() -> None:
    paper = preset("paper")
    base = identity_id("a", paper, "f")
    assert base == identity_id("a", Recipe(preset="any name"), "f") and len(base) == 16

    def other(method: dict[str, object], train: dict[str, object]) -> str:
        recipe = Recipe(method=paper.method.model_copy(update=method), train=paper.train.model_copy(update=train))
        return identity_id("a", recipe, "f")

    others = {
        identity_id("b", paper, "f"),
        identity_id("a", paper, "g"),
        other({"hair_weight": 0.0}, {}),
        other({}, {"num_steps": 1}),
        other({}, {"stop_below": 0.1}),
        other({}, {"average_power": 0.0}),
    }
    assert len(others | {base}) == 7
    # where early stopping is off, its fields change nothing, and identities of versions without it keep their ids
    assert other({}, {"stop_every": 7}) == base


def test_no_faces_no_identities_and_progress_is_told(exact: Trainer) -> None:
    assert learn(exact) == []
    told: list[tuple[int, int]] = []
    faces = [noise_face(1, exact.base.pack)]
    config = TrainConfig(num_steps=3)
    exact.train(faces, Recipe(train=config), on_step=lambda *at: told.append(at))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_a_face_may_enter_while_others_are_in_the_middle(exact: Trainer) -> None:
    recipe = Recipe(train=TrainConfig(num_steps=4, learning_rate=1e-3, views="pool", num_views=2))
    first, second, third = (noise_face(number, exact.base.pack) for number in (1, 2, 3))
    learning = Trainer(exact.base, EngineConfig(slots=2)).open(recipe)
    assert not learning and learning.step() == []
    learning.add(first)
    assert [len(learning.step()) for _ in range(2)] == [0, 0]
    learning.add(second)
    learning.add(third)  # waits until the first one leaves
    assert (len(learning), learning.free) == (3, 0)
    waves = [[one.face.name for one in learning.step()] for _ in range(6)]
    assert waves == [[], ["person 1"], [], ["person 2"], [], ["person 3"]]
    assert not learning and learning.free == 2
    alone = exact_words(exact, [second], recipe.method, recipe.train)
    learning.add(second)
    (again,) = (one for _ in range(4) for one in learning.step())
    assert farthest(alone, {again.face.face_id: again}) < 1e-12


def test_lanes_change_nothing_but_the_rounding(exact: Trainer) -> None:
    method, threads, learned = preset("paper").method, torch.get_num_threads(), list[dict[str, Learned]]()
    train = TrainConfig(num_steps=STEPS, learning_rate=1e-3, samples_per_step=2)
    faces = [noise_face(number, exact.base.pack) for number in (1, 2, 3)]
    try:
        for number in (1, 2):  # with one thread there are no lanes
            torch.set_num_threads(number)
            with patch("factory.base.lanes.ThreadPoolExecutor", wraps=ThreadPoolExecutor) as pools:
                learned.append(exact_words(exact, faces, method, train))
            assert pools.call_count == number - 1
    finally:
        torch.set_num_threads(threads)
    assert farthest(*learned) < 1e-12
    losses = [[one.identity.final_loss for one in some.values() if one.identity] for some in learned]
    assert losses[1] == pytest.approx(losses[0], rel=1e-12) and len(losses[0]) == 3


@pytest.mark.parametrize("views", ["pool", "every_step"])
def test_photos_of_one_person_are_learned_as_one(exact: Trainer, views: str) -> None:
    faces = [noise_face(number, exact.base.pack) for number in range(4)]
    recipe = Recipe(train=TrainConfig(num_steps=4, views=views, num_views=3))  # type: ignore[arg-type]
    person, stranger = of_one_person(faces[:3]), faces[3]
    alone, in_company = exact.train([person], recipe)[0], exact.train([stranger, person], recipe)[1]
    assert of_one_person(faces[2::-1]).face_ids == person.face_ids == alone_faces(alone)
    assert alone.identity_id == in_company.identity_id
    np.testing.assert_allclose(alone.words[TEXT_ENCODER], in_company.words[TEXT_ENCODER], atol=1e-6)
    first, again = exact.train([faces[0], person], recipe)
    assert again.identity_id == alone.identity_id, "people who share a photo are two"
    assert first.more_faces is None and first.identity_id != alone.identity_id
    assert np.abs(first.words[TEXT_ENCODER] - alone.words[TEXT_ENCODER]).max() > 1e-4
    mean = np.mean([[face.features.crop, face.features.mirror] for face in faces[:3]], 0)
    np.testing.assert_allclose(exact.features(person, recipe.method).numpy(), mean, rtol=1e-6)


def alone_faces(identity: Identity) -> list[str]:
    return [identity.face_id, *(identity.more_faces or [])]


def test_views_come_from_every_photo(exact: Trainer) -> None:
    base, method = exact.base, MethodConfig()
    side = base.pack.resolution
    masks = noise_face(0, base.pack).masks
    photos = [crop_layers(np.full((side, side, 3), tone, np.uint8), masks) for tone in (0, 255)]

    for num, rounds in ((6, 1), (1, 12)):  # taking turns, and where chance says which
        with patch.object(base, "encode_images", wraps=base.encode_images) as encode:
            generator = torch.Generator().manual_seed(0)
            for _ in range(rounds):
                encode_fresh(base, [photos], [generator], num, method)
        middle = side // 2
        seen = [float(image[:, middle, middle].mean()) for call in encode.call_args_list for image in call.args[0]]
        assert min(seen) < -0.5 and max(seen) > 0.5, seen  # a dark one and a light one


def test_two_faces_of_one_photo_are_not_one_person(exact: Trainer) -> None:
    face = noise_face(1, exact.base.pack)
    with pytest.raises(ValueError, match="one photo"):
        of_one_person([face, replace(face, face_id="face-1-1")])
