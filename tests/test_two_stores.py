"""Photos in one store and tables in another, each reached in its own way; else what was asked is told."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import httpx
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import TableDamaged
from factory.profiles import arrow_keys
from factory.reach import check_stores, fault_at
from factory.storage import PHOTOS_STORAGE, STORAGE, remember, s3_files
from factory.store import connection
from factory.store.connection import check_tables
from factory.store.tables import Store
from pipelines.photos.entries import open_file
from pipelines.photos.places import find_places
from pipelines.photos.sources import hash_contents, read_photos

FIRST = {"aws_access_key_id": "first", "aws_secret_access_key": "s", "region_name": "us-east-1"}


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[str, str]]:
    """The first has photos alone, the second the bucket of tables alone."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    one, port = "http://{}:{}".format(*server.get_host_and_port()), free_port()
    other = f"http://127.0.0.1:{port}"  # in a process of its own: all of one process have the same buckets
    with subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=subprocess.DEVNULL) as second:
        while fault_at(other):
            assert second.poll() is None
        yield from _filled(one, other)
        second.terminate()
    server.stop()


def _filled(one: str, other: str) -> Iterator[tuple[str, str]]:
    httpx.post(f"{one}/moto-api/reset").raise_for_status()  # what other tests of this process had
    photos = boto3.client("s3", endpoint_url=one, **FIRST)
    photos.create_bucket(Bucket="shots")
    for key in ("p/a.jpg", "p/./b.jpg"):
        photos.put_object(Bucket="shots", Key=key, Body=key.encode(), ACL="public-read")
    boto3.client("s3", endpoint_url=other, **FIRST).create_bucket(Bucket="people")
    yield one, other


@pytest.fixture
def reached(servers: tuple[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[str, str]:
    for name in (STORAGE, PHOTOS_STORAGE, "AWS_PROFILE", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    keys = "aws_access_key_id = first\naws_secret_access_key = s\n"
    config.write_text(f"[profile shots]\nendpoint_url = {servers[0]}\nregion = us-east-1\n{keys}")
    said = {"CONFIG_FILE": str(config), "ENDPOINT_URL": servers[1], "ACCESS_KEY_ID": "secondkey-ours"}
    said |= {"SECRET_ACCESS_KEY": "s", "REGION": "us-east-1", "DEFAULT_REGION": "us-east-1"}
    for name, value in said.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv(STORAGE, "")  # for what tests remember
    monkeypatch.setenv(PHOTOS_STORAGE, "")
    return servers


@pytest.mark.parametrize(
    "how", ["endpoint={}", "endpoint={} anonymous=true", "profile=shots", "endpoint={} requester_pays=true"]
)
def test_photos_and_tables_are_each_in_their_own_store(reached: tuple[str, str], how: str) -> None:
    remember(how.format(reached[0]).split(), PHOTOS_STORAGE)
    remember([f"endpoint={reached[1]}"])
    check_stores(["s3://shots/p"], by=PHOTOS_STORAGE)
    check_stores(["s3://people/root"], tables=["s3://people/root"])
    contents = pa.concat_tables(hash_contents(find_places("s3://shots/p", "s3://people/root").table))
    photos = [row for photo in read_photos(contents, max_bytes=99) for row in photo.to_pylist()]
    assert sorted(photo["image"] for photo in photos) == [b"p/./b.jpg", b"p/a.jpg"]
    with open_file("s3://shots/p/a.jpg") as stream:
        assert stream.read() == b"p/a.jpg"
    store = Store(f"s3://people/{how.partition('=')[0]}{len(how)}")
    store.upsert("names", [{"photo_id": "p", "name": "n"}])
    assert store.count("names") == 1
    with pytest.raises(OSError, match="does not exist"):
        s3_files(reached[1]).open_input_file("shots/p/a.jpg")


def test_a_profile_of_photos_has_its_own_keys(reached: tuple[str, str]) -> None:
    assert arrow_keys("shots") == {"access_key": "first", "secret_key": "s"} and arrow_keys() == {}
    remember(["profile=nobody"], PHOTOS_STORAGE)
    with pytest.raises(
        OSError, match=r"as the profile nobody, refuses it \(ProfileNotFound\): .*--photos-storage profile"
    ):
        check_stores(["s3://shots/p"], by=PHOTOS_STORAGE)


def test_what_was_asked_where_and_as_whom_is_told(reached: tuple[str, str]) -> None:
    remember([f"endpoint={reached[0]}"])
    root = "s3://people/root"
    told = rf"no bucket s3://people at {reached[0]}, with the key secondke\.\.\. of .*create it there.*--photos-storage"
    with pytest.raises(OSError, match=told):
        check_stores([root], tables=[root])
    remember([])
    with pytest.raises(OSError, match=f"there is no bucket s3://shots at {reached[1]}, .*correct its name"):
        check_stores(["s3://shots/p"], by=PHOTOS_STORAGE)


def test_the_command_takes_it(reached: tuple[str, str], tmp_path: Path) -> None:
    wrong = CliRunner().invoke(
        app, ["--photos-storage", "profil=x", "run", "--photos", "s3://shots/p", "--root", str(tmp_path)]
    )
    assert (
        wrong.exit_code == 1
        and "--photos-storage profil: no store of this command has such a setting; did you mean profile?"
        in wrong.output
    )
    command = ["run", "--photos", "s3://shots/nothing", "--root", "s3://people/root"]
    alone = CliRunner().invoke(app, command)
    assert f"there is no bucket s3://shots at {reached[1]}" in alone.output
    both = CliRunner().invoke(app, ["--photos-storage", "profile=shots", *command])
    assert both.exit_code == 1 and "there is nothing at s3://shots/nothing" in both.output


def test_a_file_that_a_copy_to_a_bucket_lacks_is_told(reached: tuple[str, str]) -> None:
    store = Store("s3://people/copied")
    store.upsert("names", [{"photo_id": "p", "name": "n"}])
    connection._WHOLE.clear()  # as another process sees it
    check_tables(store.root)
    client = boto3.client("s3", endpoint_url=reached[1], **FIRST)
    [data] = client.list_objects_v2(Bucket="people", Prefix="copied/names.lance/data/")["Contents"]
    client.delete_object(Bucket="people", Key=data["Key"])
    connection._WHOLE.clear()
    with pytest.raises(TableDamaged, match=r"s3://people/copied/names\.lance is .* damaged: data/\w+\.lance is"):
        check_tables(store.root)
