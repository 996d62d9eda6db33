"""Photos on their way to the workers, packed in batches of few rows and few bytes.

Ray Data counts rows where it cuts blocks for workers: sixteen scans of 42 MB would be a block that no local object
store holds, and what does not fit goes over the disk. So a batch travels as one row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from factory.faces.isolated import Isolated, packed
from pipelines.photos.sources import PHOTO, read_rows

BATCH: Final = 16  # photos: what is read, worked on and committed together
_BYTES: Final = 32 * 2**20  # of photos: with these a batch is full
PACKED: Final = pa.schema([("batch", pa.large_binary())])  # PHOTO in Arrow's stream format


def read_batches(contents: pa.Table, **how: Any) -> Iterator[pa.Table]:
    """CONTENT -> PACKED, one row at a time: up to BATCH photos, or 32 MB of them and the rest of the last one.

    `how` is `read_rows`'s: max_bytes, require_consent, allowed, sources.
    """
    waiting, num_bytes = list[dict[str, Any]](), 0
    for photo in read_rows(contents, **how):
        waiting.append(photo)
        num_bytes += len(photo["image"] or b"")
        if len(waiting) == BATCH or num_bytes >= _BYTES:
            yield _row(waiting)
            waiting, num_bytes = [], 0
    if waiting:
        yield _row(waiting)


def _row(photos: list[dict[str, Any]]) -> pa.Table:
    return pa.table({"batch": [packed(pa.Table.from_pylist(photos, PHOTO))]}, schema=PACKED)


class IsolatedBatches(Isolated):
    """`Isolated` on rows that are a batch each."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        """PACKED -> the stage's output for all of the photos."""
        return pa.concat_tables(
            self._run(pa.ipc.open_stream(row.as_buffer()).read_all()) for row in batch["batch"].combine_chunks()
        )
