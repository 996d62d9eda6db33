"""Who commits for all workers of a job (factory/store/committer.py): its last stage, or an actor where workers commit
by themselves. If the process is lost, Ray starts it again and repeats the calls without an answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pyarrow as pa
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from factory.store.committer import Committer, GroupedStore, HandingStore
from factory.store.schemas import Table
from factory.store.tables import Store
from pipelines.jobs.pools import LIGHT, Pool
from pipelines.jobs.stage import Stage

FROM_CPUS: Final = 8  # of the cluster; fewer workers collide less than an actor costs
_WAITING: Final = 10_000  # calls at once
_BATCHES: Final = 16  # that the last stage of a job has in hand: what comes while a commit runs
_REST_S: Final = 0.2  # of that stage after a commit, at least: each looks through all files that were not joined yet


def commit_stage(commit: Callable[..., pa.Table], store: Store) -> Stage:
    """The last stage of a job: `commit(batch, store=...)`, which gives COUNTS. One process does it for all workers,
    some batches at a time, and batches that come together share a commit."""
    pool = Pool(size=1, num_cpus=LIGHT, num_gpus=0, threads=1, at_once=_BATCHES)
    return Stage(Committing, [commit, store.root], pool)


class Committing:
    """Commits batches, of several threads at a time."""

    def __init__(self, commit: Callable[..., pa.Table], root: str) -> None:
        self._commit = partial(commit, store=GroupedStore(root, _REST_S))

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows -> COUNTS, once they are committed."""
        return self._commit(batch)


def shared(store: Store) -> Store:
    """The store as workers that commit by themselves are to have it: on a large cluster with a committer, which lives
    as long as the store that is returned; without Ray, and on a small one, as it is. After `connect`."""
    if not ray.is_initialized():
        return store
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return committed(store.root) if resources.get("CPU", 0) >= FROM_CPUS else store


def committed(root: str) -> Store:
    """A store whose rows are committed by an actor of its own, on this node while there is one."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(num_cpus=0)(Committer)
    handle = actor.options(
        scheduling_strategy=here, max_restarts=-1, max_task_retries=-1, max_concurrency=_WAITING
    ).remote(root)
    return HandingStore(root, partial(_hand_over, handle))


def _hand_over(actor: Any, table: Table, rows: pa.Table, where: str | None) -> None:
    ray.get(actor.commit.remote(table, rows, where))
