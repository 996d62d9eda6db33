"""Rows into tables: each key once, whoever writes at the same moment, and whatever finds the keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pytest
from lance.dataset import DatasetOptimizer

from factory.store import upkeep
from factory.store.commits import is_lost_race
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store
from factory.store.upserts import upsert
from tests.test_upkeep import row

OLD: dict[str, Callable[[Store], None]] = {  # what is done to a table of 100 rows
    "small": lambda store: None,
    "large": lambda store: None,
    "indexed": lambda store: store.tidy("faces"),
    "indexed, later rows not": lambda store: (store.tidy("faces"), write(store, range(100, 110)))[0],
}


def faces(numbers: Sequence[int], pack: str = "p", name: str = "x") -> pa.Table:
    rows = [
        dict.fromkeys(SCHEMAS["faces"].names)
        | {"face_id": f"f{number}", "photo_id": f"{number}", "pack": pack, "name": name, "face_index": 0}
        for number in numbers
    ]
    return pa.Table.from_pylist(rows, SCHEMAS["faces"])


def write(store: Store, numbers: Sequence[int], **of: str) -> None:
    store.upsert_table("faces", faces(numbers, **of))


def there(store: Store) -> dict[tuple[str, str], str]:
    """Names by key. Raises AssertionError if one is there twice."""
    rows = store.read("faces", columns=["face_id", "pack", "name"]).to_pylist()
    found = {(row["face_id"], row["pack"]): row["name"] for row in rows}
    assert len(found) == len(rows), "a key twice"
    return found


@pytest.fixture(params=OLD)
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    limit = {"small": 10**6, "large": 200}.get(request.param, 64)
    monkeypatch.setattr(upkeep, "INDEX_FROM", limit)
    store = Store(tmp_path)
    write(store, range(100))
    OLD[request.param](store)
    dataset = store.open("faces")
    assert dataset is not None and bool(dataset.describe_indices()) is request.param.startswith("indexed")
    return store


def opened(store: Store, table: Table = "faces") -> lance.LanceDataset:
    dataset = store.open(table)
    assert dataset is not None
    return dataset


def test_of_two_that_insert_one_key_at_once_the_second_begins_anew(store: Store) -> None:
    first, second = opened(store), opened(store)
    upsert(first, "faces", faces([500, 501]))
    with pytest.raises(OSError) as error:
        upsert(second, "faces", faces([501, 502]))
    assert is_lost_race(error.value)
    assert ("f500", "p") in there(store) and ("f502", "p") not in there(store)
    upsert(opened(store), "faces", faces([501, 502], name="later"))
    assert there(store)["f501", "p"] == "later" and there(store)["f500", "p"] == "x"


def test_one_identity_that_two_learn_at_once_is_there_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their table has one key, which an index finds: there Lance itself commits both."""
    monkeypatch.setattr(upkeep, "INDEX_FROM", 64)
    store = Store(tmp_path)
    store.upsert("identities", [row(number, "x") for number in range(100)])
    store.tidy("identities")
    first, second = opened(store, "identities"), opened(store, "identities")
    upsert(first, "identities", pa.Table.from_pylist([row(500, "a")], SCHEMAS["identities"]))
    with pytest.raises(OSError, match="conflict"):
        upsert(second, "identities", pa.Table.from_pylist([row(500, "b")], SCHEMAS["identities"]))
    assert store.count("identities") == 101


def test_a_row_of_another_pack_is_another_row(store: Store) -> None:
    write(store, [1, 2, 300], name="new")
    write(store, [2, 3], pack="q")
    write(store, [3, 4], pack="q", name="again")
    store.upsert_table("faces", pa.concat_tables([faces([9], "p", "a"), faces([9], "q", "b")]))
    found = there(store)
    names = [found[f"f{number}", pack] for number, pack in ((1, "p"), (2, "p"), (2, "q"), (3, "p"), (3, "q"), (4, "q"))]
    assert names == ["new", "new", "x", "x", "again", "again"]
    assert (found["f9", "p"], found["f9", "q"]) == ("a", "b") and len(found) >= 100 + 1 + 4


def test_many_who_write_the_same_new_rows_leave_each_once(store: Store) -> None:
    def write_all(writer: int) -> None:
        own = Store(store.root)
        for first in range(1000, 1012, 3):
            write(own, range(first, first + 4), name=str(writer))

    with ThreadPoolExecutor(6) as threads:
        list(threads.map(write_all, range(6)))
    assert {key for key, name in there(store).items() if name != "x"} == {(f"f{n}", "p") for n in range(1000, 1013)}


def test_files_are_joined_also_where_rows_come_meanwhile(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(200, 208):
        write(store, [number])
    tidying, joined = opened(store), DatasetOptimizer.compact_files

    def beside_a_writer(optimizer: DatasetOptimizer, **how: Any) -> object:
        upsert(opened(store), "faces", faces([300]))
        return joined(optimizer, **how)

    monkeypatch.setattr(DatasetOptimizer, "compact_files", beside_a_writer)
    assert len(tidying.get_fragments()) >= 9
    upkeep.tidy(tidying, "faces")
    assert len(opened(store).get_fragments()) <= 4 and ("f300", "p") in there(store)


def test_a_file_holds_many_light_rows_or_few_with_pictures() -> None:
    assert {table: upkeep.file_rows(table) for table in ("identities", "names", "faces", "images", "lines")} == {
        "identities": 8192, "names": 8192, "faces": 1024, "images": 1024, "lines": 1024,
    }  # fmt: skip
