"""Which photos of SRC are still to be prepared: every file is read once for its id, before any model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import pyarrow as pa

from factory.ids import photo_name_of
from factory.pack import Pack
from factory.store.queries import faces_of_pack, rejects_of_prepare
from factory.store.tables import Store
from factory.store.tombstones import Tombstones
from pipelines.jobs.job import Summary
from pipelines.jobs.progress import Progress
from pipelines.jobs.stage import Stage, stream
from pipelines.photos.sources import CONTENT, Places, hash_contents

_FILES: Final = 64  # files that one task reads


def find_new_photos(
    places: Places, store: Store, pack: Pack, summary: Summary, retry: Sequence[str] | None = None
) -> tuple[pa.Table, list[str]]:
    """CONTENT of the photos to prepare, each once. Every file is read here once, for its id alone.

    That is those which no table knows, or with `retry` those that were refused for one of these reasons. Names under
    which a photo comes again are kept in `names`. Also the ids of rejects of photos that can be read again: they are to
    go once these photos have other rows, else an interrupted retry would forget them.
    """
    known = _known_photos(store, pack, retry)
    fresh: list[pa.Table] = []
    with Progress("look for new photos", "photos", places.num_photos) as progress:
        for batch in stream(work_units(places.table), Stage(hash_contents, num_cpus=1)):
            wanted = [known.wants(row) for row in batch.select(["photo_id", "name", "source_id"]).to_pylist()]
            fresh.append(batch.filter(pa.array(wanted, pa.bool_())))
            progress.add(batch.num_rows)
    # sorted before the first of several copies is taken: it gives the photo its name, the same one at each run
    rows = pa.concat_tables([CONTENT.empty_table(), *fresh]).sort_by(
        [("uri", "ascending"), ("row_group", "ascending"), ("first_row", "ascending"), ("row", "ascending")]
    )
    first = [known.is_first(row) for row in rows.select(["photo_id", "name"]).to_pylist()]
    summary.photos += places.num_photos
    summary.left_out = dict(places.left_out)
    summary.duplicates += len(first) - sum(first)
    summary.skipped_existing += places.num_photos - sum(first)
    store.upsert("names", [{"photo_id": photo_id, "name": name} for photo_id, name in sorted(known.more_names)])
    return rows.filter(pa.array(first, pa.bool_())), sorted(known.recovered)


@dataclass(slots=True, kw_only=True)
class _Known:
    """What the tables know, and what is found out about the input."""

    photo_ids: set[str]  # prepared by this pack, or refused
    names: set[tuple[str, str]]  # (photo_id, name)
    unreadable: set[str]  # source_ids of rejects
    tombstones: Tombstones
    retried: set[str] | None  # photo_ids and source_ids; None: whatever is new
    seen: set[str] = field(default_factory=set)
    more_names: set[tuple[str, str]] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)  # source_ids of rejects that can be read again

    def wants(self, row: dict[str, Any]) -> bool:
        """Whether a photo is to be prepared, copies included."""
        photo_id, source_id = row["photo_id"], row["source_id"]
        if photo_id is None:  # what could not be read is tried at each run
            return self.retried is None or source_id in self.retried
        if self.tombstones.hold_photo(photo_id):
            return False
        done = photo_id in self.photo_ids
        if done and (photo_id, row["name"]) not in self.names:
            self.more_names.add((photo_id, row["name"]))
        retried = self.retried is not None and (photo_id in self.retried or source_id in self.retried)
        wanted = not done if self.retried is None else retried
        if source_id in self.unreadable and (done or wanted):  # else its old reject is all that tells of it
            self.recovered.add(source_id)
        return wanted

    def is_first(self, row: dict[str, Any]) -> bool:
        """Whether a wanted photo is the first of its copies."""
        photo_id = row["photo_id"]
        if photo_id is None:
            return True
        if photo_id in self.seen:
            if (photo_id, row["name"]) not in self.names:
                self.more_names.add((photo_id, row["name"]))
            return False
        self.seen.add(photo_id)
        self.names.add((photo_id, row["name"]))
        return True


def _known_photos(store: Store, pack: Pack, retry: Sequence[str] | None) -> _Known:
    faces = faces_of_pack(store, pack.name, ["photo_id", "name", "face_index"]).to_pylist()
    rejects = rejects_of_prepare(store, pack.name, ["reject_id", "photo_id", "name", "reason"]).to_pylist()
    named = {(row["photo_id"], photo_name_of(row["name"], row["face_index"])) for row in faces if row["face_index"]}
    named |= {(row["photo_id"], row["name"]) for row in [*(face for face in faces if not face["face_index"]), *rejects]}
    named |= {(row["photo_id"], row["name"]) for row in store.read("names").to_pylist()}
    retried = [row for row in rejects if row["reason"] in (retry or ())]
    return _Known(
        # Face rejects are no proof that their photo is done.
        photo_ids={row["photo_id"] for row in faces}
        | {row["photo_id"] for row in rejects if row["reject_id"] == row["photo_id"]},
        names=named,
        unreadable={row["reject_id"] for row in rejects if not row["photo_id"]},
        tombstones=store.tombstones(),
        retried=None if retry is None else {row["photo_id"] or row["reject_id"] for row in retried},
    )


def work_units(rows: pa.Table) -> list[pa.Table]:
    """Units of work: a Parquet row group, which is decoded once, or some files."""
    keys = zip(rows["uri"].to_pylist(), rows["row_group"].to_pylist(), strict=True)
    units = [(uri, group) if group >= 0 else row // _FILES for row, (uri, group) in enumerate(keys)]
    starts = [row for row, unit in enumerate(units) if row == 0 or unit != units[row - 1]]
    return [rows.slice(start, end - start) for start, end in pairwise([*starts, len(units)])]
