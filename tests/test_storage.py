"""Stores of other schemes, through fsspec, and what is said of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from factory.errors import SourceError
from factory.files import filesystem, photo_files
from factory.storage import STORAGE, az_files, az_options, gs_options, remember, s3_files, scheme_of, settings
from factory.store.connection import lance_uri, storage_options
from factory.store.tables import Store
from pipelines.photos.places import find_places
from pipelines.photos.sources import CONTENT, hash_contents, read_photos


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv(STORAGE, "")
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()


def read(src: str) -> dict[str, bytes]:
    contents = pa.concat_tables(hash_contents(find_places(src).table))
    rows = [row for photo in read_photos(contents, max_bytes=10_000) for row in photo.to_pylist()]
    assert [row["photo_id"] for row in rows] == [hashlib.sha256(row["image"]).hexdigest() for row in rows]
    assert contents.schema == CONTENT
    return {row["name"]: row["image"] for row in rows}


def test_photos_are_read_from_any_scheme_that_a_package_reads(memory: Any) -> None:
    for name in ("a.jpg", "b/c d%20é.png", "b/notes.txt"):
        memory.pipe(f"/people/{name}", f"bytes of {name}".encode())
    assert read("memory://people") == {"a": b"bytes of a.jpg", "c d%20é": "bytes of b/c d%20é.png".encode()}
    assert read("memory://people/a.jpg") == {"a": b"bytes of a.jpg"}
    with memory.open("/list.parquet", "wb") as stream:
        pq.write_table(pa.table({"uri": ["people/a.jpg", "memory://people/a.jpg", "https://host/x.jpg"]}), stream)
    rows = [row for table in hash_contents(find_places("memory://list.parquet").table) for row in table.to_pylist()]
    assert [row["photo_id"] is None for row in rows] == [False, False, True], "no list makes us ask another server"


def test_what_cannot_be_read_is_said_in_one_line(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceError, match="there is nothing at memory://nobody"):
        find_places("memory://nobody")
    with pytest.raises(ValueError, match="nowhere:// is not read: no package of fsspec knows it"):
        find_places("nowhere://bucket/x")
    with pytest.raises(ValueError, match="gcs:// needs a package that is not installed: pip install gcsfs"):
        photo_files("gcs://bucket/x")
    with pytest.raises(ValueError, match=r"github:// cannot be opened \(.*\): --storage KEY=VALUE"):
        photo_files("github://x")
    with pytest.raises(ValueError, match="memory:// is not written, and no tables are read there"):
        filesystem("memory://root")


def test_settings_are_key_and_value_and_told_when_wrong(memory: Any) -> None:
    remember(["endpoint=http://host:9000", "token=a b=c"])
    assert settings() == {"endpoint": "http://host:9000", "token": "a b=c"}
    with pytest.raises(ValueError, match="--storage token: s3:// has no such setting; there are endpoint, region"):
        s3_files(None)
    remember(["anonymous=yes"])
    with pytest.raises(ValueError, match="--storage anonymous is true or false, not 'yes'"):
        s3_files(None)
    with pytest.raises(ValueError, match="--storage takes KEY=VALUE, not 'anonymous'"):
        remember(["anonymous"])
    assert [scheme_of(uri) for uri in ("s3://a", "file:///a", "/a://b", "hf://x", "C:\\x")] == ["s3", "", "", "hf", ""]


def test_azure_s_uris_of_hadoop_keep_their_account(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    files, path = photo_files("abfss://photos@ours.dfs.core.windows.net/in/a.jpg")
    assert (files.type_name, path) == ("abfs", "photos/in/a.jpg")
    with pytest.raises(ValueError, match="names no account of Azure: write abfss://CONTAINER@ACCOUNT"):
        photo_files("abfss://photos@evil:443/in/a.jpg")
    asked = list[str]()

    def of_account(account: str = "", by: str = "") -> pafs.FileSystem:
        asked.append(account)
        return pafs.PyFileSystem(pafs.FSSpecHandler(memory))

    monkeypatch.setattr("factory.files.az_files", of_account)
    memory.pipe("/photos/in/a.jpg", b"1")
    with memory.open("/photos/rows/x.parquet", "wb") as stream:
        elsewhere = "abfss://photos@others.dfs.core.windows.net/in/a.jpg"
        pq.write_table(pa.table({"uri": ["../in/a.jpg", elsewhere]}), stream)
    for source in ("abfss://photos@ours.dfs.core.windows.net/in", "wasbs://photos@ours.blob.core.windows.net/in/a.jpg"):
        assert read(source) == {"a": b"1"}
    rows = find_places("abfss://photos@ours.dfs.core.windows.net/rows").table
    [told] = [table["photo_id"].to_pylist() for table in hash_contents(rows)]
    assert told[0] is not None and told[1] is None, "no list shows our keys to another account"
    assert set(asked) == {"ours"}


def test_what_opens_one_account_is_not_shown_to_another(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "ours")
    monkeypatch.setenv("AZURE_STORAGE_SAS_TOKEN", "secret")
    given = list[dict[str, str]]()
    monkeypatch.setattr(pafs, "AzureFileSystem", lambda **how: given.append(how))
    for account in ("", "ours", "others"):
        az_files(account)
    ours = {"account_name": "ours", "sas_token": "secret"}
    assert given == [ours, ours, {"account_name": "others"}]


def test_tables_of_other_stores_are_told_to_lance_and_arrow(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as it can be told without these stores: names of settings, and where things are."""
    for name in ("NAME", "KEY"):
        monkeypatch.delenv(f"AZURE_STORAGE_ACCOUNT_{name}", raising=False)
    monkeypatch.delenv("AZURE_STORAGE_SAS_TOKEN", raising=False)
    assert Store("gs://bucket/people/").root == "gs://bucket/people" and storage_options("gs://bucket/people") is None
    remember(["anonymous=true"])
    assert gs_options() == storage_options("gs://bucket/x") == {"google_skip_signature": "true"}
    files, path = filesystem("gs://bucket/people")
    assert (files.type_name, path) == ("gcs", "bucket/people")
    with pytest.raises(ValueError, match="--storage anonymous: az:// has no such setting; there are account_name"):
        az_options()
    remember([])
    with pytest.raises(ValueError, match="az:// needs an account: set AZURE_STORAGE_ACCOUNT_NAME"):
        filesystem("az://container/people")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "ours")
    remember(["account_key=c2VjcmV0", "sas_token=x"])
    expected = {"azure_storage_account_name": "ours", "azure_storage_account_key": "c2VjcmV0"}
    assert az_options() == storage_options("az://container/people") == expected
    files, path = photo_files("az://container/a.jpg")
    assert (files.type_name, path) == ("abfs", "container/a.jpg")
    assert lance_uri("az://container/a b#c") == "az://container/a b%23c" and lance_uri("/a#b") == "/a#b"
