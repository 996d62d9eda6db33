"""A root that an older version wrote: read, looked through, extended and run again without doing anything twice.

tests/data/first_root.tar.gz holds it, with its photos: the studio pack, four faces of three photos learned in three
steps, a broken file, a copy, one picture, and somebody erased. It was written by the last version whose `identities`
have no column `encoders`.
"""

from __future__ import annotations

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from factory.ids import identity_id
from factory.pack import load_pack
from factory.records import TEXT_ENCODER, Identity
from factory.settings import train_settings
from factory.store.rows import identity_row
from factory.store.tables import Store
from pipelines.run import run

ADA = "8d6be8882be8eb45"


@pytest.fixture
def old(tmp_path: Path) -> Store:
    with tarfile.open(Path(__file__).parent / "data" / "first_root.tar.gz") as archive:
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # Python 3.11.4 and later
        archive.extractall(tmp_path, **safely)
    return Store(tmp_path / "root")


def columns(store: Store) -> list[str]:
    dataset = store.open("identities")
    assert dataset is not None
    return list(dataset.schema.names)


def test_what_an_older_version_wrote_is_read_as_it_is(old: Store) -> None:
    ada = old.find_identity("ada")
    assert ada.identity_id == ADA and list(ada.words) == [TEXT_ENCODER] and ada.words[TEXT_ENCODER].shape == (2, 192)
    stored = lance.dataset(old.uri("identities")).to_table(filter=f"identity_id = '{ADA}'")["words"][0].as_py()
    np.testing.assert_array_equal(ada.words[TEXT_ENCODER].ravel(), np.array(stored, np.float32))
    assert old.find_identity("ada_copy").identity_id == ADA  # by the photo's other name
    assert len(old.faces()) == 3 and len(old.rejects()) == 1 and len(old.images()) == 1
    assert old.tombstones().digests
    assert "encoders" not in columns(old), "reading changes nothing"


def test_ids_are_composed_as_they_were(old: Store) -> None:
    pack = load_pack("studio")
    recipe = train_settings(pack, "paper", {"num_steps": 3})
    people = list(old.identities())
    assert len(people) == 3
    for person in people:
        assert person.identity_id == identity_id(person.face_id, recipe, pack.learning_fingerprint())


def test_columns_that_came_later_are_null_until_they_are_written(old: Store, tmp_path: Path) -> None:
    assert old.read("identities", columns=["encoders"]).column(0).to_pylist() == [None] * 3
    assert old.read("identities", columns=["name"], where="encoders IS NULL").num_rows == 3
    assert old.read("identities", columns=["name"], where="name = 'encoders' OR encoders IS NOT NULL").num_rows == 0
    old.export_parquet("identities", tmp_path / "old.parquet")
    assert pq.read_table(tmp_path / "old.parquet").num_rows == 3
    ada = old.find_identity("ada")
    old.upsert("identities", [identity_row(replace(ada, identity_id="f" * 16, name="eve"))])
    assert columns(old)[-5:] == ["encoders", "consent", "consent_expires", "consent_scope", "more_faces"]
    rows = {row["name"]: row["encoders"] for row in old.read("identities").to_pylist()}
    assert rows.pop("eve") == [{"name": TEXT_ENCODER, "width": 192}] and set(rows.values()) == {None}
    for name in ("ada", "eve"):
        np.testing.assert_array_equal(old.find_identity(name).words[TEXT_ENCODER], ada.words[TEXT_ENCODER])


def test_writers_that_extend_a_table_at_the_same_time_lose_nothing(old: Store) -> None:
    ada = old.find_identity("ada")

    def write(number: int) -> None:
        row = identity_row(replace(ada, identity_id=f"{number:016x}", name=f"n{number}"))
        Store(old.root).upsert("identities", [row])

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write, range(6)))
    names = {identity.name for identity in old.identities()}
    assert names == {"ada", "couple", "couple-1", *(f"n{number}" for number in range(6))}
    assert columns(old).count("encoders") == 1


def test_a_newer_root_is_refused_with_the_remedy(old: Store) -> None:
    lance.dataset(old.uri("faces")).add_columns(pa.schema([("mood", pa.string())]))
    with pytest.raises(ValueError, match=r"faces\.lance was written by a newer version.*mood.*update this one"):
        old.faces()


def test_an_identity_of_two_text_encoders_comes_back_as_it_was(old: Store) -> None:
    ada = old.find_identity("ada")
    blocks = {TEXT_ENCODER: np.ones((2, 3), np.float32), "text_encoder_2": np.full((2, 5), 2, np.float32)}
    both: Identity = replace(ada, identity_id="e" * 16, name="both", words=blocks)
    old.upsert("identities", [identity_row(both)])
    words = old.find_identity("both").words
    assert {name: block.tolist() for name, block in words.items()} == {n: b.tolist() for n, b in blocks.items()}


@pytest.mark.cluster
def test_a_job_on_an_older_root_does_only_what_is_new(old: Store, tmp_path: Path) -> None:
    recipe = train_settings(load_pack("studio"), "paper", {"num_steps": 3})
    again = run(str(tmp_path / "photos"), old.root, "studio", recipe=recipe)
    assert (again.photos, again.faces, again.identities, again.identities_existing) == (5, 0, 0, 3)
    assert again.lines()[-1] == "nothing was left to do"
