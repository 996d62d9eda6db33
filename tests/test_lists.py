"""Tables that are no Parquet: as a source they are told with the call that makes them one; beside photos, where they
tell of these."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from factory.errors import SourceError
from pipelines.photos.lists import told_of
from pipelines.photos.places import find_places
from tests.sources import photos_of, table, write


def refused(file: Path, text: str | bytes = "") -> str:
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(SourceError, match="is a list of rows, which is read as Parquet alone") as caught:
        find_places(str(file))
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "call"),
    [
        ("people.csv", "uri,name\na.jpg,ada\n", 'read_csv("{}/people.csv").to_parquet("{}/people.parquet")'),
        ("people.CSV", "File Name;name\n", 'read_csv("{}/people.CSV", sep=";").to_parquet("{}/people.parquet")'),
        (
            "p.csv",
            "\ufeffpath,name\n",
            'read_csv("{}/p.csv").rename(columns={{"path": "uri"}}).to_parquet("{}/p.parquet")',
        ),
        ("p.tsv", "image\tname\n", 'sep="\\t").rename(columns={{"image": "uri"}}).to_parquet("{}/p.parquet")'),
        ("p.jsonl", '{"file_name": "a.jpg"}\n', 'lines=True).rename(columns={{"file_name": "uri"}}).to'),
        ("p.ndjson", "no json", 'read_json("{}/p.ndjson", lines=True).to_parquet('),
        ("p.json", "[]", 'read_json("{}/p.json").to_parquet('),
        ("p.txt", "a.jpg\n", 'read_csv("{}/p.txt", names=["uri"], sep="\\t").to_parquet('),
        ("p.xlsx", "PK", 'read_excel("{}/p.xlsx").to_parquet('),
    ],
)
def test_each_format_has_its_call(tmp_path: Path, name: str, text: str, call: str) -> None:
    assert f"{call}".format(tmp_path, tmp_path) in refused(tmp_path / name, text)


def test_packed_ones_and_other_encodings(tmp_path: Path) -> None:
    assert f'to_parquet("{tmp_path}/p.parquet")' in refused(tmp_path / "p.csv.gz", gzip.compress(b"path\n"))
    assert 'p.csv", encoding="utf-16").rename(columns={"path": ' in refused(
        tmp_path / "p.csv", "path\n".encode("utf-16")
    )


def test_addresses_are_downloaded_by_another_program(tmp_path: Path) -> None:
    assert "img2dataset --url_col=URL --resize_mode=no" in refused(tmp_path / "p.tsv", "URL\tTEXT\n")
    table(tmp_path / "laion" / "part-0.parquet", {"URL": ["https://x/a.jpg"], "TEXT": ["a"]})
    with pytest.raises(SourceError, match=r"has columns URL, TEXT; it needs image .*; img2dataset --url_col=URL"):
        find_places(str(tmp_path / "laion"))


def test_what_tells_of_photos_beside_it_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg")
    (tmp_path / "list.csv").write_text("file,name\na.jpg,Ada\n")
    (tmp_path / "consents.csv").write_text("file,consent\na.jpg,yes\n")
    (tmp_path / "metadata.csv").write_text("file_name,text\na.jpg,a photo\n")
    (tmp_path / "a.txt").write_text("file,name")
    consents, names = find_places(str(tmp_path)).told
    assert consents == f"{tmp_path}/consents.csv is not read: a list of who agreed to what is called consent.csv"
    assert names.startswith(f"{tmp_path}/list.csv tells whose photos these are, which is read as Parquet alone; ")
    call = f'.rename(columns={{"file": "uri"}}).to_parquet("{tmp_path}/list.parquet")'
    assert names.endswith(f"{call}, and give that as --photos")
    table(tmp_path / "list.parquet", {"uri": ["a.jpg"], "name": ["Ada"]})  # as it says
    assert [photo["name"] for photo in photos_of(tmp_path / "list.parquet")] == ["Ada"]


def test_what_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    (tmp_path / "odd.csv").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "folder.csv").mkdir()
    assert list(told_of([str(tmp_path / name) for name in ("empty.csv", "odd.csv", "folder.csv", "gone.csv")])) == []
