"""What a job tells of people who come more than once: counts in its summary, lines in its report."""

from __future__ import annotations

from collections.abc import Collection
from html import escape
from typing import Final

from factory.pack import Pack
from factory.store.copies import called_copies
from factory.store.people import MOST_FACES, Again, seen_again
from factory.store.queries import faces_of_pack
from factory.store.tables import Store
from pipelines.jobs.job import Summary
from pipelines.jobs.report import Sample

_LINES: Final = 100  # of a report


def tell_people(summary: Summary, store: Store, pack: Pack, photo_ids: Collection[str | None]) -> None:
    """Compares the faces of these photos with one another and with all that were there before; that photos of one
    person, as their source says, show the same person is not told."""
    if pack.fr_vit.same_person is None:
        return
    faces = faces_of_pack(store, pack.name, ["face_id", "photo_id", "person"]).to_pylist()
    before = {face["face_id"] for face in faces if face["photo_id"] not in photo_ids}
    if len(before) == len(faces):
        return
    if len(faces) > MOST_FACES:
        summary.not_compared = len(faces)
        return
    told = {face["face_id"]: face["person"] or face["face_id"] for face in faces}
    found = [one for one in seen_again(store, pack, before=before) if told.get(one.face_id) != told.get(one.of_face_id)]
    summary.near_duplicates = sum(face.near_duplicate for face in found)
    summary.same_person = len(found) - summary.near_duplicates
    copies = called_copies(store, pack, found, {photo_id for photo_id in photo_ids if photo_id})
    summary.called_copies = len(copies)
    summary.samples += [_line(face) for face in [*found, *copies][:_LINES]]


def _line(face: Again) -> Sample:
    ids = (face.photo_id, face.face_id, face.of_photo_id, face.of_face_id)
    html = f'<p data-ids="{" ".join(ids)}">{escape(str(face))}</p>'.replace("\n", " ")
    return Sample(html=html, photo_id=face.photo_id, face_id=face.face_id, also=ids[2:])
