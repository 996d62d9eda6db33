"""The cluster that a job runs on: one of its own on this machine, or that of RAY_ADDRESS."""

from __future__ import annotations

import logging
import os
import signal
import threading
import warnings
from typing import Final

import ray
from ray.data import DataContext
from ray.data._internal.execution import metadata_fetcher

from pipelines.jobs.joining import join_or_start

_OBJECT_STORE_BYTES = 2**30  # of a local cluster: blocks are 16 photos, so this is plenty
_BLOCK_BYTES = 32 * 2**20  # of photos in flight
# Of a store that is busy or away for a moment, after its client's own retries. Batches are done again from their rows.
_TRANSIENT: Final = (
    "SlowDown",
    "InternalError",
    "503",
    "500 Internal",
    "timed out",
    "Connection reset",
    "NETWORK_CONN",
)
_held = 0.0


def held_cpus() -> float:
    """CPUs that others, such as an endpoint, had booked when this process joined their cluster; 0 of one of its own."""
    return _held


def connect() -> None:
    """Joins the cluster of RAY_ADDRESS, or starts one on this machine; nothing if there is one already.

    Raises ClusterError, within 20 s, if RAY_ADDRESS leads to no cluster.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False  # ours is one line
    context.execution_no_progress_timeout_s = -1  # a batch of training takes longer than any limit
    context.target_max_block_size = _BLOCK_BYTES
    context.retried_map_errors = list(_TRANSIENT)
    context.max_map_retries = 5
    context.raise_original_map_exception = True  # else what a worker raised is lost on its way, all but its text
    # Ray Data looks for finished tasks ten times a second. A thread that reads what is told of their blocks makes each
    # wait for another look before it goes on, and its worker's place for one more, though what it reads is here.
    # (RAY_DATA_METADATA_PREFETCH_ON_THREAD=0 in the environment, which is read when ray.data is imported.)
    metadata_fetcher._PREFETCH_ON_THREAD = False
    # of light tasks, where there is less to do than the bound allows
    warnings.filterwarnings("ignore", message="The maximum number of concurrent tasks")
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # an error is raised too, and told once
    if ray.is_initialized():
        return
    # The C++ part warns of what Ray Data itself does, and of every setting it is given.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # workers share cores: one that spins holds up the others
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    join_or_start(
        address="local",  # also where `ray start` runs here: that one is joined by RAY_ADDRESS=auto
        num_cpus=max(2, os.cpu_count() or 1),  # Ray Data needs room for a task beside the workers
        object_store_memory=_OBJECT_STORE_BYTES,
    )
    if os.environ.get("RAY_ADDRESS", "") not in ("", "local"):
        global _held
        total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
        _held = max(0.0, total.get("CPU", 0.0) - free.get("CPU", 0.0))
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # Ray's own prints a stack of C++
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # the terminal is closed; Slurm's time is over
            if signal.getsignal(number) is signal.SIG_DFL:  # else it is ignored, as by `nohup`, or somebody's own
                signal.signal(number, _stop)


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
