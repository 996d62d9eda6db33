"""Erasing that ends between, and what somebody put under the root: nobody survives either."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from factory.ids import content_id
from factory.pack import Pack
from factory.records import TEXT_ENCODER
from factory.store import erase as erase_module
from factory.store.erase import erase, find_person, finish
from factory.store.rows import encode_png
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store
from tests.make_people import fill, found, photo_id, traces

run = CliRunner()
ERASED: list[Table] = [table for table in SCHEMAS if table not in ("tombstones", "keys", "audit")]


class Killed(BaseException):
    """As kill -9: nothing is caught, nothing is tidied."""


@pytest.mark.parametrize("how", ["--name", "--identity"])
@pytest.mark.parametrize("last", [*ERASED, "jobs"])
def test_an_erasure_that_was_killed_is_gone_on_with(
    last: str, how: str, store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever is asked for by a name is not found any more once the table with the name has gone."""
    faces, identities, images = fill(store, tiny_pack)
    purge = Store.purge

    def killed_behind(of: Store, table: Table, where: str) -> int:
        num = purge(of, table, where)
        if table == last:
            raise Killed
        return num

    def killed(*_: object) -> int:
        raise Killed

    who = "person 1" if how == "--name" else identities[1].identity_id
    with monkeypatch.context() as patch:
        patch.setattr(Store, "purge", killed_behind)
        patch.setattr(erase_module, "clean_jobs", killed)
        with pytest.raises(Killed):
            erase(store, find_person(store, **{"name" if how == "--name" else "identity_id": who}))
    again = run.invoke(app, ["identities", "erase", "--root", store.root, how, who, "--yes"])
    assert again.exit_code == 0 and "an erasure that had ended between is finished" in again.output, again.output
    assert found(store, traces(faces[1], identities[1], images[1])) == set()
    for table in ERASED:
        assert not store.read(table, where=find_person(store, photo_id=photo_id(1)).clauses(table)).num_rows, table
    assert store.count("images") == 6 and finish(store) == []
    once_more = run.invoke(app, ["identities", "erase", "--root", store.root, how, who, "--yes"])
    assert once_more.exit_code == 1 and "no identity" in once_more.stderr


def test_files_that_somebody_put_under_the_root_are_told(store: Store, tiny_pack: Pack) -> None:
    """Pictures of `--out`, exports, the photos themselves: erasing takes none of them away."""
    _, identities, images = fill(store, tiny_pack)
    root = Path(store.root)
    rows = pa.table({"who": [identity.identity_id for identity in identities], "n": range(len(identities))})
    put: dict[str, bytes] = {
        "photos/ada.jpg": b"photo 1",  # photo_id() hashes the same bytes
        "pictures/ada_0.png": encode_png(images[1].image),
        "words/ada.bin": identities[1].words[TEXT_ENCODER].tobytes(),
        f"clips/ada-{images[1].image_id}.gif": b"GIF89a, encoded anew",
    }
    for name, data in put.items():
        (root / name).parent.mkdir()
        (root / name).write_bytes(data)
    pq.write_table(rows, root / "words" / "table.parquet", compression="zstd")
    assert content_id(b"photo 1") == photo_id(1)
    (root / "photos" / "bob.jpg").write_bytes(b"photo 2")
    told = run.invoke(app, ["identities", "erase", "--root", store.root, "--name", "person 1", "--yes"])
    assert told.exit_code == 1 and "0 traces left" not in told.output
    files = [f"{root}/{name}" for name in [*put, "words/table.parquet"]]
    assert "remove them" in told.stderr and all(file in told.stderr for file in files), told.stderr
    assert "bob.jpg" not in told.stderr and all((root / name).exists() for name in put)
    for name in ("photos", "pictures", "words", "clips"):
        shutil.rmtree(root / name)
    again = run.invoke(app, ["identities", "erase", "--root", store.root, "--photo", photo_id(1), "--yes"])
    assert again.exit_code == 0 and "0 traces left" in again.output


@pytest.mark.parametrize(
    "text", ["[]", "{}", "null", '{"photo_ids": ["', '{"photo_ids": "x"}', '{"asked": "ada", "photo_ids": [7]}']
)
def test_a_file_of_another_shape_is_told_and_holds_nobody_up(
    text: str, store: Store, tiny_pack: Pack, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, tiny_pack)
    file = Path(store.root) / "erasing" / "1.json"
    (file.parent / "a folder.json").mkdir(parents=True)
    (file.parent / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")
    file.write_text(text)
    done = run.invoke(app, ["identities", "erase", "--root", store.root, "--name", "person 1", "--yes"])
    assert done.exit_code == 0 and "0 traces left" in done.output, done.output
    assert f"{file} does not say whom" in caplog.text and file.read_text() == text, "it may be another version's"
    assert store.count("faces") == 6
