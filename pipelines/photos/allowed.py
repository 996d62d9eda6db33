"""Where a tenant's Parquet may say that photos are: beside itself, and below the operator's prefixes.

An operator's own jobs read whatever their rows name, with the rights of whoever started them. A tenant writes its own
rows: without this it would have any file and bucket read that the operator can, and see the faces in it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import unquote

from factory.files import local_path, operator_root
from factory.storage import scheme_of
from factory.store.policy import read_policy


@dataclass(frozen=True, slots=True)
class Allowed:
    """Prefixes, beside the place of the rows themselves."""

    prefixes: tuple[str, ...] = ()

    @classmethod
    def of(cls, root: str) -> Allowed | None:
        """What jobs on a root may read; None: anything, as it is an operator's own."""
        return None if operator_root(root) == root else cls(tuple(read_policy(root).uri_prefixes))

    def holds(self, uri: str, parquet: str) -> bool:
        """Whether a row of this Parquet file may name this path or uri. Links are followed first; a uri with "..",
        which stores read in their own ways, may not be named."""
        if scheme_of(uri) and ".." in unquote(uri):
            return False
        place = f"{_real(uri)}/"
        return any(place.startswith(f"{_real(prefix)}/") for prefix in (parquet.rpartition("/")[0], *self.prefixes))


def _real(uri: str) -> str:
    return uri.rstrip("/") if scheme_of(uri) else os.path.realpath(local_path(uri))
