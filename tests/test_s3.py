"""Tables, sources and summaries on s3://, against moto's server on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import boto3
import pyarrow as pa
import pytest
from moto.server import ThreadedMotoServer

from factory.records import Reject
from factory.rows import reject_row
from factory.tables import Store
from pipelines.job import open_job
from pipelines.sources import PHOTO, find_places, hash_contents, read_photos


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


def test_a_prefix_of_images_is_a_source(s3: Any) -> None:
    for key in ("in/a.jpg", "in/sub/b.txt", "in/.hidden"):
        s3.put_object(Bucket="people", Key=key, Body=key.encode())
    contents = pa.concat_tables(hash_contents(find_places("s3://people/in/").table))
    photos = pa.concat_tables([PHOTO.empty_table(), *read_photos(contents, max_bytes=100)]).to_pylist()
    assert [(photo["name"], photo["image"]) for photo in photos] == [("a", b"in/a.jpg"), ("b", b"in/sub/b.txt")]


def test_a_missing_bucket_is_told_before_any_work(s3: Any) -> None:
    with pytest.raises(OSError, match="create the bucket, or correct its name"), open_job("x", Store("s3://gone/root")):
        pytest.fail("the job began")


def test_events_grow_in_a_bucket(s3: Any) -> None:
    store = Store("s3://people/events")
    with open_job("prepare", store) as summary:
        summary.faces = 2
    body = s3.get_object(Bucket="people", Key=f"events/jobs/{summary.job_id}/events.jsonl")["Body"].read()
    assert [line.split(b'"')[3] for line in body.splitlines()] == [b"started", b"progress", b"finished"]
