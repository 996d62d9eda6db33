"""When memory runs out: half of the identities go on, none is lost, and the words are the same."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

import factory.learn.memory
import factory.learn.trainer
from factory.config import EngineConfig, Recipe, TrainConfig
from factory.learn.memory import CPU_SLOTS, Fitting, choose_slots, slots_that_fit
from factory.learn.slots import Slots
from factory.learn.trainer import Learned, Trainer, load_trainer
from factory.pack import Pack
from tests.make_faces import noise_face

TRAIN = TrainConfig(num_steps=4, learning_rate=1e-3, views="pool", num_views=2)
NUM_FACES = 5


@pytest.fixture(scope="module")
def trainer(tiny_pack: Pack) -> Trainer:
    return load_trainer(tiny_pack, engine=EngineConfig(precision="float64"))


@pytest.fixture(autouse=True)
def whole_steps() -> Iterator[None]:
    """One thread, so that no lanes share a step: rows of a call are identities."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def learn(trainer: Trainer, slots: int) -> tuple[Trainer, dict[str, Learned]]:
    sized = Trainer(trainer.base, EngineConfig(slots=slots))
    faces = [noise_face(number, trainer.base.pack) for number in range(NUM_FACES)]
    waves = list(sized.stream(faces, Recipe(train=TRAIN)))
    assert sum(map(len, waves)) == NUM_FACES
    return sized, {one.face.face_id: one for wave in waves for one in wave}


@pytest.fixture(scope="module")
def words(trainer: Trainer) -> dict[str, Learned]:
    return learn(trainer, NUM_FACES)[1]


def same(some: dict[str, Learned], others: dict[str, Learned]) -> bool:
    return set(some) == set(others) and all(
        np.abs(one.words_VD - others[face].words_VD).max() < 1e-12 for face, one in some.items()
    )


def failing(call: Callable[..., object], when: Callable[[int, int], bool]) -> tuple[Callable[..., object], list[int]]:
    """`call`, out of memory `when` (number of this call, rows of its first argument); and the rows of each call."""
    rows: list[int] = []

    def limited(first: torch.Tensor, *others: object) -> object:
        rows.append(len(first))
        if when(len(rows), len(first)):
            raise torch.OutOfMemoryError("injected")
        return call(first, *others)

    return limited, rows


def test_half_go_on_where_they_were_and_the_others_start_again(
    trainer: Trainer, words: dict[str, Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the third step four identities are too many; it stays at two, so that the next block asks for no more."""
    denoise, rows = failing(trainer.base.denoise, lambda number, batch: number > 2 and batch > 2)
    monkeypatch.setattr(trainer.base, "denoise", denoise)
    sized, learned = learn(trainer, 4)
    assert same(learned, words)
    # two steps of 4, the one that failed, the two steps that two had left, then the other three in twos
    assert rows == [4, 4, 4, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1]
    rows.clear()
    faces = [noise_face(number, trainer.base.pack) for number in range(3)]
    assert len(sized.train(faces, Recipe(train=TRAIN))) == 3
    assert max(rows) == 2


def test_a_failure_in_the_backward_pass_leaves_no_gradient_behind(
    trainer: Trainer, words: dict[str, Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    backward, calls = torch.Tensor.backward, []

    def limited(texts: torch.Tensor, slopes: torch.Tensor) -> None:
        calls.append(texts)
        backward(texts, slopes)
        if len(calls) == 2:
            raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(torch.Tensor, "backward", limited)
    assert same(learn(trainer, NUM_FACES)[1], words)


def test_a_face_that_does_not_fit_beside_the_others_waits(
    trainer: Trainer, words: dict[str, Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = failing(trainer.base.encode_images, lambda number, _: number == 4)
    monkeypatch.setattr(trainer.base, "encode_images", encode)
    assert same(learn(trainer, NUM_FACES)[1], words)
    assert len(calls) > NUM_FACES


def test_weights_that_do_not_fit_are_halved_too(
    trainer: Trainer, words: dict[str, Learned], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first step: a slot's weights, optimiser state and views take memory whether it is used or not."""
    tried: list[int] = []

    def limited(*arguments: Any, num_slots: int, **options: Any) -> Slots:
        tried.append(num_slots)
        if num_slots > 2:
            raise torch.OutOfMemoryError("injected")
        return Slots(*arguments, num_slots=num_slots, **options)

    monkeypatch.setattr(factory.learn.trainer, "Slots", limited)
    assert same(learn(trainer, NUM_FACES)[1], words)
    assert tried == [5, 2]


def test_one_identity_that_does_not_fit_is_an_error_with_a_remedy(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoise, rows = failing(trainer.base.denoise, lambda *_: True)
    monkeypatch.setattr(trainer.base, "denoise", denoise)
    with pytest.raises(torch.OutOfMemoryError, match=r"one identity alone does not fit .* set precision=bfloat16"):
        learn(trainer, 4)
    assert rows == [4, 2, 1]


def test_slots_that_fit() -> None:
    """10 GB free of which 9 are used, 1 of them shared by all; a sample takes 0.5 GB, an identity 0.1 besides."""
    gb = 10**9
    assert slots_that_fit(10 * gb, 3 * gb // 2, 2 * gb, gb // 10, 1) == 13  # 8 / 0.6
    assert slots_that_fit(10 * gb, 3 * gb // 2, 2 * gb, gb // 10, 2) == 7  # 8 / 1.1
    assert slots_that_fit(gb, 3 * gb // 2, 2 * gb, gb // 10, 1) == 1


def test_a_cpu_has_a_constant_number(trainer: Trainer) -> None:
    assert choose_slots(trainer.base, trainer.templates, TRAIN, 16) == CPU_SLOTS


@pytest.mark.gpu
def test_a_gpu_is_measured(tiny_pack: Pack) -> None:
    trainer = load_trainer(tiny_pack, device="cuda")
    assert 1 <= choose_slots(trainer.base, trainer.templates, TRAIN, 16) <= 64


def test_how_many_fit_is_asked_anew_for_identities_that_take_more(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By samples in a step alone, many views that did not fit would halve the slots of few views too."""
    measured: list[TrainConfig] = []

    def choose(_base: object, _templates: object, train: TrainConfig, _width: int) -> int:
        measured.append(train)
        return 8

    monkeypatch.setattr(factory.learn.memory, "choose_slots", choose)
    fitting = Fitting(trainer.base, trainer.templates)
    few, many = TRAIN, TRAIN.model_copy(update={"num_views": 64})
    assert fitting.halve(8, many, 16) == 4
    assert [fitting.slots(train, 16) for train in (many, few, few)] == [4, 8, 8]
    assert fitting.slots(few.model_copy(update={"num_steps": 9}), 16) == 8, "steps take no memory"
    assert fitting.slots(few, 32) == 8, "wider features do"
    assert measured == [few, few]
