"""Which photos of SRC are still to be prepared: every file is read once for its id, before any model is loaded."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pyarrow as pa
import ray

from factory.pack import Pack
from factory.tables import Store, where_in
from pipelines.job import Summary, stream
from pipelines.progress import Progress
from pipelines.sources import CONTENT, find_places, hash_contents

_FILES: Final = 64  # files that one task reads


def find_new_photos(photos: str, store: Store, pack: Pack, summary: Summary) -> pa.Table:
    """CONTENT of the photos that no table knows yet, each once. Every file is read here once, for its id alone."""
    places = find_places(photos)
    same_pack = where_in("pack", [pack.name])
    known = set(store.read("faces", columns=["photo_id"], where=same_pack)["photo_id"].to_pylist())
    # Face rejects are no proof that their photo is done; photos that could not be read are tried again.
    known |= store.existing_ids("rejects", where=f"{same_pack} AND reason != 'unreadable'")
    chain = ray.data.from_arrow(work_units(places.table)).map_batches(
        hash_contents, batch_size=None, batch_format="pyarrow", num_cpus=1
    )
    fresh: list[pa.Table] = []
    seen: set[str] = set()
    with Progress("look for new photos", "photos", places.num_photos) as progress:
        for batch in stream(chain):
            keep = []
            for photo_id in batch["photo_id"].to_pylist():
                is_copy, is_known = photo_id in seen, photo_id in known
                summary.duplicates += is_copy and not is_known
                summary.skipped_existing += is_copy or is_known
                keep.append(not (is_copy or is_known))
                if photo_id is not None:
                    seen.add(photo_id)
            fresh.append(batch.filter(pa.array(keep, pa.bool_())))
            progress.add(batch.num_rows)
    summary.photos += places.num_photos
    rows = pa.concat_tables([CONTENT.empty_table(), *fresh])
    return rows.sort_by([("uri", "ascending"), ("row_group", "ascending"), ("row", "ascending")])


def work_units(rows: pa.Table) -> list[pa.Table]:
    """Units of work: a Parquet row group, which is decoded once, or some files."""
    keys = zip(rows["uri"].to_pylist(), rows["row_group"].to_pylist(), strict=True)
    units = [(uri, group) if group >= 0 else row // _FILES for row, (uri, group) in enumerate(keys)]
    starts = [row for row, unit in enumerate(units) if row == 0 or unit != units[row - 1]]
    return [rows.slice(start, end - start) for start, end in pairwise([*starts, len(units)])]
