"""Which pieces of work the table still has, asked often."""

from __future__ import annotations

from collections.abc import Sequence

from factory.store.queries import work_rows
from factory.store.tables import Store


class Present:
    """Reads the table only when it has another version: whoever waits asks several times a second."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._seen = -1, frozenset[str]()  # a version, and which of those that were asked for it has

    def among(self, work_ids: Sequence[str]) -> frozenset[str]:
        """Those of these pieces that are there; one that was not asked for when this version was read may be left
        out."""
        table = self._store.open("work")
        version = 0 if table is None else int(table.version)
        if version != self._seen[0]:
            self._seen = version, frozenset(row["work_id"] for row in work_rows(self._store, work_ids))
        return self._seen[1]
