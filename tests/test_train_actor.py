"""The training actor without a cluster: what it commits when, and what it does with a block that is done again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

import pipelines.train
from factory.config import EngineConfig, MethodConfig, Recipe, TrainConfig
from factory.learn.trainer import Learned
from factory.pack import Pack
from factory.store.rows import face_row
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store
from pipelines.train import IdentityTrainer, _blocks, read_faces
from tests.make_faces import noise_face

TRAIN = TrainConfig(num_steps=2, views="pool", num_views=1)
NUM_FACES = 5
worths: list[float] = []


class Reporter:
    """In place of the worker's end of the progress board, which needs a cluster."""

    def __init__(self, board: object) -> None:
        worths.clear()

    def step(self, num_items: int, done: int, total: int) -> None:
        worths.append(num_items * done / total)

    def finished(self) -> None:
        worths.append(0.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


@pytest.fixture
def actor(tiny_pack: Pack, store: Store, monkeypatch: pytest.MonkeyPatch) -> IdentityTrainer:
    monkeypatch.setattr(pipelines.train, "StepReporter", Reporter)
    monkeypatch.setattr(pipelines.train, "COMMIT_EVERY_S", 0.0)
    recipes = [Recipe(train=TRAIN), Recipe(method=MethodConfig(loss="noise"), train=TRAIN)]
    board: Any = None
    return IdentityTrainer(str(tiny_pack.root), recipes, EngineConfig(slots=2), store, board, "cpu", 1)


@pytest.fixture
def block(tiny_pack: Pack) -> pa.Table:
    faces = [noise_face(number, tiny_pack) for number in range(NUM_FACES)]
    faces[1].features.crop[:] = np.nan
    people = pa.array([[face_row(face)] for face in faces], pa.list_(pa.struct(list(SCHEMAS["faces"]))))
    return pa.table({"faces": people, "recipe": [0] * NUM_FACES})


def counts(table: pa.Table) -> dict[str, int]:
    return dict(zip(*table.to_pydict().values(), strict=True))


def test_identities_are_committed_as_they_finish(
    actor: IdentityTrainer, block: pa.Table, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    commits: list[tuple[str, int]] = []
    upsert = Store.upsert

    def recorded(self: Store, table: Table, rows: list[dict[str, Any]]) -> None:
        commits.append((table, len(rows)))
        upsert(self, table, rows)

    monkeypatch.setattr(Store, "upsert", recorded)
    expected = {"faces": 5, "identities": 4, "rejected_face:diverged": 1}
    assert counts(actor(block)) == expected
    assert [num for table, num in commits if table == "identities" and num] == [1, 2, 1]
    assert [num for table, num in commits if table == "rejects" and num] == [1]
    (reject,) = store.rejects()
    assert (reject.reason, reject.name) == ("diverged", "person 1")
    assert worths == [1, 2, 3, 4, 4.5, 5, 0]

    before = {identity.identity_id: identity.created_at for identity in store.identities()}
    assert counts(actor(block)) == expected
    assert {identity.identity_id: identity.created_at for identity in store.identities()} == before
    assert worths[-3:] == [4.5, 5, 0], "only the reject is tried again"


def test_a_block_whose_actor_was_lost_goes_on_where_it_was(
    actor: IdentityTrainer, block: pa.Table, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = actor.trainer.stream

    def lost(*arguments: Any, **options: Any) -> Iterator[list[Learned]]:
        waves = whole(*arguments, **options)
        yield next(waves)
        yield next(waves)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(actor.trainer, "stream", lost)
        actor(block)
    kept = store.existing_ids("identities")
    assert len(kept) == 3
    assert counts(actor(block)) == {"faces": 5, "identities": 4, "rejected_face:diverged": 1}
    assert kept < store.existing_ids("identities")
    assert store.count("identities") == 4


def test_a_face_that_alone_does_not_fit_is_an_error_that_a_user_reads(
    actor: IdentityTrainer, block: pa.Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("injected")

    monkeypatch.setattr(actor.trainer.base, "denoise", full)
    with pytest.raises(MemoryError, match=r"one identity alone does not fit .* set precision=bfloat16"):
        actor(block)


def test_a_block_may_mix_recipes(actor: IdentityTrainer, block: pa.Table, store: Store) -> None:
    """Ray joins small blocks: each face is learned by its own recipe, and each recipe's faces together."""
    number = block.schema.get_field_index("recipe")
    mixed = block.set_column(number, "recipe", pa.array([0, 0, 1, 0, 1]))
    assert counts(actor(mixed)) == {"faces": 5, "identities": 4, "rejected_face:diverged": 1}
    losses = {who.name: json.loads(who.config)["loss"] for who in store.identities()}
    assert losses == {"person 0": "two_phase", "person 2": "noise", "person 3": "two_phase", "person 4": "noise"}


def test_faces_are_read_once_for_each_of_their_recipes(tiny_pack: Pack, store: Store) -> None:
    store.upsert("faces", [face_row(noise_face(number, tiny_pack)) for number in range(3)])
    ids = [noise_face(number, tiny_pack).face_id for number in range(3)]
    blocks = list(_blocks([ids, ids[1:], []], 2))
    assert [block["recipe"].to_pylist() for block in blocks] == [[0, 0], [0], [1, 1]]
    wanted = pa.concat_tables([*blocks, pa.table({"faces": ["erased"], "recipe": [1]})])
    read = read_faces(wanted, store, tiny_pack.name)
    assert [[row["face_id"] for row in rows] for rows in read["faces"].to_pylist()] == [[n] for n in [*ids, *ids[1:]]]
    assert read["recipe"].to_pylist() == [0, 0, 0, 1, 1]
