"""What a source tells of known photos otherwise than before, or of any twice: consents, and whose they are."""

from __future__ import annotations

import time
from collections.abc import Mapping
from html import escape
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factory.consent import COLUMNS, Consent
from factory.store.audit import note
from factory.store.commits import retried
from factory.store.consents import set_photo_consents, told_anew
from factory.store.digests import DigestSet, digests, pairs
from factory.store.queries import of_pack
from factory.store.tables import Store
from pipelines.jobs.job import Summary
from pipelines.jobs.report import Sample

_LINES: Final = 100  # of a report


class Changes:
    """What one job finds: 16 bytes a photo of which it is told whose it is."""

    def __init__(self, store: Store, pack: str) -> None:
        self._store, self._pack = store, pack
        self._num_ended, self._num_other = 0, 0  # photos, by their consents
        self._known: tuple[DigestSet, DigestSet] | None = None  # photos with a person, and these with theirs
        self._kept = list[np.ndarray]()  # digests of photos that lie with whom they did before
        self._elsewhere = set[str]()  # photo_ids of those that lie with somebody else

    def look(self, content: pa.Table) -> None:
        """Compares rows of CONTENT with what is kept, and writes down what was taken back."""
        rows = content.filter(pc.is_valid(content["photo_id"]))
        agreed = rows.filter(pc.is_valid(rows["consent"])).select(["photo_id", *COLUMNS]).to_pylist()
        if agreed:
            told = [(row["photo_id"], Consent.of(row)) for row in agreed]
            self._look_at_consents(dict(sorted(told, key=lambda one: one[1].refuses)))  # of copies a no counts
        told = rows.filter(pc.is_valid(rows["person"]))
        if told.num_rows:
            self._look_at_people(told["photo_id"].to_pylist(), told["person"].to_pylist())

    def tell(self, summary: Summary, new: pa.Table) -> None:
        """Counts it all, with the photos of CONTENT that are new and lie with two people; these are lines of the
        report, too."""
        twice = _of_two_people(new)
        num_moved = len(self._elsewhere) - int(DigestSet(self._kept).hold(digests(self._elsewhere)).sum())
        summary.ended_consents += self._num_ended
        summary.other_consents += self._num_other
        summary.of_two_people += len(self._elsewhere) - num_moved + len(twice)
        summary.of_others_before += num_moved
        summary.samples += [_line(photo_id, places) for photo_id, places in sorted(twice.items())[:_LINES]]

    def _look_at_consents(self, told: Mapping[str, Consent]) -> None:
        new, other = told_anew(self._store, told, now := time.time())
        if new:
            set_photo_consents(self._store, new)
            note(self._store, "told consents", num=len(new))
        self._num_ended += sum(consent.has_expired(now) for consent in new.values())
        self._num_other += len(other)

    def _look_at_people(self, photo_ids: list[str], persons: list[str]) -> None:
        if self._known is None:
            self._known = retried(self._people_before)
        photos, theirs = self._known
        each = digests(photo_ids)
        is_theirs = theirs.hold(digests(pairs(photo_ids, persons)))
        self._kept.append(each[is_theirs])
        for row in np.flatnonzero(photos.hold(each) & ~is_theirs):
            self._elsewhere.add(photo_ids[row])

    def _people_before(self) -> tuple[DigestSet, DigestSet]:
        photos, theirs = list[np.ndarray](), list[np.ndarray]()
        where = f"{of_pack(self._pack)} AND person IS NOT NULL"
        for batch in self._store.batches("faces", ["photo_id", "person"], where):
            ids, persons = batch["photo_id"].to_pylist(), batch["person"].to_pylist()
            photos.append(digests(ids))
            theirs.append(digests(pairs(ids, persons)))
        return DigestSet(photos), DigestSet(theirs)


def _of_two_people(rows: pa.Table) -> dict[str, dict[str, str]]:
    """Photos of CONTENT, by photo_id, that come with several people: where, by person."""
    told = rows.select(["photo_id", "person", "where"]).drop_null()
    counts = pc.value_counts(told["photo_id"])
    again = counts.field("values").filter(pc.greater(counts.field("counts"), 1))  # of a million photos few
    people = dict[str, dict[str, str]]()
    for row in told.filter(pc.is_in(told["photo_id"], again)).to_pylist():
        people.setdefault(row["photo_id"], {}).setdefault(row["person"], row["where"])
    return {photo_id: places for photo_id, places in people.items() if len(places) > 1}


def _line(photo_id: str, places: Mapping[str, str]) -> Sample:
    whose = " and ".join(f"{escape(person)} (<code>{escape(where)}</code>)" for person, where in places.items())
    html = f'<p data-ids="{photo_id}">one photo lies with {whose}, and counts for the first alone</p>'
    return Sample(html=html.replace("\n", " "), photo_id=photo_id)
