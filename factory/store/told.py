"""What is told of photos: whose they are, and whether they came by upload.

Photos of one person, as their source tells, are learned together by jobs. What was uploaded is learned by the endpoint
alone: whoever uploaded it said who of the photo is meant.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa

from factory.consent import COLUMNS
from factory.faces.people import MOST_PHOTOS, embeddings
from factory.ids import photo_name_of, photo_of
from factory.pack import Pack
from factory.records import Reject
from factory.store.columns import with_columns
from factory.store.commits import retried
from factory.store.digests import DigestSet, digests
from factory.store.queries import drop_rejects, faces_by_id, of_pack
from factory.store.rows import reject_row
from factory.store.schemas import SCHEMAS
from factory.store.sql import where_in
from factory.store.tables import Store

UPLOADED: Final = "upload:"  # `uri` of faces that came over HTTP
UNCLEAR: Final = ("several_faces", "other_person")  # reasons: it is told whose a photo is, and not seen
_AT_ONCE: Final = 4096  # faces that are looked at together, and those of their people
_REWRITTEN: Final = 64  # photos whose rows are written anew together, each some 0.5 MB
_COLUMNS: Final = ["face_id", "pack", "photo_id", "name", "face_index", "box", "uri", "person", *COLUMNS]
_NO_OTHER: Final = "no other photo tells which is this person's: add one, or a part of this one, that shows them alone"

Row = Mapping[str, Any]


def learned_alone(pack: str) -> str:
    """The condition: faces of a pack that jobs learn each by itself."""
    return f"{of_pack(pack)} AND person IS NULL AND (uri IS NULL OR uri != '{UPLOADED}')"


def told_of(store: Store, pack: str) -> set[str]:
    """Ids of the other faces of a pack: of people who were told, and of uploads."""
    where = f"{of_pack(pack)} AND (person IS NOT NULL OR uri = '{UPLOADED}')"
    return store.existing_ids("faces", where=where)


@dataclass(slots=True, kw_only=True)
class ToldPerson:
    """Somebody whose photos a source told."""

    name: str
    num_faces: int  # on all of these photos, of whomever
    photo_ids: set[str]
    face_ids: list[str]  # theirs, to be learned together: at most one a photo, MOST_PHOTOS in all, the largest ones
    lacking: list[str] = field(default_factory=list)  # face_ids that lack a consent
    unclear: list[dict[str, Any]] = field(default_factory=list)  # rows of `rejects`: photos on which they are not told


def told_people(store: Store, pack: Pack, lacks: Callable[[Row], bool] = lambda _: False) -> Iterator[ToldPerson]:
    """Everybody whose photos a source told. `lacks` says of a row of `faces` that it must not be learned.

    Of a photo of several faces it is the one nearest to the person's photos with one face: the cosine of its features
    and of their mean. Where that is below the pack's `same_person`, or all photos show several, the photo is unclear.
    Whom a photo with one face shows is believed here (strangers.py does not), unless that is not its largest: then it
    is compared as well.
    Raises OSError if an eraser comes meanwhile.
    """
    for faces in _whole_people(store, pack.name):
        people: dict[str, list[dict[str, Any]]] = {}
        for row in faces.to_pylist():
            people.setdefault(row["person"], []).append(row)
        kept = {name: _by_photo([row for row in rows if not lacks(row)]) for name, rows in people.items()}
        unsure = [photos for photos in kept.values() if not all(map(_is_alone, photos))]
        ids = [row["face_id"] for photos in unsure for faces in photos for row in faces]
        compared = _embeddings(store, pack.name, ids)
        for name, rows in people.items():
            chosen, unclear = _chosen(kept[name], compared, pack)
            yield ToldPerson(
                name=name,
                num_faces=len(rows),
                photo_ids={row["photo_id"] for row in rows},
                face_ids=sorted(row["face_id"] for row in sorted(chosen, key=_largest_first)[:MOST_PHOTOS]),
                lacking=[row["face_id"] for row in rows if lacks(row)],
                unclear=unclear,
            )


def _whole_people(store: Store, pack: str) -> Iterator[pa.Table]:
    """The faces of whom it was told whose photos they are on, in tables in which nobody's are missing. Held of all at
    once are some 50 bytes a face: a digest of the person, and where it is."""
    dataset = store.open("faces")
    if dataset is None or "person" not in dataset.schema.names:
        return
    persons, rows, first = list[np.ndarray](), list[np.ndarray](), 0
    for batch in dataset.to_batches(columns=["pack", "person"]):
        packs, names = (column.to_pylist() for column in batch.columns)
        told = [row for row, (own, name) in enumerate(zip(packs, names, strict=True)) if name and own == pack]
        persons.append(digests(names[row] for row in told))
        rows.append(first + np.array(told, np.int64))
        first += batch.num_rows
    if not sum(map(len, rows)):
        return
    # people in the order of their first faces, which mostly lie together
    _, firsts, group = np.unique(np.concatenate(persons), return_index=True, return_inverse=True)
    order = np.argsort(firsts[group], kind="stable")
    places, of = np.concatenate(rows)[order], firsts[group][order]
    begins = np.flatnonzero(np.diff(of, prepend=-1))  # of each person
    cuts = [begins[0], *(begins[n] for n in range(1, len(begins)) if begins[n] // _AT_ONCE > begins[n - 1] // _AT_ONCE)]
    schema = pa.schema([SCHEMAS["faces"].field(name) for name in _COLUMNS])
    there = [name for name in _COLUMNS if name in dataset.schema.names]
    for start, end in zip(cuts, [*cuts[1:], len(places)], strict=True):
        yield with_columns(dataset.take(pa.array(np.sort(places[start:end])), columns=there), schema)


def _by_photo(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    photos: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        photos.setdefault(row["photo_id"], []).append(row)
    return list(photos.values())


def _is_alone(faces: Sequence[Row]) -> bool:
    """Whether a photo shows one person, or others only in the background, where their faces were refused."""
    return len(faces) == 1 and faces[0]["face_index"] == 0


def _embeddings(store: Store, pack: str, face_ids: Sequence[str]) -> dict[str, np.ndarray]:
    if not face_ids:
        return {}
    found = faces_by_id(store, pack, face_ids, ["face_id", "features", "features_mirror"])
    crops, mirrors = (np.array(found[name].to_pylist(), np.float32) for name in ("features", "features_mirror"))
    return dict(zip(found["face_id"].to_pylist(), embeddings(crops, mirrors), strict=True))


def _chosen(
    photos: Sequence[list[dict[str, Any]]], compared: Mapping[str, np.ndarray], pack: Pack
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The person's face on each photo, and rejects of the photos where it cannot be told."""
    chosen = [faces[0] for faces in photos if _is_alone(faces)]
    others = [faces for faces in photos if not _is_alone(faces)]
    if not others or not chosen:
        return chosen, [_several(faces, _NO_OTHER) for faces in others]
    mean_F = np.mean([compared[row["face_id"]] for row in chosen], axis=0)
    mean_F /= max(float(np.linalg.norm(mean_F)), 1e-12)
    least, unclear = pack.fr_vit.same_person or -1.0, []
    for faces in others:
        cosines = [float(compared[row["face_id"]] @ mean_F) for row in faces]
        best = int(np.argmax(cosines))
        if cosines[best] >= least:
            chosen.append(faces[best])
        else:
            far = f"the nearest is at {cosines[best]:.2f} from the person's other photos, where {least:.2f} is the same"
            unclear.append(_several(faces, far))
    return chosen, unclear


def _several(faces: Sequence[Row], why: str) -> dict[str, Any]:
    return unclear_row(faces[0], "several_faces", f"{len(faces)} faces; {why}")


def unclear_row(row: Row, reason: str, detail: str) -> dict[str, Any]:
    """The reject of a photo of which it is told whose it is, and not seen, by one of its rows of `faces`."""
    reject = Reject(
        reject_id=row["photo_id"],
        photo_id=row["photo_id"],
        name=photo_name_of(row["name"], row["face_index"]),
        pack=row["pack"],
        stage="train",
        reason=reason,
        detail=detail,
        uri=row["uri"],
    )
    return reject_row(reject)


def _largest_first(row: Row) -> tuple[float, str]:
    x0, y0, x1, y1 = row["box"]
    return -(x1 - x0) * (y1 - y0), row["face_id"]


def keep_unclear(store: Store, pack: str, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes these the rejects of a pack's unclear photos, in place of those of before; gives those that are new."""
    where = f"{of_pack(pack)} AND stage = 'train' AND {where_in('reason', UNCLEAR)}"
    before = store.read("rejects", columns=["reject_id", "detail"], where=where).to_pylist()
    known = {row["reject_id"]: row["detail"] for row in before}
    if changed := [row for row in rows if known.get(row["reject_id"]) != row["detail"]]:
        store.upsert("rejects", changed)
    drop_rejects(store, pack, sorted(set(known) - {row["reject_id"] for row in rows}))
    return [row for row in changed if row["reject_id"] not in known]


def uploaded_photos(store: Store, pack: str) -> DigestSet:
    """Digests of the photo_ids of a pack's uploads."""
    return _photo_ids(store, f"{of_pack(pack)} AND uri = '{UPLOADED}'")


def photos_of_nobody(store: Store, pack: str) -> DigestSet:
    """Digests of the photo_ids of a pack's photos with faces of which nobody told whose they are."""
    return _photo_ids(store, f"{of_pack(pack)} AND person IS NULL")


def _photo_ids(store: Store, where: str) -> DigestSet:
    batches = partial(store.batches, "faces", ["photo_id"], where)
    return retried(lambda: DigestSet(digests(batch["photo_id"].to_pylist()) for batch in batches()))


def tell(store: Store, pack: str, told: Mapping[str, tuple[str, str | None]]) -> None:
    """Writes to the faces of photos, by photo_id, where a job found them and whose they are: a photo that was an upload
    is the job's from now on, and one that was nobody's is that person's. Whose it is already does not change."""
    ids = sorted(told)
    for first in range(0, len(ids), _REWRITTEN):
        where = f"{where_in('photo_id', ids[first : first + _REWRITTEN])} AND {of_pack(pack)}"
        rows = store.read("faces", where=where).to_pylist()
        for row in rows:
            uri, person = told[row["photo_id"]]
            row |= {"uri": uri if row["uri"] == UPLOADED else row["uri"], "person": row["person"] or person}
        store.upsert("faces", rows)


def of_their_other_photos(store: Store, faces: Collection[str], photos: Collection[str]) -> set[str]:
    """Faces of the people who were learned from several photos, or are to be, of which these are some."""
    rows = store.read("identities", columns=["face_id", "more_faces"], where="more_faces IS NOT NULL").to_pylist()
    groups = [{row["face_id"], *row["more_faces"]} for row in rows]
    found, num = set(faces), -1
    while num < len(found):  # a photo may be one of several people's, who were learned together in other ways
        num = len(found)
        mine = f"({where_in('face_id', sorted(found))} OR {where_in('photo_id', sorted(photos))})"
        names = store.read("faces", columns=["person"], where=f"{mine} AND person IS NOT NULL")["person"].to_pylist()
        found |= store.existing_ids("faces", where=where_in("person", sorted(set(names)))) if names else set()
        for group in groups:
            if group & found or set(photos) & {photo_of(face) for face in group}:
                found |= group
    return {face for face in found if photo_of(face) not in photos}
