"""The little of Ray Data that `prepare` uses, in this process: its logic can be tested without a cluster."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

import pipelines.photos.new
import pipelines.prepare
from pipelines.jobs.pools import Pool


class LocalChain:
    """Blocks, and what `map_batches` makes of them."""

    def __init__(self, blocks: Sequence[pa.Table]) -> None:
        self.blocks = list(blocks)

    def repartition(self, *, target_num_rows_per_block: int) -> LocalChain:
        """Blocks of this many rows."""
        if not self.blocks:
            return self
        whole = pa.concat_tables(self.blocks)
        size = target_num_rows_per_block
        return LocalChain([whole.slice(start, size) for start in range(0, whole.num_rows, size)])

    def map_batches(
        self, function: Callable[..., Any], *, fn_constructor_args: Sequence[Any] | None = None, **_how: object
    ) -> LocalChain:
        """Each block through a function, or through one object of a class."""
        run = function if fn_constructor_args is None else function(*fn_constructor_args)
        made: list[pa.Table] = []
        for block in self.blocks:
            result = run(block)
            made += [result] if isinstance(result, pa.Table) else list(result)
        return LocalChain(made)


def _tally(chain: LocalChain) -> Iterator[Counter[str]]:
    for block in chain.blocks:
        yield Counter({row["what"]: row["num"] for row in block.to_pylist()})


def use_local_chain(patch: pytest.MonkeyPatch) -> None:
    """Makes `prepare` run here."""
    pool = Pool(size=1, num_cpus=1, num_gpus=0, threads=1)
    for module in (pipelines.photos.new, pipelines.prepare):
        patch.setattr(module, "ray", SimpleNamespace(data=SimpleNamespace(from_arrow=LocalChain)))
    patch.setattr(pipelines.photos.new, "stream", lambda chain: iter(chain.blocks))
    patch.setattr(pipelines.prepare, "tally", _tally)
    patch.setattr(pipelines.prepare, "connect", lambda: None)
    patch.setattr(pipelines.prepare, "cpu_and_model_pools", lambda *_workers: (pool, pool))
