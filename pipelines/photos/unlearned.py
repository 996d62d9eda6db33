"""Who of `faces` is still to be learned by a recipe: each face by itself, or a person whose photos were told."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from html import escape
from itertools import compress
from typing import Any, Final

import numpy as np
import pyarrow as pa

from factory.config import Recipe
from factory.consent import COLUMNS, Consent
from factory.ids import any_face, faces_key, faces_of_key, identity_ids
from factory.pack import Pack
from factory.store.commits import retried
from factory.store.digests import DigestSet, digests
from factory.store.people import seen_again
from factory.store.policy import read_policy
from factory.store.queries import diverged, faces_of_pack, ids_known, learned
from factory.store.strangers import without_strangers
from factory.store.tables import Store
from factory.store.told import ToldPerson, keep_unclear, learned_alone, told_of, told_people
from pipelines.jobs.job import Summary
from pipelines.jobs.report import Sample

_AT_ONCE: Final = 1024  # people of whom it is asked together whether they are known
_LINES: Final = 100  # of a report


def find_new_people(
    store: Store,
    pack: Pack,
    recipe: Recipe,
    summary: Summary,
    merge_people: bool,
    counts_faces: bool,
    as_told: bool = False,
    only: Collection[str] | None = None,
) -> list[str]:
    """The `faces_key` of everybody still to be learned, which is all that the driver holds of faces; in the order in
    which faces lie in the table, so that those of a block are read together.

    Of photos of one person those that surely show somebody else are left out, unless they are to be taken `as_told`; so
    are those that an earlier job learned, where `only` names them: then nothing is told of anybody else.
    """
    plan = retried(partial(_plan, store, pack, recipe, as_told, only))
    new = plan.new
    if only is not None:
        return [key for key in new if key in only]
    if plan.lacking:
        summary.count_rejects(Counter({"rejected_face:no_consent": plan.lacking}))
    if unclear := keep_unclear(store, pack.name, plan.unclear):
        summary.count_rejects(Counter(f"rejected_face:{row['reason']}" for row in unclear))
        summary.samples += [_line(row) for row in unclear[:_LINES]]
    if merge_people:
        faces = faces_of_pack(store, pack.name, ["face_id"])["face_id"].to_pylist()
        ids = dict(zip(faces, identity_ids(faces, recipe, pack.learning_fingerprint()), strict=True))
        known, refused = learned(store), diverged(store)
        tried = refused.hold(digests(ids.values()))
        before = {face for face, identity in ids.items() if identity in known}
        but = set(compress(ids, tried)) | (told_of(store, pack.name) - before)
        merged = {face.face_id for face in seen_again(store, pack, before=before, but=but)}
        summary.merged += len(merged)
        new = [key for key in new if key not in merged]
    summary.identities_existing += plan.num_learned
    if counts_faces:
        summary.faces = plan.num_faces
        summary.photos = summary.photos_with_faces = plan.num_photos
        summary.skipped_existing += plan.num_faces - sum(len(faces_of_key(key)) for key in new)
    return new


def _line(reject: Mapping[str, Any]) -> Sample:
    photo_id, text = reject["photo_id"], f"{reject['name']}: {reject['reason']}, {reject['detail']}"
    html = f'<p data-ids="{photo_id} {any_face(photo_id)}">{escape(text)}</p>'.replace("\n", " ")
    return Sample(html=html, photo_id=photo_id)


@dataclass(slots=True)
class _Plan:
    new: list[str] = field(default_factory=list)  # of everybody the faces_key
    unclear: list[dict[str, Any]] = field(default_factory=list)  # rows of `rejects`
    lacking: int = 0  # faces that would be new, but for their consent
    num_faces: int = 0
    num_learned: int = 0
    num_photos: int = 0


def _plan(store: Store, pack: Pack, recipe: Recipe, as_told: bool, only: Collection[str] | None) -> _Plan:
    """What there is to learn: the faces are gone through in batches, beside what is known at 16 bytes an id."""
    plan, photos = _Plan(), list[np.ndarray]()
    known, refused = ids_known(store, "identities"), diverged(store)
    now, fingerprint = time.time(), pack.learning_fingerprint()
    asks = read_policy(store.root).require_consent  # they were prepared before it was

    def unknown(keys: Sequence[str]) -> list[int]:
        """Numbers of those who are neither learned nor tried."""
        ids = digests(identity_ids(keys, recipe, fingerprint))
        is_known = known.hold(ids)
        plan.num_learned += int(is_known.sum())
        return [int(row) for row in np.flatnonzero(~is_known & ~refused.hold(ids))]

    def lacks(row: Mapping[str, Any]) -> bool:
        return bool(Consent.of(row).lacking(now, required=asks))

    for faces in store.batches("faces", ["face_id", "photo_id", *COLUMNS], learned_alone(pack.name)):
        face_ids = faces["face_id"].to_pylist()
        rows = unknown(face_ids)
        consents = faces.select(COLUMNS).take(pa.array(rows, pa.int64())).to_pylist()
        new = [face_ids[row] for row, consent in zip(rows, consents, strict=True) if not lacks(consent)]
        plan.new += new
        plan.lacking += len(rows) - len(new)
        plan.num_faces += len(face_ids)
        photos.append(np.unique(digests(faces["photo_id"].to_pylist())))
    people: list[ToldPerson] = []

    def add() -> None:
        """Whoever was learned as told, in whatever way, is known; only of others the photos are compared."""
        keys = [faces_key(person.face_ids) for person in people]
        new = {row: keys[row] for row in unknown(keys)}
        doubted = [row for row, key in new.items() if not (as_told or (only is not None and key in only))]
        changed: dict[int, str] = {}
        for row, fitting in zip(doubted, without_strangers(store, pack, [people[row] for row in doubted]), strict=True):
            if fitting is not people[row]:
                plan.unclear += fitting.unclear[len(people[row].unclear) :]
                changed |= {row: faces_key(fitting.face_ids)} if fitting.face_ids else {}
                del new[row]
        rows = list(changed)
        new |= {rows[number]: changed[rows[number]] for number in unknown(list(changed.values()))}
        plan.new.extend(new[row] for row in sorted(new))
        people.clear()

    for person in told_people(store, pack, lacks):
        plan.unclear += person.unclear
        plan.lacking += len(person.lacking)
        plan.num_faces += person.num_faces
        photos.append(digests(person.photo_ids))
        people += [person] if person.face_ids else []
        if len(people) == _AT_ONCE:
            add()
    add()
    plan.num_photos = len(DigestSet(photos))
    return plan
