"""One committer for all workers of a job: every row once, answered once it is there."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from benchmarks.kills import measure
from factory.store import committer
from factory.store.committer import GroupedStore, Lane
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from tests.test_upkeep import row


def table(*numbers: int, name: str = "x") -> pa.Table:
    return pa.Table.from_pylist([row(number, name) for number in numbers], SCHEMAS["identities"])


def names(store: Store) -> dict[str, str]:
    return {one["identity_id"]: one["name"] for one in store.read("identities").to_pylist()}


def test_what_comes_during_a_commit_shares_the_next_one(store: Store) -> None:
    commits = list[int]()

    def commit(rows: pa.Table, where: str | None) -> None:
        time.sleep(0.05)
        store.upsert_table("identities", rows)
        commits.append(rows.num_rows)

    async def write(lane: Lane, first: int) -> None:
        await lane.put(table(first, first + 1))
        assert store.find_identity(f"i{first:015d}"), "answered before it is there"

    async def all_write() -> None:
        lane = Lane(commit)
        await asyncio.gather(*(write(lane, first) for first in range(0, 32, 2)))
        await lane.put(table(0, name="newer"))  # it wakes up again

    asyncio.run(all_write())
    assert len(commits) <= 4 and sum(commits) == 33, "sixteen who come at once share one or two"
    assert store.count("identities") == 32 and names(store)[f"i{0:015d}"] == "newer"


def test_of_rows_with_one_key_in_a_commit_the_last_counts(store: Store) -> None:
    store.upsert_table("identities", pa.concat_tables([table(1, 2, name="a"), table(2, 3, name="b"), table(2)]))
    assert names(store) == {f"i{1:015d}": "a", f"i{2:015d}": "x", f"i{3:015d}": "b"}


def test_who_waits_for_a_commit_that_fails_is_told_and_the_next_one_goes_on() -> None:
    calls = list[int]()

    def commit(rows: pa.Table, where: str | None) -> None:
        calls.append(rows.num_rows)
        if len(calls) == 1:
            raise OSError("No space left on device")

    async def write() -> None:
        lane = Lane(commit)
        told = await asyncio.gather(*(lane.put(table(number)) for number in range(3)), return_exceptions=True)
        assert [str(one) for one in told] == ["No space left on device"] * 3
        await lane.put(table(7))

    asyncio.run(write())
    assert calls == [3, 1]


def test_a_commit_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committer, "_MOST_BYTES", 100)
    assert [committer._fitting(sizes) for sizes in ([300, 1], [40, 60, 1], [10])] == [1, 2, 1]


def test_threads_share_commits_and_conditions_hold_where_they_stood(tmp_path: Path) -> None:
    """`replace` looks at the rows as they are when its turn comes, and goes with others of its condition."""
    store = GroupedStore(str(tmp_path))
    store.upsert_table("identities", table(*range(8), name="old"))
    with ThreadPoolExecutor(24) as threads:
        for number in range(8):
            threads.submit(store.replace, "identities", [row(number, "new")], "target.name = 'old'")
            threads.submit(store.replace, "identities", [row(number, "never")], "target.name = 'young'")
            threads.submit(store.upsert, "identities", [row(100 + number, "x")])
    assert names(store) == {f"i{n:015d}": "new" for n in range(8)} | {f"i{100 + n:015d}": "x" for n in range(8)}
    dataset = store.open("identities")
    assert dataset is not None and dataset.version < 24, "else nobody shared a commit"
    with pytest.raises(OSError, match="no_such_column"):
        store.replace("identities", [row(1, "x")], "target.no_such_column = 1")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(900)
def test_committer_writers_and_driver_killed_at_random_leave_every_row_once(tmp_path: Path) -> None:
    """`python -m benchmarks.kills` does it as often as it is told."""
    killed = measure(tmp_path, kills=8, seed=time.time_ns())
    assert killed.total() == 8
