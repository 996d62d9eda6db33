"""Which photos of SRC are still to be prepared: every file is read once for its id, before any model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from itertools import pairwise
from typing import Final

import numpy as np
import pyarrow as pa

from factory.ids import unread_photo_id
from factory.pack import Pack
from factory.store.digests import DigestSet, digests, pairs
from factory.store.known import prepared
from factory.store.queries import rejects_of_prepare
from factory.store.tables import Store
from factory.store.told import photos_of_nobody, tell, uploaded_photos
from factory.store.tombstones import Tombstones
from pipelines.jobs.job import Summary
from pipelines.jobs.progress import Progress
from pipelines.jobs.stage import Stage, stream
from pipelines.photos.alike import by_own_names
from pipelines.photos.allowed import Allowed
from pipelines.photos.changes import Changes
from pipelines.photos.places import Places
from pipelines.photos.sources import CONTENT, hash_contents

_FILES: Final = 64  # files that one task reads


def find_new_photos(
    places: Places, store: Store, pack: Pack, summary: Summary, retry: Sequence[str] | None = None
) -> tuple[pa.Table, list[str]]:
    """CONTENT of the photos to prepare, each once. Every file is read here once, for its id alone.

    That is those which no table knows, or with `retry` those that were refused for one of these reasons. Names under
    which a photo comes again are kept in `names`. Also the ids of rejects of photos that can be read again: they are to
    go once these photos have other rows, else an interrupted retry would forget them.
    """
    known, changes = _known_photos(store, pack, retry), Changes(store, pack.name)
    fresh: list[pa.Table] = []
    hashing = Stage(partial(hash_contents, allowed=Allowed.of(store.root), sources=places.sources), num_cpus=1)
    with Progress("look for new photos", "photos", places.num_photos) as progress:
        for content in stream(work_units(places.table), hashing):
            batch = known.told_apart(places.alike.told_apart(content))
            changes.look(batch)
            if wanted := known.wanted(batch):
                fresh.append(batch.take(pa.array(wanted, pa.int64())))
            progress.add(batch.num_rows)
    # sorted before the first of several copies is taken: it gives the photo its name, the same one at each run
    rows = pa.concat_tables([CONTENT.empty_table(), *fresh]).sort_by(
        [("uri", "ascending"), ("row_group", "ascending"), ("first_row", "ascending"), ("row", "ascending")]
    )
    first = known.first_copies(rows)
    changes.tell(summary, rows)
    summary.photos += places.num_photos
    summary.left_out, summary.told = dict(places.left_out), places.told
    summary.duplicates += rows.num_rows - len(first)
    summary.skipped_existing += places.num_photos - len(first)
    store.upsert("names", [{"photo_id": photo_id, "name": name} for photo_id, name in sorted(known.more_names)])
    tell(store, pack.name, known.told)
    return rows.take(pa.array(first, pa.int64())), sorted(known.recovered)


@dataclass(slots=True, kw_only=True)
class _Known:
    """What the tables know, 48 bytes a photo at most, and what is found out about the input."""

    photo_ids: DigestSet  # prepared by this pack, or refused
    names: DigestSet  # of (photo_id, name)
    as_faces: DigestSet  # names by which a new photo, or a face of it, would be called as somebody who is there
    uploads: DigestSet  # photo_ids of photos that no job found yet
    nobodys: Callable[[], DigestSet]  # photo_ids of photos with faces whose person is not known
    unreadable: set[str]  # source_ids of rejects
    tombstones: Tombstones
    retried: set[str] | None  # photo_ids and source_ids; None: whatever is new
    more_names: set[tuple[str, str]] = field(default_factory=set)
    recovered: set[str] = field(default_factory=set)  # source_ids of rejects that can be read again
    told: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # photo_id: where such a photo is, and whose

    def told_apart(self, content: pa.Table) -> pa.Table:
        """CONTENT in which no photo that is new by its name is called as a second face that is there, nor one of its
        own would be called as a photo that is there."""
        names = content["name"].to_pylist()
        taken = self.as_faces.hold(digests(names))
        ids = (an_id or "" for an_id in content["photo_id"].to_pylist())
        return by_own_names(content, taken & ~self.names.hold(digests(pairs(ids, names)))) if taken.any() else content

    def wanted(self, batch: pa.Table) -> list[int]:
        """Numbers of the rows of CONTENT that are to be prepared, copies included."""
        ids, names, places, persons = (batch[name].to_pylist() for name in ("photo_id", "name", "where", "person"))
        texts = [an_id or "" for an_id in ids]
        each = digests(texts)
        done, named = self.photo_ids.hold(each), self.names.hold(digests(pairs(texts, names)))
        news = self.uploads.hold(each)
        if any(person is not None for person in persons):
            news |= np.array([person is not None for person in persons], bool) & self.nobodys().hold(each)
        over = done & named & ~news
        if self.retried is not None or self.unreadable:  # else what is known altogether is not looked at again
            over[:] = False
        rows = [int(number) for number in np.flatnonzero(~over)]
        for row in (row for row in rows if news[row]):
            self._keep_told(ids[row], places[row], persons[row])
        return [
            row
            for row in rows
            if self._wants(ids[row], names[row], places[row], done=bool(done[row]), named=bool(named[row]))
        ]

    def _keep_told(self, photo_id: str, place: str, person: str | None) -> None:
        _, before = self.told.get(photo_id, (place, None))
        self.told[photo_id] = place, before or person
        if person is not None:
            self.more_names.add((photo_id, person))  # who was learned from it alone is called so, too

    def _wants(self, photo_id: str | None, name: str, place: str, *, done: bool, named: bool) -> bool:
        source_id = unread_photo_id(place)
        if photo_id is None:  # what could not be read is tried at each run
            return self.retried is None or source_id in self.retried
        if self.tombstones.hold_photo(photo_id):
            return False
        if done and not named:
            self.more_names.add((photo_id, name))
        retried = self.retried is not None and (photo_id in self.retried or source_id in self.retried)
        wanted = not done if self.retried is None else retried
        if source_id in self.unreadable and (done or wanted):  # else its old reject is all that tells of it
            self.recovered.add(source_id)
        return wanted

    def first_copies(self, rows: pa.Table) -> list[int]:
        """Numbers of wanted rows without the later ones of several copies, whose names are kept."""
        ids, names, persons = (rows[name].to_pylist() for name in ("photo_id", "name", "person"))
        chosen: dict[str, int] = {}
        for row, photo_id in enumerate(ids):
            before = chosen.setdefault(photo_id, row)
            if persons[before] is None and persons[row] is not None:  # of copies, one that tells whose they are
                chosen[photo_id] = row
        first = [row for row, photo_id in enumerate(ids) if photo_id is None or chosen[photo_id] == row]
        later = sorted(set(range(len(ids))) - set(first))
        named = self.names.hold(digests(pairs((ids[row] for row in later), (names[row] for row in later))))
        for row, is_named in zip(later, named, strict=True):
            if not is_named and names[chosen[ids[row]]] != names[row]:
                self.more_names.add((ids[row], names[row]))
        return first


def _known_photos(store: Store, pack: Pack, retry: Sequence[str] | None) -> _Known:
    photo_ids, names, as_faces = prepared(store, pack.name)
    columns = ["reject_id", "photo_id", "reason"]
    rejects = rejects_of_prepare(store, pack.name, columns, unreadable=not retry).to_pylist()
    retried = [row for row in rejects if row["reason"] in (retry or ())]
    return _Known(
        photo_ids=photo_ids,
        names=names,
        as_faces=as_faces,
        uploads=uploaded_photos(store, pack.name),
        nobodys=cache(partial(photos_of_nobody, store, pack.name)),
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
