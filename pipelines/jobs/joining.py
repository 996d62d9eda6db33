"""Ray's processes: joined where RAY_ADDRESS says, or started on this machine; whatever hinders that in one line."""

from __future__ import annotations

import logging
import os
import re
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray
from ray.exceptions import AuthenticationError, RayError

from factory.errors import ClusterError
from factory.limits import set_ray_folder, why_not
from factory.storage import PHOTOS_STORAGE, STORAGE
from pipelines.jobs.memory import short_of_memory

_CONNECT_S: Final = 6.0  # for a port that does not answer at all
_LIMIT_S: Final = 14.0  # for a port behind which there may be no Ray; with the one before, 20 s
_LEAST_MAPPED: Final = 2**33  # bytes
_ASK: Final = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1])"
_CODE: Final = Path(__file__).parents[2]  # where `pipelines` and `factory` are
TOKEN: Final = (
    "the cluster asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN (or the file ~/.ray/auth_token) to the "
    "cluster's own"
)


def join_or_start(**settings: Any) -> None:
    """Joins the cluster of RAY_ADDRESS; where that names none, `ray.init(**settings)`, which without an `address` joins
    what runs on this machine already, and else starts it.

    Raises ClusterError: nobody answers within 20 s, a token is lacking, Ray's or Python's version is another one, or
    this machine's limits do not let Ray start.
    """
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        set_ray_folder()
    with _silent_stderr(), _in_folder(_CODE):  # workers import what lies in the driver's folder: not in the user's
        if address in ("", "local"):
            _start(**settings)
        else:
            _join(address)


def _start(**settings: Any) -> None:
    """Raises ClusterError."""
    if 0 <= resource.getrlimit(resource.RLIMIT_AS)[0] < _LEAST_MAPPED:  # else Ray's C++ ends the process without a word
        raise ClusterError("Ray maps more memory than this shell allows: raise its limit (ulimit -v unlimited)")
    if short := short_of_memory():
        raise ClusterError(short)
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR, **settings)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        if versions := _versions(error):  # of one that runs here already
            raise ClusterError(f"a Ray cluster runs on this machine: {versions}, or set RAY_ADDRESS=local") from error
        raise ClusterError(f"Ray cannot start on this machine{why_not(error) or f': {_line(error)}'}") from error
    except SystemExit as error:  # as it ends a program where one of its processes does not come up
        raise ClusterError(f"Ray cannot start on this machine{why_not()}") from error
    except Exception as error:  # of no kind of its own: Ray's processes have half a minute
        if "timed out" not in str(error):
            raise
        why = why_not() or ": this machine is too busy just now; try again"
        raise ClusterError(f"Ray did not start in time{why}") from error


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]


def _join(address: str) -> None:
    """Raises ClusterError."""
    remedy = "start that cluster, correct RAY_ADDRESS, or unset it for a cluster of the job's own on this machine"
    if address != "auto" and (fault := _no_cluster(address)):
        raise ClusterError(f"RAY_ADDRESS={address}: {fault}; {remedy}")
    try:
        ours = {name: os.environ[name] for name in (STORAGE, PHOTOS_STORAGE) if os.environ.get(name)}
        ray.init(
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env={"env_vars": ours} if ours else None,  # workers have their node's environment, not this one
        )
    except AuthenticationError:
        raise ClusterError(f"RAY_ADDRESS={address}: {TOKEN}") from None
    except (ConnectionError, ValueError, RuntimeError, RayError) as error:
        if address == "auto" and isinstance(error, ConnectionError):
            raise ClusterError(
                "RAY_ADDRESS=auto, and no Ray cluster runs on this machine; `ray start --head` starts one, or unset "
                "RAY_ADDRESS for a cluster of the job's own"
            ) from None
        versions = _versions(error)
        said = f"{versions}, or unset RAY_ADDRESS" if versions else f"{_line(error)}; {remedy}"
        raise ClusterError(f"RAY_ADDRESS={address}: {said}") from error


def _versions(error: BaseException) -> str:
    """What to do about a cluster of another version of Ray or Python, both of which must be the same; else empty."""
    rays, pythons = (re.findall(rf"{name}: (\S+)", str(error)) for name in ("Ray", "Python"))
    if "Version mismatch" not in str(error) or len(rays) != 2 or len(pythons) != 2:
        return ""
    return (
        f"it has Ray {rays[0]} and Python {pythons[0]}, this program Ray {rays[1]} and Python {pythons[1]}: start it "
        "from this program's environment, on every node"
    )


def _no_cluster(address: str) -> str:
    """Why there can be no cluster at an address; empty if there is one, or it cannot be told from here."""
    if address.startswith(("http://", "https://")):
        return "that is a dashboard's, which `submit --address` takes; a cluster is joined at HOST:PORT, often 6379"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        return "an address is HOST:PORT or auto"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return f"nobody answers there ({error})"
    if address.startswith("ray://"):
        return (
            "through Ray Client neither jobs nor endpoints run; give the cluster's own HOST:PORT, often 6379 (on its "
            "nodes: auto), or `submit` the job to its dashboard"
        )
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
