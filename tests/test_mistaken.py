"""Sources that are not what they are called, or that were meant otherwise: read as meant, or told what they are."""

from __future__ import annotations

import gzip
import tarfile
import unicodedata
import zipfile
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pytest

from factory.errors import SourceError
from pipelines.photos import listing
from pipelines.photos.places import find_places
from tests.sources import named, photos_of, table, write

PAGE = b"<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title></html>"


def tar(**members: bytes) -> bytes:
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, BytesIO(data))
    return packed.getvalue()


class Unmarked(zipfile.ZipInfo):
    """A member whose name is UTF-8 without saying so, as macOS' Finder writes it."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode(), 0


def test_names_in_zips_of_a_mac(tmp_path: Path) -> None:
    names = {unicodedata.normalize("NFD", "Zoë/Élodie.jpg"): b"1", "старое.jpg": b"2"}
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as packed:
        for name, data in names.items():
            packed.writestr(Unmarked(name), data)
    with zipfile.ZipFile(tmp_path / "old.zip", "w") as packed:
        packed.writestr("cafe.jpg", b"3")
    old = (tmp_path / "old.zip").read_bytes().replace(b"cafe", b"caf\x82")  # é in CP437
    (tmp_path / "old.zip").write_bytes(old)
    photos = {photo["name"]: photo for photo in photos_of(tmp_path)}
    assert {name: photo["image"] for name, photo in photos.items()} == {"Élodie": b"1", "старое": b"2", "café": b"3"}
    [row] = [row for row in find_places(str(tmp_path), person_from="folder").table.to_pylist() if row["folder"]]
    assert row["folder"] == "Zoë"


def test_links_in_zips_are_left_out(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("a.jpg", b"a")
        link = zipfile.ZipInfo("b.jpg")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        packed.writestr(link, b"a.jpg")
    assert named(tmp_path) == {"a": b"a"}
    assert find_places(str(tmp_path)).left_out == {"link in an archive": 1}


def test_archives_are_known_by_what_is_in_them(tmp_path: Path) -> None:
    (tmp_path / "z.zip").write_bytes(tar(a=b"a"))
    with zipfile.ZipFile(tmp_path / "y.tar", "w") as packed:
        packed.writestr("b", b"b")
    assert named(tmp_path) == {"a": b"a", "b": b"b"}
    for name, data, said in (
        ("x.tar", gzip.compress(tar(a=b"a")), "a gzip file; unpack it"),
        ("p.zip", PAGE, "an HTML page, as a failed download leaves one; download it again"),
        ("p.tar", PAGE, "an HTML page, as a failed download leaves one; download it again"),
        ("j.zip", b"\xff\xd8\xff\xe0", "JPEG; rename it"),
    ):
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        (folder / name).write_bytes(data)
        [photo] = photos_of(folder)
        assert photo["detail"] == f"no readable archive: {said}"
    (tmp_path / "p.parquet").write_bytes(PAGE)
    with pytest.raises(SourceError, match=r"p\.parquet is no Parquet file, but an HTML page, .*; download it again"):
        find_places(str(tmp_path / "p.parquet"))


@pytest.mark.parametrize(
    "name", ["p.pq", "p.parq", "p.parquet.gzip", "p.snappy.parquet", "p.parquet.snappy", "P.PARQUET.GZ"]
)
def test_parquet_by_its_other_names(tmp_path: Path, name: str) -> None:
    rows = table(tmp_path / name, {"image": [b"1"], "name": ["Ada"]})
    for source in (rows, tmp_path):
        assert named(source) == {"Ada": b"1"}
    rows.write_bytes(gzip.compress(rows.read_bytes()))
    with pytest.raises(SourceError, match="is no Parquet file, but a gzip file; unpack it"):
        find_places(str(tmp_path))


def test_arrow_tables_are_told_how_to_become_parquet(tmp_path: Path) -> None:
    rows = pa.table({"image": [b"1"]})
    write(tmp_path / "set", "dataset_dict.json", "train/state.json", "train/dataset_info.json")
    with pa.ipc.new_stream(str(tmp_path / "set/train/data-00000-of-00001.arrow"), rows.schema) as stream:
        stream.write_table(rows)
    for source in ("set", "set/train/data-00000-of-00001.arrow"):
        with pytest.raises(SourceError, match=r"is an Arrow table, .*load_from_disk\(\"DIR\"\)\.to_parquet"):
            find_places(str(tmp_path / source))


def test_what_belongs_to_shards_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, "0.idx", "0.lst", "pax_global_header").joinpath("0.tar").write_bytes(
        tar(**{"0.img": b"i", "0.cap": b"c", "1.png": b"p"})
    )
    assert set(named(tmp_path).values()) == {b"i", b"p"}
    assert find_places(str(tmp_path)).left_out == {"sidecar": 4}


def test_copies_that_programs_keep_of_photos_are_left_out(tmp_path: Path) -> None:
    write(tmp_path / "immich", *(f"{name}/.immich" for name in ("upload", "thumbs", "encoded-video", "backups")))
    write(tmp_path / "immich", "upload/u/x.jpg", "thumbs/u/x-preview.jpeg", "encoded-video/u/y.mp4", "backups/d.gz")
    assert set(named(tmp_path / "immich")) == {"x"}
    assert set(named(write(tmp_path / "own", "thumbs/x.jpg", "blobs/y.jpg"))) == {"x", "y"}
    cache = write(tmp_path / "datasets--x", f"blobs/{'a' * 64}", "refs/main", ".no_exist/x", "snapshots/0/README.md")
    (cache / "snapshots/0/ada.jpg").symlink_to(f"../../blobs/{'a' * 64}")
    for source in (cache, cache.parent / "datasets--x/snapshots"):
        assert named(source) == {"ada": f"blobs/{'a' * 64}".encode()}


def test_what_dvc_keeps_elsewhere_is_told(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg", "a.jpg.dvc", "photos/b.jpg", "photos.dvc", "c.jpg.dvc", "gone.dvc")
    photos = {photo["name"]: photo for photo in photos_of(tmp_path)}
    assert {name for name, photo in photos.items() if photo["image"]} == {"a", "b"}
    assert all("`dvc pull`" in photos[name]["detail"] for name in ("c.jpg", "gone")) and len(photos) == 4
    with pytest.raises(SourceError, match=r"there is nothing at .*/gone/?; .*`dvc pull`"):
        find_places(f"{tmp_path}/gone/")


@pytest.mark.parametrize(
    ("src", "said"),
    [
        ("p/*.jpg", "patterns are not read: give the folder"),
        ("p/{000..009}.tar", "patterns are not read: give the folder"),
        ("p/[ab].jpg", "patterns are not read: give the folder"),
        ("dbfs:/mnt/photos", "on Databricks write /dbfs/mnt/photos"),
        ("s3://arn:aws:s3:us-west-2:123456789012:accesspoint/mine/photos", "of an access point its alias"),
    ],
)
def test_what_was_meant_otherwise_is_told(src: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        find_places(src)


@pytest.mark.parametrize(
    "src",
    ["https://mine.s3.eu-west-1.amazonaws.com/p", "https://s3.amazonaws.com/mine/p", "s3://mine.s3.amazonaws.com/p"],
)
def test_addresses_of_aws_s_web_servers_are_told_as_s3(src: str) -> None:
    assert "write s3://mine/PREFIX" in str(listing._nothing(src))


def test_a_list_is_told_also_by_its_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write(tmp_path, "people.csv"))
    with pytest.raises(SourceError, match="is a list of rows, which is read as Parquet alone"):
        find_places("people.csv")


def test_rows_as_lists_of_text_leave_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "photos", *(f"{name}.jpg" for name in "abcde"))
    monkeypatch.setenv("HOME", str(tmp_path))
    uris = ["~/photos/a.jpg", "a.jpg\n", "b.jpg\r\n", " c.jpg ", '"d.jpg"', f"file://{tmp_path}/photos/e.jpg\n", " "]
    photos = photos_of(table(tmp_path / "photos/list.parquet", {"uri": uris}))
    assert [photo["image"] for photo in photos] == [b"a.jpg", b"a.jpg", b"b.jpg", b"c.jpg", b"d.jpg", b"e.jpg", None]
    assert photos[-1]["detail"] == "the row holds no picture: it is null"


def test_names_that_pandas_made_numbers_or_texts(tmp_path: Path) -> None:
    rows = table(tmp_path / "p.parquet", {"image": [b"1", b"2", b"3"], "name": [1.0, 2.5, float("nan")]})
    assert list(named(rows)) == ["1", "2.5", "p-2"]
    rows = table(tmp_path / "q.parquet", {"image": [b"1", b"2", b"3"], "name": ["Ada", "nan", "None"]})
    assert list(named(rows)) == ["Ada", "q-1", "q-2"]


def test_the_one_column_of_bytes_is_named_as_that_to_rename(tmp_path: Path) -> None:
    rows = table(tmp_path / "s.parquet", {"path": ["a.jpg"], "length": [1], "content": [b"1"]})
    with pytest.raises(SourceError, match=r"it needs image .*; rename content"):
        find_places(str(rows))
