"""One committer for all workers of a job: they hand rows over, and are answered once these are committed.

Commits to one table exclude one another: of many workers that commit by themselves most fail and begin anew, the more
the more there are. So on a cluster one actor commits, table by table: what came while a commit ran goes into the next
one. It keeps nothing that is answered for. If it is lost, Ray starts it again and repeats the calls without an answer;
ids make a repeated row the same row. If a worker is lost, its rows may be committed all the same, as is right.

Rows travel, not files. Lance lets a worker write the files of an upsert and another commit them, but then does not see
that both of two such commits insert the same key (pylance 14: the list of inserted keys is lost on the way).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.store.schemas import Table
from factory.store.tables import Store

FROM_CPUS: Final = 8  # of the cluster; fewer workers collide less than a committer costs
_MOST_BYTES: Final = 2**28  # of a commit; of the first rows in it more
_LONGEST_REST_S: Final = 1.0
_WAITING: Final = 10_000  # calls at once


def shared(store: Store) -> Store:
    """The store as workers of this job are to have it: on a large cluster with a committer, which lives as long as the
    store that is returned; without Ray, and on a small one, as it is. After `connect`."""
    if not ray.is_initialized():
        return store
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return CommittedStore(store.root) if resources.get("CPU", 0) >= FROM_CPUS else store


class CommittedStore(Store):
    """A store whose rows are committed by an actor of its own, wherever it is sent; all else it does by itself."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._committer: Any = (
            ray.remote(num_cpus=0)(Committer)
            .options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True),
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=_WAITING,
            )
            .remote(root)
        )

    def upsert_table(self, table: Table, rows: pa.Table) -> None:
        """As `Store` does, together with other workers' rows. Raises what the commit raises."""
        if rows.num_rows:
            ray.get(self._committer.commit.remote(table, rows))


class Lane:
    """Rows of one table that wait for the commit under way. It rests after each as long as that took, a second at
    most: so that more rows share the next one, and a table on a slow store does not get more versions than it bears."""

    def __init__(self, commit: Callable[[pa.Table], object]) -> None:
        self._commit = commit
        self._waiting: list[tuple[pa.Table, asyncio.Future[None]]] = []
        self._work: asyncio.Task[None] | None = None

    async def put(self, rows: pa.Table) -> None:
        """Returns when the rows are committed; raises what their commit raised."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, done))
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        while self._waiting:
            now = self._waiting[: _fitting([rows.nbytes for rows, _ in self._waiting])]
            del self._waiting[: len(now)]
            started = time.monotonic()
            together = pa.concat_tables(rows for rows, _ in now)
            commit = asyncio.get_running_loop().run_in_executor(None, self._commit, together)
            await asyncio.wait([commit])
            for _, done in now:
                if done.cancelled():
                    continue
                if fault := commit.exception():
                    done.set_exception(fault)
                else:
                    done.set_result(None)
            await asyncio.sleep(min(time.monotonic() - started, _LONGEST_REST_S))
        self._work = None


def _fitting(sizes: Sequence[int]) -> int:
    """How many of these go into one commit: at least the first."""
    total, num = 0, 0
    for size in sizes:
        total += size
        if num and total > _MOST_BYTES:
            break
        num += 1
    return num


class Committer:
    """Commits what is handed over by any number of workers, a lane a table."""

    def __init__(self, root: str) -> None:
        self._store, self._lanes = Store(root), dict[str, Lane]()

    async def commit(self, table: Table, rows: pa.Table) -> None:
        """Returns when they are committed."""
        if table not in self._lanes:
            self._lanes[table] = Lane(partial(self._store.upsert_table, table))
        await self._lanes[table].put(rows)
