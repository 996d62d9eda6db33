"""How many workers of which kind a job gets, and what each books of the cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray
from ray.data import ActorPoolStrategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool of workers of one kind. CPUs are Ray's bookkeeping; `threads` is what a worker really uses."""

    size: int  # at most, and at first
    num_cpus: float  # of each
    num_gpus: float  # of each; 0.5: two share a GPU
    threads: int

    @property
    def device(self) -> str:
        """Torch's name of what a worker computes on."""
        return "cuda" if self.num_gpus else "cpu"

    @property
    def strategy(self) -> ActorPoolStrategy:
        """The pool in Ray's words: it shrinks while there is less to do, and grows back."""
        return ActorPoolStrategy(min_size=1, max_size=self.size, initial_size=self.size)


def cpu_and_model_pools(
    num_cpu_workers: int | None, num_model_workers: int | None, gpus_each: float | None = None
) -> tuple[Pool, Pool]:
    """Two pools that run side by side: CPU work, and models on GPUs where there are any; half of the CPUs each else.

    `gpus_each` is what a model worker takes of a GPU; without it, 1 where the cluster has any now. An autoscaled one
    may have none yet: say it there.
    """
    cpus, gpus = _cluster()
    each = min(gpus, 1) if gpus_each is None else gpus_each
    models = num_model_workers or (_that_fit(gpus, each) if each else max(1, cpus // 2))
    others = num_cpu_workers or max(1, cpus - models)
    share = _share(cpus, models + others)
    threads = max(1, cpus // (models + others))
    return (
        Pool(size=others, num_cpus=share, num_gpus=0, threads=threads),
        Pool(size=models, num_cpus=share, num_gpus=each, threads=threads),
    )


def model_pool(num_workers: int | None, gpus_each: float | None = None) -> Pool:
    """One pool with the cluster to itself: as many workers as find GPUs, or one per node where there are none."""
    cpus, gpus = _cluster()
    each = min(gpus, 1) if gpus_each is None else gpus_each
    if num_workers or each:
        size = num_workers or _that_fit(gpus, each)
        return Pool(size=size, num_cpus=_share(cpus, size), num_gpus=each, threads=max(1, cpus // size))
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    sizes = [int(node["Resources"]["CPU"]) for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
    smallest = min(sizes, default=1)  # each worker books nearly all of a node, so that no node gets two
    return Pool(size=max(1, len(sizes)), num_cpus=max(0.5, smallest - 1.0), num_gpus=0, threads=smallest)


def has_gpus() -> bool:
    """Whether the cluster that was joined has a GPU now."""
    return _cluster()[1] > 0


def _that_fit(gpus: int, each: float) -> int:
    return max(1, int(gpus / each))


def _share(cpus: int, workers: int) -> float:
    """CPUs a worker books, so that the light tasks find room; a whole one of a cluster that starts at zero."""
    if cpus == 0:
        return 1.0
    return round(min(1.0, (cpus - (1.0 if cpus > 1 else 0.2)) / workers), 3)


def _cluster() -> tuple[int, int]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
