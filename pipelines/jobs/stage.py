"""A chain of stages on Ray Data: blocks of rows go in, each stage is tasks or a pool of workers, results come out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa
import ray

from pipelines.jobs.pools import LIGHT, Pool, light_tasks

COUNTS: Final = pa.schema([("what", pa.string()), ("num", pa.int64())])


@dataclass(frozen=True, slots=True)
class Stage:
    """What is done to every table of rows: by light tasks, or by the workers of a pool.

    The last stage of a job commits, and gives COUNTS.
    """

    work: Callable[..., Any]  # pa.Table -> pa.Table, or an iterator of them; of workers the class whose calls do it
    arguments: Sequence[Any] = ()  # of that class
    pool: Pool | None = None  # None: light tasks
    rows: int | None = None  # in a table, at most; None: a whole block
    cut: int | None = None  # of light tasks: rows of a block that they hand on; None: as many as are 32 MB
    num_cpus: float = LIGHT  # of a task

    def after(self, chain: ray.data.Dataset) -> ray.data.Dataset:
        """The chain with this stage at its end."""
        if self.pool is None:
            chain = chain.map_batches(
                self.work,
                batch_size=self.rows,
                batch_format="pyarrow",
                compute=light_tasks(),
                num_cpus=self.num_cpus,
            )
            return chain if self.cut is None else _cut(chain, self.cut)
        return chain.map_batches(
            self.work,
            fn_constructor_args=self.arguments,
            batch_size=self.rows,
            batch_format="pyarrow",
            compute=self.pool.strategy,
            num_cpus=self.pool.num_cpus,
            num_gpus=self.pool.num_gpus,
        )


def _cut(chain: ray.data.Dataset, rows: int) -> ray.data.Dataset:
    """The chain, whose last tasks hand on blocks of so many rows as they make them.

    Ray Data lets the tasks that make rows cut them too where both would book the same, which `repartition` cannot be
    told: tasks of its own would book a whole CPU, one at a time on a full cluster, and hand on 20 blocks a second.
    """
    chain = chain.repartition(target_num_rows_per_block=rows)
    cutting: Any = chain._logical_plan.dag
    making = cutting.input_dependencies[0]
    cutting.ray_remote_args.update(making.ray_remote_args)
    cutting.compute.size = making.compute.size
    return chain


def stream(blocks: Sequence[pa.Table], *stages: Stage) -> Iterator[pa.Table]:
    """Runs the stages over blocks; gives what the last one makes, as it is done."""
    chain: ray.data.Dataset = ray.data.from_arrow(list(blocks))
    for stage in stages:
        chain = stage.after(chain)
    for batch in chain.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        assert isinstance(batch, pa.Table)
        yield batch


def tally(blocks: Sequence[pa.Table], *stages: Stage) -> Iterator[Counter[str]]:
    """Runs stages of which the last gives COUNTS; gives each committed batch's counts as it is done."""
    for batch in stream(blocks, *stages):
        counts: Counter[str] = Counter()
        for row in batch.to_pylist():
            counts[row["what"]] += row["num"]
        yield counts


def counts_table(counts: Mapping[str, int]) -> pa.Table:
    """What a committed batch reports to the driver, as COUNTS."""
    return pa.table({"what": list(counts), "num": list(counts.values())}, schema=COUNTS)
