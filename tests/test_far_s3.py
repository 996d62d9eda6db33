"""Many writers to tables on an S3 that answers each request 50 ms late."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from benchmarks.flaky_s3 import flaky_s3
from factory.storage import STORAGE
from factory.store import commits
from factory.store.committer import GroupedStore
from factory.store.tables import Store

RUNS = int(os.environ.get("FAR_RUNS", "10"))
WRITERS, COMMITS, ROWS = 16, 3, 4
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def far_bucket() -> Iterator[str]:
    with flaky_s3(0.0, latency_s=0.05) as (url, _), pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv(STORAGE, "")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            patch.setenv(name, "us-east-1")
        boto3.client("s3").create_bucket(Bucket="far")
        yield "s3://far"


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> list[Exception]:
    """Commits that came second."""
    errors, is_lost_race = list[Exception](), commits.is_lost_race

    def noted(error: Exception) -> bool:
        if is_lost_race(error):
            errors.append(error)
            return True
        return False

    monkeypatch.setattr(commits, "is_lost_race", noted)
    return errors


def write(store: Store) -> None:
    def one(writer: int) -> None:
        for commit in range(COMMITS):
            first = (writer * COMMITS + commit) * ROWS
            numbers = [*range(first, first + ROWS), -1]  # the last is everybody's
            store.upsert("names", [{"photo_id": str(number), "name": "x"} for number in numbers])

    with ThreadPoolExecutor(WRITERS) as threads:
        list(threads.map(one, range(WRITERS)))
    ids = Store(store.root).read("names", columns=["photo_id"])["photo_id"].to_pylist()
    assert sorted(ids, key=int) == [str(number) for number in range(-1, WRITERS * COMMITS * ROWS)], "every row, once"


def test_writers_that_share_a_committer_never_collide(far_bucket: str, lost: list[Exception]) -> None:
    for run in range(RUNS):
        write(GroupedStore(f"{far_bucket}/together-{run}"))
        assert lost == [], f"run {run}"
    write(Store(f"{far_bucket}/alone"))
    assert lost, "writers by themselves do collide: else this shows nothing"
