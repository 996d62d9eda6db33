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
    cut: bool = False  # into blocks of `rows` first, so that no small ones are joined and each is committed by itself
    num_cpus: float = LIGHT  # of a task

    def after(self, chain: ray.data.Dataset) -> ray.data.Dataset:
        """The chain with this stage at its end."""
        if self.cut:
            chain = chain.repartition(target_num_rows_per_block=self.rows)
        if self.pool is None:
            return chain.map_batches(
                self.work,
                batch_size=self.rows,
                batch_format="pyarrow",
                compute=light_tasks(),
                num_cpus=self.num_cpus,
            )
        return chain.map_batches(
            self.work,
            fn_constructor_args=self.arguments,
            batch_size=self.rows,
            batch_format="pyarrow",
            compute=self.pool.strategy,
            num_cpus=self.pool.num_cpus,
            num_gpus=self.pool.num_gpus,
        )


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
