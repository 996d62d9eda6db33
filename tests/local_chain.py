"""The stages of `prepare` in this process, one after the other: its logic can be tested without a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pytest

import pipelines.jobs.stage
import pipelines.photos.new
import pipelines.prepare
from pipelines.jobs.pools import Pool
from pipelines.jobs.stage import Stage


def _stream(blocks: Sequence[pa.Table], *stages: Stage) -> Iterator[pa.Table]:
    """Each block through a function, or through one object of a class."""
    tables = list(blocks)
    for stage in stages:
        work = stage.work if stage.pool is None else stage.work(*stage.arguments)
        made = [work(table) for table in tables]
        tables = [table for one in made for table in ([one] if isinstance(one, pa.Table) else one)]
        if stage.cut and tables:
            whole = pa.concat_tables(tables)
            tables = [whole.slice(start, stage.cut) for start in range(0, whole.num_rows, stage.cut)]
    yield from tables


def use_local_chain(patch: pytest.MonkeyPatch) -> None:
    """Makes `prepare` run here."""
    pool = Pool(size=1, num_cpus=1, num_gpus=0, threads=1)
    for module in (pipelines.jobs.stage, pipelines.photos.new):
        patch.setattr(module, "stream", _stream)
    patch.setattr(pipelines.prepare, "connect", lambda: None)
    patch.setattr(pipelines.prepare, "cpu_and_model_pools", lambda _workers: (pool, pool))
