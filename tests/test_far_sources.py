"""Sources that are hard to reach: paths longer than a call takes, packages of fsspec with errors of their own."""

from __future__ import annotations

import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from factory.errors import SourceError
from factory.storage import plain
from pipelines.photos.places import find_places
from tests.sources import listed, named, photos_of, read, write


def test_a_path_that_is_too_long_ends_nothing(tmp_path: Path) -> None:
    write(tmp_path, "top.jpg", "x" * 80 + "/in.jpg")
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):  # more than 4,096 bytes, which no call takes at once
        with suppress(FileExistsError):
            os.mkdir("x" * 80, dir_fd=folder)
        below = os.open("x" * 80, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    assert set(named(tmp_path)) == {"top", "in"}
    assert find_places(str(tmp_path)).left_out == {"folder that cannot be read": 1}


class Strange(MemoryFileSystem):
    """A package of fsspec that raises errors of its own."""

    protocol = "strange"
    broken: ClassVar = set[str]()  # ends of paths that cannot be opened

    def open(self, path: str, *args: Any, **how: Any) -> Any:
        if path.endswith(tuple(self.broken)):
            raise RuntimeError("503 from nowhere")
        return super().open(path, *args, **how)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("strange:/"))

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        if path.endswith("/gone.jpg"):
            raise RuntimeError("503 from nowhere")
        return super().info(path)

    def find(self, path: str, **how: Any) -> Any:
        if path.endswith("/away"):
            raise KeyError("token")
        return super().find(path, **how)


def test_errors_of_packages_are_told(tmp_path: Path) -> None:
    fsspec.register_implementation("strange", Strange, clobber=True)
    files = Strange()
    for name in ("in/a.jpg", "in/gone.jpg", "away/a.jpg"):
        files.pipe(f"/{name}", b"1")
    photos = {photo["name"]: photo for photo in photos_of("strange://in")}
    assert photos["a"]["image"] == b"1" and "503 from nowhere" in photos["gone"]["detail"]
    with pytest.raises(SourceError, match=r"strange://away cannot be listed: check the network, .*token"):
        photos_of("strange://away")


def test_errors_of_packages_in_archives_and_tables_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("strange", Strange, clobber=True)
    files = Strange()
    for name in ("x.tar", "y.tar"):
        with files.open(f"/packed/{name}", "wb") as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(write(tmp_path, "a.jpg") / "a.jpg", "a.jpg")
    with files.open("/packed/z.zip", "wb") as stream, zipfile.ZipFile(stream, "w") as packed:
        packed.writestr("a.jpg", b"1")
    for name in ("x", "y"):
        with files.open(f"/rows/{name}.parquet", "wb") as stream:
            pq.write_table(pa.table({"image": [b"1", b"2"]}), stream)
    packed_photos, rows = listed("strange://packed"), listed("strange://rows")
    monkeypatch.setattr(Strange, "broken", {"x.tar", "z.zip", "x.parquet"})  # after they were listed, and before
    for contents in (packed_photos, rows, listed("strange://packed"), listed("strange://rows")):
        photos = read(contents)
        bad = [photo for photo in photos if not photo["uri"].partition("#")[0].endswith(("y.tar", "y.parquet"))]
        assert bad and all("503 from nowhere" in photo["detail"] for photo in bad)
        assert [photo["image"] is None for photo in photos].count(False) == len(photos) - len(bad) > 0


class Served(Strange):
    """A package whose paths leave out the server, as ftp's and sftp's."""

    protocol = "served"
    cachable = False
    SERVERS: ClassVar = {"host:21", "other"}

    def __init__(self, host: str, username: str = "", **_: Any) -> None:
        super().__init__()
        assert host in self.SERVERS

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, Any]:
        server = path.removeprefix("served://").partition("/")[0]
        user, _, host = server.rpartition("@")
        name, _, password = user.partition(":")
        return {"host": host, "username": name, "password": password}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("served://").partition("/")[2].strip("/") if "://" in path else path


def test_what_lies_on_a_server_is_read_from_that_server(tmp_path: Path) -> None:
    fsspec.register_implementation("served", Served, clobber=True)
    Served("other").pipe("/dir/a.jpg", b"1")
    for source in ("served://host:21/dir", "served://ada@other/dir/", "served://other/dir/a.jpg"):
        [photo] = photos_of(source)
        assert photo["image"] == b"1", photo["detail"]
        assert photo["uri"] == f"{source.partition('/dir')[0]}/dir/a.jpg"
    with pytest.raises(ValueError, match=r"a password does not belong .* write served://USER@HOST/\.\.\.") as refusal:
        photos_of("served://ada:secret@other/dir")
    assert "secret" not in str(refusal.value)


def test_what_hadoop_calls_s3_is_s3(tmp_path: Path) -> None:
    uris = [plain(uri) for uri in ("s3a://b/a.jpg", "s3n://b/a.jpg", "s3://b/s3a://", "/s3a://b")]
    assert uris == ["s3://b/a.jpg", "s3://b/a.jpg", "s3://b/s3a://", "/s3a://b"]
