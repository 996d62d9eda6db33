"""A root of which a copy broke off: files that are missing or cut short are told before work begins."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import TableDamaged
from factory.store import upkeep
from factory.store.connection import check_tables
from factory.store.schemas import KEYS
from factory.store.tables import Store
from factory.store.whole import plain
from pipelines.jobs.job import open_job
from serve.openai.errors import told


def copied(store: Store, to: Path) -> tuple[Store, Path]:
    """A copy of a root, which no process has seen yet, and its table of names."""
    shutil.copytree(store.root, to)
    return Store(to), to / "names.lance"


@pytest.fixture
def filled(store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A table with files of rows, of deleted rows, and of indexes."""
    monkeypatch.setattr(upkeep, "INDEX_FROM", 4)
    rows = [{"photo_id": f"{number:064x}", "name": f"n{number}"} for number in range(40)]
    store.upsert("names", rows[:30])
    store.tidy("names")
    store.upsert("names", rows[30:])
    store.delete("names", "name = 'n3'")
    assert KEYS["names"][0] == "photo_id" and {"data", "_deletions", "_indices"} <= {
        file.name for file in Path(store.uri("names")).iterdir()
    }
    return store


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("files", "harm", "says"),
    [
        ("data/*.lance", Path.unlink, r"data/\w+\.lance is missing"),
        ("data/*.lance", cut, r"data/\w+\.lance has \d[\d,]* of \d[\d,]* bytes"),
        ("_deletions/*", Path.unlink, r"_deletions/\S+ is missing"),
        ("_indices/*", shutil.rmtree, r"_indices/\S+ is missing"),
        ("_indices/*/*", cut, r"_indices/\S+ has \d[\d,]* of \d[\d,]* bytes"),
    ],
)
def test_what_is_missing_is_told_before_anything_is_read(
    filled: Store, tmp_path: Path, files: str, harm: Callable[[Path], None], says: str
) -> None:
    whole, _ = copied(filled, tmp_path / "whole")
    check_tables(whole.root)
    assert whole.count("names") == 39 and whole.read("names").num_rows == 39
    store, table = copied(filled, tmp_path / "copy")
    live = {fragment.deletion_file() for fragment in filled.open("names").get_fragments()}  # type: ignore[union-attr]
    indexes = {one.uuid for index in filled.open("names").describe_indices() for one in index.segments}  # type: ignore[union-attr]
    for file in table.glob(files):
        inner = file.relative_to(table).parts
        if inner[0] == "data" or "/".join(inner) in live or inner[1] in indexes:
            harm(file)
    for use in (lambda: store.count("names"), lambda: check_tables(store.root)):
        with pytest.raises(TableDamaged, match=rf"names\.lance is incomplete or damaged: {says}; copy the whole root"):
            use()
    with pytest.raises(TableDamaged, match="names"), open_job("x", store):
        pytest.fail("the job began")
    [events] = Path(store.root, "jobs").glob("*/events.jsonl")
    assert "is incomplete or damaged" in events.read_text().splitlines()[-1]


def test_a_table_that_may_not_be_read_is_not_called_damaged(store: Store) -> None:
    Path(store.root).mkdir(parents=True)
    Path(store.uri("names")).write_text("in the way")
    with pytest.raises(OSError, match=r"names\.lance/_versions: Not a directory") as told_of:
        store.count("names")
    assert not isinstance(told_of.value, TableDamaged) and ".rs:" not in str(told_of.value)


def test_what_goes_missing_under_an_open_table_is_told_by_commands_and_by_the_server(
    filled: Store, caplog: pytest.LogCaptureFixture
) -> None:
    filled.count("names")
    for file in Path(filled.uri("names"), "data").iterdir():
        file.unlink()
    with pytest.raises((OSError, ValueError), match="Not found") as raw:
        filled.open("names").to_table()  # type: ignore[union-attr]
    with caplog.at_level(logging.ERROR):
        status, body, _ = told(raw.value)
    assert status == 503 and body["error"]["code"] == "table_damaged" and "data/" not in body["error"]["message"]
    assert "table names is incomplete or damaged: data/" in caplog.text
    assert ".rs:" in str(raw.value) and ".rs:" not in plain(str(raw.value))


def test_commands_tell_it_in_one_line(filled: Store, tmp_path: Path) -> None:
    store, table = copied(filled, tmp_path / "copy")
    for file in (table / "data").iterdir():
        file.unlink()
    shutil.copytree(table, tmp_path / "copy" / "identities.lance")
    for command in (["identities", "list"], ["identities", "erase", "--name", "n3", "--yes"]):
        done = CliRunner().invoke(app, [*command, "--root", store.root])
        assert done.exit_code == 1 and ".rs" not in done.output and len(done.output.splitlines()) == 1, done.output
