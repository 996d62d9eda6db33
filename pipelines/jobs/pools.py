"""How many workers of which kind a job gets, and what each books of the cluster."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any, Final

import ray
from ray.data import ActorPoolStrategy, TaskPoolStrategy

from factory.pack import Pack
from pipelines.jobs.cluster import held_cpus

_WORKERS_A_CPU: Final = 4  # at most, on a machine by itself
LIGHT: Final = 0.1  # logical CPUs of a task that reads or commits; it must find room beside the workers
_ENDPOINT: Final = 0.5  # logical CPUs of an endpoint with all of its parts (serve/settings.py)
_IN_HAND: Final = 6  # batches at a worker, the one it is at among them: Ray Data gives more ten times a second


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """What a user says of the workers that hold models."""

    num: int | None = None  # None: one per GPU, or core, as memory and the rows allow
    gpus: float | None = None  # what each takes of a GPU; None: 1 where the cluster has any now. An autoscaled one may
    # have none yet: say it there

    def __post_init__(self) -> None:
        """Raises ValueError for what no cluster can give."""
        if self.num is not None and self.num < 1:
            raise ValueError(f"{self.num} workers do nothing; give 1 or more")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or float(self.gpus).is_integer()):
            raise ValueError(f"a worker takes part of a GPU (0 to 1), or whole ones, not {self.gpus:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """A pool of workers of one kind. CPUs are Ray's bookkeeping; `threads` is what a worker really uses."""

    size: int  # at most, and at first
    num_cpus: float  # of each
    num_gpus: float  # of each; 0.5: two share a GPU
    threads: int
    steady: bool = False  # for tasks of minutes: all workers stay, and none has a task that waits for it alone
    at_once: int = 1  # batches that a worker has in hand, each in a thread

    @property
    def device(self) -> str:
        """Torch's name of what a worker computes on."""
        return "cuda" if self.num_gpus else "cpu"

    @property
    def strategy(self) -> ActorPoolStrategy:
        """The pool in Ray's words: unless it is steady, it shrinks while there is less to do, and grows back."""
        if self.at_once > 1:
            return ActorPoolStrategy(
                size=self.size, max_concurrent_calls_per_actor=self.at_once, enable_true_multi_threading=True
            )
        if self.steady:
            return ActorPoolStrategy(size=self.size, max_tasks_in_flight_per_actor=1)
        return ActorPoolStrategy(
            min_size=1, max_size=self.size, initial_size=self.size, max_tasks_in_flight_per_actor=_IN_HAND
        )


def light_tasks() -> TaskPoolStrategy:
    """Tasks of a stage: of an only node no more at once than it has CPUs, as each is a process of its own, which takes
    two seconds of a CPU to start. Where nodes may come and go as many as find room."""
    nodes = _nodes()
    return TaskPoolStrategy(max(2, int(nodes[0]["CPU"])) if len(nodes) == 1 else None)


def cpu_and_model_pools(workers: Workers) -> tuple[Pool, Pool]:
    """Two pools that run side by side: CPU work, and models on GPUs where there are any; half of the CPUs each else.
    Raises ValueError for more workers than this machine can start, or more GPUs than it has."""
    cpus, gpus = _cluster()
    _check_own(workers, cpus, gpus)
    each = min(gpus, 1) if workers.gpus is None else workers.gpus
    models = workers.num or (_that_fit(gpus, each) if each else max(1, cpus // 2))
    others = max(1, cpus - models)
    share = _share(cpus, models + others)
    threads = max(1, cpus // (models + others))
    return (
        Pool(size=others, num_cpus=share, num_gpus=0, threads=threads),
        Pool(size=models, num_cpus=share, num_gpus=each, threads=threads),
    )


def model_pool(workers: Workers, *, at_most: int, pack: Pack) -> Pool:
    """One pool with the cluster to itself: as many workers as find GPUs, where there are any; else one a core, but no
    more than find memory for a base model each. `at_most` workers would have enough to do.

    Two threads on a batch wait for each other: two workers of a thread each do a quarter more (docs/log.md). Raises
    ValueError as `cpu_and_model_pools`.
    """
    cpus, gpus = _cluster()
    _check_own(workers, cpus, gpus)
    each = min(gpus, 1) if workers.gpus is None else workers.gpus
    if workers.num or each:
        size = workers.num or _that_fit(gpus, each)
        share, threads = _share(cpus, size), max(1, cpus // size)
        return Pool(size=size, num_cpus=share, num_gpus=each, threads=threads, steady=True)
    nodes = _nodes()
    smallest = min((int(node["CPU"]) for node in nodes), default=1)
    memory = min((node.get("memory", 0.0) for node in nodes), default=0.0)
    here = max(1, min(smallest, int(memory / _worker_bytes(pack)), -(-at_most // max(1, len(nodes)))))
    threads = smallest // here
    size = max(1, min(at_most, sum(int(node["CPU"]) // threads for node in nodes)))
    share = max(0.5, smallest - 1.0) / here  # together nearly all of a node: no node gets more than its share
    share = min(share, _share(cpus, size))
    return Pool(size=size, num_cpus=share, num_gpus=0, threads=threads, steady=True)


def _check_own(workers: Workers, cpus: int, gpus: int) -> None:
    """Of a cluster of this machine alone, which gets no more nodes: each worker is a process that loads its models, and
    one that books a GPU which is not there would be waited for, for ever."""
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        return
    if workers.gpus is not None and workers.gpus > gpus:
        there = f"{gpus} GPUs" if gpus else "no GPU"
        raise ValueError(f"--gpus {workers.gpus:g}: Ray finds {there} on this machine; leave it out, or take --gpus 0")
    most = _WORKERS_A_CPU * max(1, cpus)
    if (workers.num or 0) > most:
        raise ValueError(
            f"--workers {workers.num}: this machine has {cpus} CPUs, and starts at most {most} workers; leave it out"
        )


def _nodes() -> list[dict[str, float]]:
    """The resources of each node that has a CPU."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]


def _worker_bytes(pack: Pack) -> float:
    """What a worker on a CPU may need: Python with torch, the base model in float32 (it is stored in half of that), and
    as much again for a batch."""
    return 1e9 + 4 * sum(file.stat().st_size for file in pack.folder(pack.base).rglob("*.safetensors"))


def _that_fit(gpus: int, each: float) -> int:
    return max(1, int(gpus / each))


def _share(cpus: int, workers: int) -> float:
    """CPUs a worker books at most, so that on each node two tasks that read and the process that commits find room
    beside as many workers as it has CPUs; a whole one of a cluster that starts at zero. An only node keeps room for an
    endpoint, too, or for what others hold of it. (Of several nodes no one may get more workers than it has CPUs, so
    there an endpoint or a job may have to wait.)"""
    if cpus == 0:
        return 1.0
    nodes = max(1, len(_nodes()))
    others = max(_ENDPOINT, held_cpus()) if nodes == 1 else 0.0
    left = max(0.01 * workers, cpus - others - 3 * LIGHT * nodes)
    return math.floor(1000 * min(1.0, left / workers)) / 1000


def _cluster() -> tuple[int, int]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
