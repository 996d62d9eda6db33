"""Indexes of large tables: made and kept up whatever happens to a table, and never another answer than without."""

from __future__ import annotations

import asyncio
import hashlib
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lance
import pytest

from factory.errors import IdentityNotFound
from factory.store import upkeep
from factory.store.erase import erase, find_person
from factory.store.schemas import SCHEMAS
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.traces import scan
from serve.catalog import Catalog

NUM_IDS, NUM_NAMES, NUM_PHOTOS = 300, 80, 100


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Limits at which a small table does what a large one does."""
    for name, value in {"INDEX_FROM": 64, "INDEX_EVERY": 4, "TIDY_EVERY": 32, "_MAX_SEGMENTS": 4}.items():
        monkeypatch.setattr(upkeep, name, value)
    return Store(tmp_path / "root")


def photo(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


def row(number: int, name: str, created_at: str = "", of: int | None = None) -> dict[str, Any]:
    whose = photo(number % NUM_PHOTOS if of is None else of)
    return dict.fromkeys(SCHEMAS["identities"].names) | {
        "identity_id": f"i{number:015d}", "face_id": f"{whose}-0", "photo_id": whose, "name": name,
        "words": [float(number)] * 4, "num_words": 2, "pack": "p", "fingerprint": "f", "preset": "", "config": "{}",
        "num_steps": 1, "final_loss": 0.0, "train_s": 0.0, "created_at": created_at,
        "encoders": [{"name": "text_encoder", "width": 2}],
        "consent": None, "consent_expires": None, "consent_scope": None,
    }  # fmt: skip


def _id(one: dict[str, Any]) -> str:
    return one["identity_id"]


def indexes(store: Store) -> dict[str, int]:
    """Rows that each column's index knows."""
    dataset = store.open("identities")
    return {} if dataset is None else {i.field_names[0]: i.num_rows_indexed for i in dataset.describe_indices()}


def test_every_table_is_indexed_by_its_ids_and_names() -> None:
    assert {table: upkeep.indexed_columns(table) for table in SCHEMAS} == {
        "faces": ["face_id", "photo_id", "name"],
        "identities": ["identity_id", "face_id", "photo_id", "name", "created_at"],
        "quality": ["identity_id"],
        "images": ["image_id", "identity_id", "name", "created_at"],
        "videos": ["video_id", "identity_id", "name"],
        "models": ["model_id", "identity_id", "name"],
        "checkpoints": ["model_id", "identity_id"],
        "metrics": ["image_id", "identity_id"],
        "rejects": ["reject_id", "photo_id", "name"],
        "names": ["photo_id", "name"],
        "work": ["work_id", "identity_id", "created_at"],
        "files": ["file_id"],
        "keys": ["key_id"],
        "lines": ["batch_id"],
        "audit": ["number"],
        "tombstones": [],
    }


def test_a_small_table_has_no_index_and_a_large_one_gets_all(store: Store) -> None:
    for number in range(12):
        store.upsert("identities", [row(number, "x")])
    assert indexes(store) == {}
    for number in range(12, 24):
        store.upsert("identities", [row(10 * number + digit, f"n{number}-{digit}") for digit in range(10)])
    dataset = store.open("identities")
    assert dataset is not None
    assert set(indexes(store)) == set(upkeep.indexed_columns("identities"))
    assert set(indexes(store).values()) <= set(range(100, 133)), "but for the last few commits"
    assert "ScalarIndexQuery" in dataset.scanner(filter="name = 'n13-4'").explain_plan()
    store.tidy("identities")
    assert set(indexes(store).values()) == {132}


def test_a_job_joins_an_older_root_as_a_whole_and_a_commit_some_of_it(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole that is too much for one commit, in several."""
    monkeypatch.setattr(upkeep, "_JOINED", 4)
    monkeypatch.setattr(upkeep, "TIDY_EVERY", 10**6)
    for first in range(0, 256, 8):
        store.upsert("identities", [row(number, "x") for number in range(first, first + 8)])

    def sizes() -> list[int]:
        dataset = store.open("identities")
        assert dataset is not None
        return [file.count_rows() for file in dataset.get_fragments()]

    assert sizes() == [8] * 32
    monkeypatch.setattr(upkeep, "file_rows", lambda table: 16)
    dataset = store.open("identities")
    assert dataset is not None
    upkeep.tidy(dataset, "identities")
    assert max(sizes()) == 16 and 16 <= sizes().count(8) < 30
    store.tidy("identities")
    assert sizes().count(8) <= 2, "the file that upserts claim, and one that has no neighbour"
    assert store.count("identities") == 256


def test_a_server_reads_ahead_what_look_ups_need_and_only_what_is_new(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The indexes on id, name and time of coming: at its start, when segments are added, and when an erasure made all
    anew; also behind a moment at which the store cannot be read."""
    read, catalog = list[tuple[str, list[str]]](), Catalog(store.root)
    monkeypatch.setattr("serve.catalog._WARM_EVERY_S", 0.01)
    prewarm = lance.LanceDataset.prewarm_index

    def noted(dataset: lance.LanceDataset, name: str, *, index_segments: list[str]) -> None:
        read.append((name, index_segments))
        prewarm(dataset, name, index_segments=index_segments)
        if len(read) == 1:
            raise OSError("503 SlowDown")

    monkeypatch.setattr(lance.LanceDataset, "prewarm_index", noted)

    async def serve() -> None:
        async def warm() -> set[str]:
            before = -1
            while before != len(read):
                before = len(read)
                await asyncio.sleep(0.3)
            return {name.removesuffix("_idx") for name, _ in read}

        keeping = asyncio.create_task(catalog.keep_warm())
        assert await warm() == set()
        store.upsert("identities", [row(number, f"n{number}") for number in range(100)])
        store.tidy("identities")
        assert await warm() == {"identity_id", "name", "created_at"} and len(read) == 4, "one of them twice"
        first = {segment for _, segments in read for segment in segments}
        read.clear()
        read.append(("", []))  # no more errors
        store.upsert("identities", [row(200, "x")])
        assert len(await warm()) == 1, "a commit that no index knows yet"
        store.tidy("identities")
        assert len(await warm()) == 4
        later = {segment for _, segments in read for segment in segments}
        assert later and not later & first, "what was read is not read again"
        assert erase(store, find_person(store, name="n7")).found == []
        await warm()
        assert {segment for _, segments in read for segment in segments} - later - first
        assert catalog.find("n8").identity_id == row(8, "")["identity_id"]
        keeping.cancel()

    asyncio.run(serve())


def test_answers_are_those_of_a_table_without_indexes(store: Store) -> None:
    draw, model = random.Random(1), dict[str, dict[str, Any]]()

    def upsert() -> None:
        numbers = [draw.randrange(NUM_IDS) for _ in range(draw.randrange(1, 12))]
        rows = [row(number, f"n{draw.randrange(NUM_NAMES)}", f"{draw.random()}") for number in numbers]
        store.upsert("identities", rows)
        model.update({one["identity_id"]: one for one in rows})

    def remove(how: Callable[[Any, str], int]) -> None:
        name = f"n{draw.randrange(NUM_NAMES)}"
        how("identities", where_in("name", [name]))
        for one in [one for one in model.values() if one["name"] == name]:
            del model[one["identity_id"]]

    for _ in range(90):
        what = draw.random()
        if what < 0.9:
            upsert()
        else:
            remove(store.delete if what < 0.95 else store.purge)
        sought = {"identity_id": f"i{draw.randrange(NUM_IDS):015d}", "photo_id": photo(draw.randrange(NUM_PHOTOS))}
        for column, value in {**sought, "name": f"n{draw.randrange(NUM_NAMES)}"}.items():
            found = store.read("identities", where=where_in(column, [value])).to_pylist()
            wanted = [one for one in model.values() if one[column] == value]
            assert sorted(found, key=_id) == sorted(wanted, key=_id)
        name = f"n{draw.randrange(NUM_NAMES)}"
        called = sorted((one["created_at"], one["identity_id"]) for one in model.values() if one["name"] == name)
        if called:
            found_one = store.find_identity(name)
            assert found_one.identity_id == called[-1][1] == store.identities([name])[0].identity_id
            assert found_one.words["text_encoder"][0, 0] == int(found_one.identity_id[1:])
        else:
            with pytest.raises(IdentityNotFound):
                store.find_identity(name)
    assert indexes(store) and store.count("identities") == len(model)


def test_who_is_erased_is_in_no_index(store: Store) -> None:
    """Lance leaves the values of deleted rows in its indexes, also where the table is empty."""
    for number in range(40):
        store.upsert("identities", [row(100 * number + n, f"n{number}", of=number) for n in range(3)])
    store.tidy("identities")
    assert indexes(store)
    needles = {photo(7).encode(): "photo_id"}
    assert any("_indices" in hit for hit in scan(store.root, needles).found), "else this shows nothing"
    done = erase(store, find_person(store, name="n7"))
    assert (done.rows["identities"], done.found) == (3, [])
    assert scan(store.root, needles).found == [] and set(indexes(store).values()) == {117}
    store.purge("identities", "TRUE")
    assert scan(store.root, {photo(8).encode(): "photo_id"}).found == []


@pytest.mark.parametrize("indexed", [False, True])
def test_an_index_in_the_making_is_thrown_back_by_an_eraser(
    store: Store, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    """Made of a version before, it would bring back what was removed."""
    monkeypatch.setattr(upkeep, "INDEX_EVERY", 10**6)  # else the indexes may know number 80 before
    if indexed:
        store.upsert("identities", [row(number, f"n{number}", of=number) for number in range(70)])
        store.tidy("identities")
    for number in (80, 81):  # on photos, and in files, of their own
        store.upsert("identities", [row(number, f"n{number}", of=number)])
    store.upsert("identities", [row(number, f"n{number}", of=number) for number in range(90, 170)])
    upkeep_of, maker = store.open("identities"), store.open("identities")
    assert upkeep_of is not None and maker is not None and bool(indexes(store)) is indexed
    files = Path(store.uri("identities"))
    before = files.parent.with_suffix(".before")
    shutil.copytree(files, before)
    assert erase(store, find_person(store, name="n80")).found == []
    # as if they had read everything before it was removed, and now come to their commits
    shutil.copytree(before / "data", files / "data", dirs_exist_ok=True)
    if indexed:
        shutil.copytree(before / "_indices", files / "_indices", dirs_exist_ok=True)
    upkeep.keep_indexes(upkeep_of, "identities")
    with pytest.raises(OSError, match="incompatible with concurrent transaction"):
        maker.create_scalar_index("photo_id", "BTREE")
    dataset = store.open("identities")
    assert dataset is not None
    named = {segment.uuid for index in dataset.describe_indices() for segment in index.segments}
    hits = scan(str(files / "_indices"), {photo(80).encode(): "it"}).others
    assert not named & {hit.split("/")[-2] for hit in hits}
    assert erase(store, find_person(store, photo_id=photo(80)), waits_s=(0.5, 2.0)).found == []
    assert store.find_identity("n81").identity_id == row(81, "")["identity_id"]


def test_writers_and_an_eraser_at_once_beside_indexes(store: Store) -> None:
    def write(writer: int) -> None:
        draw = random.Random(writer)
        for _ in range(25):
            numbers = draw.sample(range(writer, NUM_IDS, 3), 8)
            Store(store.root).upsert("identities", [row(number, f"n{number}") for number in numbers])

    writers = [threading.Thread(target=write, args=(writer,)) for writer in range(3)]
    for writer in writers:
        writer.start()
    gone = [photo(number) for number in range(4)]
    for one in gone:
        erase(store, find_person(store, photo_id=one), waits_s=(0.5, 2.0))
    for writer in writers:
        writer.join()
    written = {number for w in range(3) for draw in [random.Random(w)] for _ in range(25) for number in
               draw.sample(range(w, NUM_IDS, 3), 8)}  # fmt: skip
    expected = {f"i{number:015d}" for number in written if photo(number % NUM_PHOTOS) not in gone}
    assert store.existing_ids("identities") == expected
    for number in range(NUM_PHOTOS):
        there = store.existing_ids("identities", where=where_in("photo_id", [photo(number)]))
        assert len(there) == sum(photo(int(an_id[1:]) % NUM_PHOTOS) == photo(number) for an_id in expected)
