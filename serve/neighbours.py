"""What else a Ray serves already: of ours one endpoint, and perhaps applications of other people's.

Serve has one application of a name and one port on a cluster: who deploys another takes the first one's place, with its
root and without its keys.
"""

from __future__ import annotations

import socket
from contextlib import closing
from http.client import HTTPConnection
from typing import Final

from ray import serve as ray_serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

APP_NAME: Final = "identity-factory"
_ASKED_S: Final = 10.0  # for a replica to tell what it serves


def check_alone(root: str, host: str, port: int) -> None:
    """Raises OSError if this Ray serves another root, or this one by another port. The same at the same port is what
    somebody left who was killed: it is taken over."""
    if APP_NAME not in ray_serve.status().applications:
        return
    theirs = _root_of_running()
    if theirs == root and answers(host, port):
        return
    remedy = (
        "end that one (`serve shutdown` ends all that this Ray serves), or set RAY_ADDRESS=local for a Ray of its own"
    )
    of_whom = "this root by another port" if theirs == root else theirs or "a root of its own"
    raise OSError(f"this Ray serves {of_whom} already, and one endpoint is all that it can have: {remedy}")


def check_listens(host: str, port: int) -> None:
    """Raises OSError if Serve, which somebody else may have started, listens elsewhere."""
    try:
        socket.create_connection(
            (_here(host), port), timeout=_ASKED_S
        ).close()  # /-/healthz is 503 without routes
    except OSError:
        raise OSError(
            f"{host}:{port} does not answer: this Ray serves elsewhere; take that --host and --port, or set "
            "RAY_ADDRESS=local for a Ray of its own"
        ) from None


def end() -> None:
    """Ends our application, and Serve itself unless somebody else's applications run there."""
    names = set(ray_serve.status().applications)
    if names <= {APP_NAME}:
        ray_serve.shutdown()  # type: ignore[no-untyped-call]
    elif APP_NAME in names:
        ray_serve.delete(APP_NAME)


def answers(host: str, port: int) -> bool:
    """Whether an endpoint of ours does, within 10 seconds."""
    # http.client uses no proxy of the environment
    with closing(HTTPConnection(_here(host), port, timeout=_ASKED_S)) as connection:
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == 200
        except OSError:  # refused, reset, or no answer in time
            return False


def _here(host: str) -> str:
    return "127.0.0.1" if host == "0.0.0.0" else host


def _root_of_running() -> str:
    """Empty if nobody tells."""
    try:
        root: str = ray_serve.get_app_handle(APP_NAME).served_root.remote().result(timeout_s=_ASKED_S)
        return root
    except (RayError, RayServeException, TimeoutError):
        return ""
