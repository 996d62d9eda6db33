"""Who commits for several ingress replicas: one actor, as theirs would collide at the tables of work and files."""

from __future__ import annotations

import time
from typing import Any, Final

import pyarrow as pa
import ray
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException

from factory.ids import short_hash
from factory.store.committer import Committer, HandingStore
from factory.store.schemas import Table
from factory.store.tables import Store

_WAITING: Final = 10_000  # calls at once
_TRIES: Final = 10
_BETWEEN_S: Final = 0.5


def shared_store(root: str) -> Store:
    """The store of a root as an ingress is to have it: of several, with one committer; one alone commits by itself."""
    try:
        num = ray_serve.get_replica_context().world_size
    except RayServeException:  # no replica: an app by itself
        num = 1
    return HandingStore(root, NamedCommitter(root)) if num > 1 else Store(root)


class NamedCommitter:
    """Hands rows to the one committer of a root, which whoever finds none begins. It ends with who began it; then the
    next call begins another one."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._actor: Any = None

    def __call__(self, table: Table, rows: pa.Table, where: str | None) -> None:
        """Returns when they are committed; raises what the commit raises, RayActorError if no actor stays alive."""
        for attempt in range(_TRIES):
            try:
                actor = self._actor = self._actor or self._begun()
                ray.get(actor.commit.remote(table, rows, where))
                return
            except RayActorError:
                if attempt == _TRIES - 1:
                    raise
                self._actor = None
                time.sleep(_BETWEEN_S)

    def _begun(self) -> Any:
        actor: Any = ray.remote(Committer)
        name = f"identity-factory-committer-{short_hash([self._root])}"
        how = {"name": name, "get_if_exists": True, "num_cpus": 0, "max_concurrency": _WAITING}
        return actor.options(**how).remote(self._root)
