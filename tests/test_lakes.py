"""Tables of Delta, Iceberg and Hudi as sources: as plain Parquet, unless rows were taken out of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from factory.errors import SourceError
from tests.sources import named, photos_of, table


def log(folder: Path, name: str, *actions: object) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(map(json.dumps, actions)))


def lake(folder: Path) -> Path:
    for number in (0, 1):
        table(folder / f"data/part-{number}.parquet", {"image": [b"%d" % number], "name": [f"p{number}"]})
    return folder


def test_what_was_only_written_is_read(tmp_path: Path) -> None:
    delta, iceberg = lake(tmp_path / "delta"), lake(tmp_path / "iceberg")
    for number in (0, 1):
        log(
            delta, f"_delta_log/{number:020}.json", {"commitInfo": {}}, {"add": {"path": f"data/part-{number}.parquet"}}
        )
    log(iceberg, "metadata/v2.metadata.json", {"snapshots": [{"summary": {"operation": "append"}}]})
    (iceberg / "metadata/snap-1.avro").write_bytes(b"Obj\1")
    assert named(delta) == named(iceberg) == {"p0": b"0", "p1": b"1"}


@pytest.mark.parametrize(
    ("name", "action", "kind"),
    [
        (f"_delta_log/{0:020}.json", {"remove": {"path": "data/part-0.parquet"}}, "Delta, out of which rows were"),
        (f"_delta_log/{0:020}.json", {"add": {"path": "a", "deletionVector": {"offset": 1}}}, "Delta, out of which"),
        (f"_delta_log/{7:020}.json", {"add": {"path": "a"}}, "Delta, of which the first commits are gone"),
        ("metadata/v3.metadata.json", {"snapshots": [{"summary": {"operation": "overwrite"}}]}, "Iceberg, out of"),
        (".hoodie/hoodie.properties", {}, "Hudi, whose files hold rows as they were before"),
    ],
)
def test_what_was_taken_out_does_not_come_back(tmp_path: Path, name: str, action: object, kind: str) -> None:
    log(lake(tmp_path / "people"), name, action)
    for source in (tmp_path / "people", tmp_path):
        with pytest.raises(SourceError, match=rf"/people is a table of {kind}.*; write the rows that are left"):
            photos_of(source)


def test_a_log_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    log(lake(tmp_path / "people"), f"_delta_log/{0:020}.json", {"add": {}})
    (tmp_path / f"people/_delta_log/{1:020}.json").write_text('{"remove": ')
    with pytest.raises(SourceError, match=r"1\.json cannot be read"):
        photos_of(tmp_path)
