"""The cluster that a job runs on: one of its own on this machine, or that of RAY_ADDRESS."""

from __future__ import annotations

import logging
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import ray
from ray.data import DataContext
from ray.data._internal.execution import metadata_fetcher
from ray.exceptions import AuthenticationError, RayError

from factory.errors import ClusterError
from factory.limits import why_not
from factory.storage import STORAGE

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
_CONNECT_S: Final = 6.0  # for a port that does not answer at all
_LIMIT_S: Final = 14.0  # for a port behind which there may be no Ray; with the one before, 20 s
_LEAST_MAPPED: Final = 2**33  # bytes
_ASK: Final = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_CODE: Final = Path(__file__).parents[2]  # where `pipelines` and `factory` are


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
    address = os.environ.get("RAY_ADDRESS", "")
    with _silent_stderr(), _in_folder(_CODE):  # workers import what lies in the driver's folder: not in the user's
        if address not in ("", "local"):
            _join(address)
        else:
            _start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # Ray's own prints a stack of C++
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):  # the terminal is closed; Slurm's time is over
            if signal.getsignal(number) is signal.SIG_DFL:  # else it is ignored, as by `nohup`, or somebody's own
                signal.signal(number, _stop)


def _start() -> None:
    """Raises ClusterError."""
    if 0 <= resource.getrlimit(resource.RLIMIT_AS)[0] < _LEAST_MAPPED:  # else Ray's C++ ends the process without a word
        raise ClusterError("Ray maps more memory than this shell allows: raise its limit (ulimit -v unlimited)")
    try:
        ray.init(
            address="local",  # also where `ray start` runs here: that one is joined by RAY_ADDRESS=auto
            num_cpus=max(2, os.cpu_count() or 1),  # Ray Data needs room for a task beside the workers
            object_store_memory=_OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (OSError, ValueError, RuntimeError, RayError) as error:
        raise ClusterError(f"Ray cannot start on this machine{why_not(error) or f': {_line(error)}'}") from error
    except SystemExit as error:  # as it ends a program where one of its processes does not come up
        raise ClusterError(f"Ray cannot start on this machine{why_not()}") from error
    except Exception as error:  # of no kind of its own: Ray's processes have half a minute
        if "timed out" not in str(error):
            raise
        why = why_not() or ": this machine is too busy just now; try again"
        raise ClusterError(f"Ray did not start in time{why}") from error


def _stop(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _join(address: str) -> None:
    """Raises ClusterError."""
    remedy = "start that cluster, correct RAY_ADDRESS, or unset it for a cluster of the job's own on this machine"
    if address != "auto" and (fault := _no_cluster(address)):
        raise ClusterError(f"RAY_ADDRESS={address}: {fault}; {remedy}")
    try:
        said = os.environ.get(STORAGE)  # workers have their node's environment, not this one
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": {STORAGE: said}} if said else None,
        )
    except AuthenticationError:
        raise ClusterError(f"RAY_ADDRESS={address}: {TOKEN}") from None
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            raise ClusterError(
                "RAY_ADDRESS=auto, and no Ray cluster runs on this machine; `ray start --head` starts one, or unset "
                "RAY_ADDRESS for a cluster of the job's own"
            ) from None
        raise ClusterError(f"RAY_ADDRESS={address}: {_line(error)}; {remedy}") from error
    global _held
    total, free = ray.cluster_resources(), ray.available_resources()  # type: ignore[no-untyped-call]
    _held = max(0.0, total.get("CPU", 0.0) - free.get("CPU", 0.0))


TOKEN: Final = (
    "the cluster asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or the file ~/.ray/auth_token) to the "
    "cluster's own"
)


def _no_cluster(address: str) -> str:
    """Why there can be no cluster at an address; empty if there is one, or it cannot be told from here."""
    if address.startswith(("http://", "https://")):
        return "that is a dashboard's, which `submit --address` takes; a cluster is joined at HOST:PORT, often 6379"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return "an address is HOST:PORT, ray://HOST:PORT or auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return f"nobody answers there ({error})"
    if address.startswith("ray://"):  # it has a limit of its own
        return ""
    # In a process of its own: Ray reads its limits once, when it is imported, and has no other.
    limits = {"RAY_py_gcs_connect_timeout_s": "3", "PYTHONSAFEPATH": "1"}
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, address],
            env={**os.environ, **limits},
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
        )
    except subprocess.TimeoutExpired:
        return "no Ray cluster answers there"
    if asked.returncode == 0:
        return ""
    return TOKEN if "Authentication" in asked.stderr else "no Ray cluster answers there"


@contextmanager
def _in_folder(folder: Path) -> Iterator[None]:
    """Also where the current folder was removed, or may not be read."""
    before = os.open(".", os.O_PATH)
    os.chdir(folder)
    try:
        yield
    finally:
        os.fchdir(before)
        os.close(before)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Nothing reaches the terminal meanwhile, C++ code included. Exceptions do."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
