"""Tables, sources and summaries on s3://, against moto's server on loopback."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from posixpath import normpath
from typing import Any

import boto3
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from benchmarks.flaky_s3 import flaky_s3
from factory.errors import PackError, SourceError
from factory.pack import Pack, load_pack
from factory.reach import check_stores
from factory.records import Reject
from factory.storage import STORAGE, lance_options, remember, s3_keys
from factory.store import upkeep
from factory.store.erase import erase, find_person
from factory.store.rows import reject_row
from factory.store.tables import Store
from factory.store.versions import older_versions
from pipelines.jobs.job import open_job
from pipelines.photos.entries import open_file
from pipelines.photos.places import find_places
from pipelines.photos.sources import CONTENT, PHOTO, hash_contents, read_photos


@pytest.fixture(scope="module")
def s3() -> Iterator[Any]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="people")
        yield client
    server.stop()


def test_tables_and_summaries_live_in_a_bucket(s3: Any) -> None:
    store = Store("s3://people/root/")
    reject = Reject(reject_id="r", photo_id="", name="x", pack="p", stage="prepare", reason="no_face", detail="")
    for _ in range(2):
        store.upsert("rejects", [reject_row(reject)])
    assert store.rejects() == [reject]
    store.export_parquet("rejects", "s3://people/t.parquet")
    with open_job("prepare", store) as summary:
        summary.photos = 1
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket="people")["Contents"]}
    assert {"t.parquet", f"root/jobs/{summary.job_id}/summary.json"} <= keys
    assert store.root == "s3://people/root"


def test_a_root_of_any_name_keeps_its_tables_apart_and_is_erased_whole(
    s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "INDEX_FROM", 4)
    store = Store("s3://people/a %20 b#c?d")
    photos = [f"{number:x}" * 64 for number in (10, 11, 12)]
    reject = Reject(reject_id=photos[0], photo_id=photos[0], name="x", pack="p", stage="", reason="", detail="")
    store.upsert("rejects", [reject_row(reject)])
    for photo in photos:
        store.upsert("names", [{"photo_id": photo, "name": f"{number}"} for number in range(3)])
    store.tidy("names")
    assert erase(store, find_person(store, photo_id=photos[1])).found == []
    assert set(store.read("names", where="name = '1'")["photo_id"].to_pylist()) == {photos[0], photos[2]}
    assert store.rejects() == [reject]
    keys = {entry["Key"] for entry in s3.list_objects_v2(Bucket="people", Prefix="a %20")["Contents"]}
    assert any("/names.lance/_indices/" in key for key in keys)
    assert all(key.startswith("a %20 b#c?d/") for key in keys)


def test_a_prefix_of_images_is_a_source(s3: Any) -> None:
    for key in ("a.jpg", "sub/b.jpg", ".hidden", "faces.lance/x.jpg", "@eaDir/c.jpg", "dir/", "../in2/d.jpg"):
        if key.endswith("/"):  # what consoles make in place of a folder
            s3.put_object(Bucket="people", Key=f"in/{key}")
        else:
            s3.put_object(Bucket="people", Key=normpath(f"in/{key}"), Body=f"in/{key}".encode())
    photos = photos_of("s3://people/in/")
    assert [(photo["name"], photo["image"]) for photo in photos] == [("a", b"in/a.jpg"), ("b", b"in/sub/b.jpg")]
    left_out = find_places("s3://people/in").left_out
    assert dict(left_out) == {"hidden": 1, "table or job of a root": 1, "system": 1}
    with pytest.raises(SourceError, match="there is nothing at s3://no-such-bucket/in"):
        find_places("s3://no-such-bucket/in")


def test_a_prefix_is_listed_a_page_at_a_time(s3: Any) -> None:
    for number in range(6):
        s3.put_object(Bucket="people", Key=f"many/{number}.jpg", Body=b"x")
    keys = s3_keys(os.environ["AWS_ENDPOINT_URL"], "people", "many/", at_once=2)
    assert next(keys) == "many/0.jpg"
    for number in (1, 3, 4):  # number 1 is known by now, and what comes after it is not
        s3.delete_object(Bucket="people", Key=f"many/{number}.jpg")
    assert list(keys) == ["many/1.jpg", "many/2.jpg", "many/5.jpg"]
    with pytest.raises(OSError, match=r"s3://nobody/x cannot be listed: .*NoSuchBucket"):
        list(s3_keys(os.environ["AWS_ENDPOINT_URL"], "nobody", "x"))


def photos_of(src: str) -> list[dict[str, Any]]:
    contents = pa.concat_tables([CONTENT.empty_table(), *hash_contents(find_places(src).table)])
    return pa.concat_tables([PHOTO.empty_table(), *read_photos(contents, max_bytes=1000)]).to_pylist()


def test_keys_of_any_form_are_read(s3: Any) -> None:
    """S3 keys are no paths: parts may be empty, dots, or hold anything else."""
    keys = ["k/ok.jpg", "k/a//b.jpg", "k//c.jpg", "k/../d.jpg", "k/./e.jpg", "k/sp ace/é+%20#?.jpg", "k/x\x01\t.jpg"]
    for key in keys:
        s3.put_object(Bucket="people", Key=key, Body=key.encode())
    photos = photos_of("s3://people/k")
    assert sorted(photo["image"] for photo in photos) == sorted(key.encode() for key in keys)
    assert {photo["uri"] for photo in photos} == {f"s3://people/{key}" for key in keys}


def test_archives_and_parquet_in_a_bucket(s3: Any, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive, tarfile.open(tmp_path / "t.tar", "w") as shard:
        for name in ("a.jpg", "b.jpg"):
            (tmp_path / name).write_text(name)
            archive.write(tmp_path / name, f"zip-{name}")
            shard.add(tmp_path / name, f"tar-{name}")
    pq.write_table(pa.table({"uri": ["../in/a.jpg"], "image": [None]}), tmp_path / "p.parquet")
    s3.put_object(Bucket="people", Key="in/a.jpg", Body=b"beside")
    for name, folder in (("z.zip", "boxes"), ("t.tar", "boxes"), ("p.parquet", "lists")):
        s3.upload_file(str(tmp_path / name), "people", f"{folder}/{name}")
    found = {photo["name"]: photo["image"] for photo in photos_of("s3://people/boxes")}
    assert found == {f"{kind}-{name}": f"{name}.jpg".encode() for kind in ("zip", "tar") for name in "ab"}
    assert [photo["image"] for photo in photos_of("s3://people/lists")] == [b"beside"]


def test_a_missing_bucket_is_told_before_any_work(s3: Any) -> None:
    with pytest.raises(OSError, match="create the bucket at the server that"), open_job("x", Store("s3://gone/root")):
        pytest.fail("the job began")


def test_a_store_that_fails_now_and_then_costs_time_and_no_row(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with flaky_s3(0.2) as (url, counts):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        client = boto3.client("s3", config=Config(retries={"max_attempts": 10}))
        client.create_bucket(Bucket="flaky")
        for number in range(3):
            client.put_object(Bucket="flaky", Key=f"in/{number}.jpg", Body=bytes([number]))
        contents = pa.concat_tables(hash_contents(find_places("s3://flaky/in").table))
        photos = pa.concat_tables([PHOTO.empty_table(), *read_photos(contents, max_bytes=100)]).to_pylist()
        assert [(photo["image"], photo["reason"]) for photo in photos] == [(bytes([n]), None) for n in range(3)]
        store = Store("s3://flaky/root")
        for number in (0, 1, 2, 1):
            store.upsert("names", [{"photo_id": str(number), "name": "x"}])
        assert sorted(store.read("names")["photo_id"].to_pylist()) == ["0", "1", "2"]
        assert counts["failed"] > 5, "nothing was injected"


def test_a_pack_in_a_bucket_is_copied_once_to_a_node(
    s3: Any, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    files = [file for file in tiny_pack.root.rglob("*") if file.is_file()]
    for file in files:
        s3.upload_file(str(file), "people", f"packs/tiny/{file.relative_to(tiny_pack.root).as_posix()}")
    uri = "s3://people/packs/tiny"
    with ThreadPoolExecutor(4) as workers:
        packs = list(workers.map(load_pack, [uri] * 4))
    assert len({pack.root for pack in packs}) == 1 and packs[0].root.is_relative_to(tmp_path)
    assert packs[0].name == tiny_pack.name and packs[0].fingerprint() == tiny_pack.fingerprint()
    assert packs[0].portable_name() == uri, "another node makes its own copy"
    assert load_pack("studio").portable_name() == "studio"
    s3.delete_object(Bucket="people", Key="packs/tiny/pack.toml")
    assert load_pack(uri) == packs[0], "it is not read again"
    with pytest.raises(PackError, match=r"no pack\.toml at s3://people/packs/none"):
        load_pack("s3://people/packs/none")


def test_events_grow_in_a_bucket(s3: Any) -> None:
    store = Store("s3://people/events")
    with open_job("prepare", store) as summary:
        summary.faces = 2
    body = s3.get_object(Bucket="people", Key=f"events/jobs/{summary.job_id}/events.jsonl")["Body"].read()
    assert [line.split(b'"')[3] for line in body.splitlines()] == [b"started", b"progress", b"finished"]


@pytest.mark.parametrize("named_by", ["the variable for S3 alone", "a profile"])
def test_the_server_may_be_named_in_other_ways(
    s3: Any, named_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    if named_by == "a profile":
        (tmp_path / "config").write_text(f"[profile me]\nendpoint_url = {url}\n")
        (tmp_path / "keys").write_text("[me]\naws_access_key_id = test\naws_secret_access_key = test\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "keys"))
        monkeypatch.setenv("AWS_PROFILE", "me")
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", url)
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # of other services
    s3.put_object(Bucket="people", Key="named/a//x.jpg", Body=b"x")
    assert [photo["image"] for photo in photos_of("s3://people/named")] == [b"x"]
    store = Store(f"s3://people/root of {named_by}")
    store.upsert("names", [{"photo_id": "p", "name": "n"}])
    assert store.count("names") == 1


def test_settings_of_a_store_reach_arrow_lance_and_s3fs(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    s3.put_object(Bucket="people", Key="said/a.jpg", Body=b"picture a", ACL="public-read")
    s3.put_object(Bucket="people", Key="odd/./b.jpg", Body=b"picture b", ACL="public-read")
    for name in ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name)
    for more in ([], ["anonymous=true"], ["requester_pays=true"]):
        monkeypatch.setenv(STORAGE, "")
        remember([f"endpoint={endpoint}", "region=us-east-1", "path_style=true", *more])
        places = find_places("s3://people/said")
        [content] = [row for table in hash_contents(places.table) for row in table.to_pylist()]
        assert content["photo_id"] == hashlib.sha256(b"picture a").hexdigest()
        [read] = read_photos(pa.Table.from_pylist([content], CONTENT), max_bytes=100)
        assert read["image"].to_pylist() == [b"picture a"]
        with open_file("s3://people/odd/./b.jpg") as stream:
            assert stream.read() == b"picture b"
        if more != ["anonymous=true"]:  # which may not write
            Store("s3://people/said-root").upsert("names", [{"photo_id": "p", "name": "n"}])
            assert Store("s3://people/said-root").count("names") == 1
    options = lance_options("http://host")
    assert options["aws_request_payer"] == options["allow_http"] == "true" and options["aws_region"] == "us-east-1"
    assert options["aws_virtual_hosted_style_request"] == "false"


def test_markers_of_folders_are_no_photos_and_what_is_archived_is_told(s3: Any) -> None:
    for key, body in (("m/", b""), ("m/in/", b""), ("m", b""), ("m/a.jpg", b"a"), ("alone.jpg", b"b")):
        s3.put_object(Bucket="people", Key=key, Body=body)
    s3.put_object(Bucket="people", Key="m/cold.jpg", Body=b"c" * 2000, StorageClass="GLACIER")
    contents = pa.concat_tables(hash_contents(find_places(["s3://people/m", "s3://people/alone.jpg"]).table))
    photos = {row["name"]: row for photo in read_photos(contents, max_bytes=9999) for row in photo.to_pylist()}
    assert {name: photo["image"] for name, photo in photos.items()} == {"a": b"a", "alone": b"b", "cold": None}
    assert photos["cold"]["reason"] == "unreadable" and "archived" in photos["cold"]["detail"]


def test_what_emr_leaves_and_keys_below_a_photo(s3: Any) -> None:
    for key, body in (
        ("e_$folder$", b""),
        ("e/in_$folder$", b""),
        ("e/in/a.jpg", b"a"),
        ("f", b"f"),
        ("f/b.jpg", b"b"),
    ):
        s3.put_object(Bucket="people", Key=key, Body=body)
    assert [photo["name"] for photo in photos_of("s3://people/e")] == ["a"]
    assert [photo["image"] for photo in photos_of("s3://people/f")] == [b"f", b"b"]
    assert [photo["image"] for photo in photos_of("s3://people/f/")] == [b"b"], "the folder was meant"


def test_an_object_that_may_be_read_and_not_listed(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.put_object(Bucket="people", Key="one/a.jpg", Body=b"a")

    def refused(*_: Any, **__: Any) -> Iterator[str]:
        raise OSError("AccessDenied")
        yield ""

    monkeypatch.setattr("pipelines.photos.listing.s3_keys", refused)
    assert [photo["image"] for photo in photos_of("s3://people/one/a.jpg")] == [b"a"]
    with pytest.raises(SourceError, match="s3://people/one cannot be listed"):
        find_places("s3://people/one")


def test_an_endpoint_with_the_bucket_behind_it_is_told(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    server = os.environ["AWS_ENDPOINT_URL"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{server}/people/")
    with pytest.raises(ValueError, match=f"with the bucket behind it, {server}/people/: write {server} alone"):
        check_stores(["s3://people/in"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"{server}/")
    check_stores(["s3://people/in"])


def test_a_bucket_that_keeps_versions_is_told_with_an_erasure(s3: Any) -> None:
    s3.create_bucket(Bucket="kept")
    photo = f"{7:064x}"
    for status, is_told in (("", False), ("Enabled", True), ("Suspended", False)):  # what is new keeps none then
        if status:
            s3.put_bucket_versioning(Bucket="kept", VersioningConfiguration={"Status": status})
        store = Store(f"s3://kept/root{status}")
        reject = Reject(reject_id=photo, photo_id=photo, name="x", pack="p", stage="", reason="", detail="")
        store.upsert("rejects", [reject_row(reject)])
        done = erase(store, find_person(store, photo_id=photo))
        assert done.found == [] and ("keeps older versions" in done.older_versions) is is_told, status
    rule = {"ID": "old", "Status": "Enabled", "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}
    for place, is_told in (({"Filter": {"Prefix": "other"}}, True), ({"Filter": {"Prefix": "root"}}, False)):
        s3.put_bucket_lifecycle_configuration(Bucket="kept", LifecycleConfiguration={"Rules": [rule | place]})
        assert bool(older_versions("s3://kept/rootEnabled")) is is_told, "the rule removes them"


def test_keys_in_an_address_are_refused_and_not_repeated(s3: Any) -> None:
    with pytest.raises(ValueError, match="keys do not belong into an address") as told:
        find_places("s3://KEY:PASSWORD@people/m")
    assert "PASSWORD" not in str(told.value)
