"""Erasing a person from a root: rows, old versions, leftovers of jobs; and the proof that nothing is left.

A tombstone stays behind, so that the same photo is not learned again: a salted hash of the erased ids, which tells
nothing to whoever has not got the photo. What lies outside the root (the photos themselves, exported files, pictures
written elsewhere) is not the root's and is not touched. Nor is what somebody put under it: that is told.

What is to go is written down before the first of it goes (unfinished.py): whoever would find the rest by a name or an
id may be among the first rows to go, and an erasure that was killed must be gone on with.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

import numpy as np

from factory.files import filesystem
from factory.ids import any_face, photo_of
from factory.store.alike import SAME_PICTURE, Alike, Looks, alike, looks_of, still_there
from factory.store.audit import note, redact
from factory.store.files import drop_requests
from factory.store.jobs import clean_jobs
from factory.store.person import Person as Person
from factory.store.person import column_of
from factory.store.person import find_person as find_person
from factory.store.schemas import SCHEMAS, Table
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.tombstones import tombstone_digest
from factory.store.traces import Search, list_files, pieces_of, scan, with_base64
from factory.store.unfinished import begun, ended, unfinished
from factory.store.uploads import forget_uploads
from factory.store.versions import older_versions

_WINDOW = 8  # numbers of an embedding that are looked for together, 32 bytes
_PNG_HEADER, _PICTURE_BYTES = 41, 256  # all PNGs begin alike; of what follows, so many bytes are looked for
_VIDEO_HEADER = 4096  # bytes; so do clips of one length: their tables of frames, and the encoder's remarks; and PLYs
_TABLES: Final[list[Table]] = [table for table in SCHEMAS if table not in ("tombstones", "keys", "audit")]
_OF_FACES: Final = ["features", "features_mirror", "crop"]
_HASH = re.compile("(?:[0-9a-f]{2}){8,}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was removed, and what was looked through afterwards."""

    rows: Mapping[Table, int]  # removed, by table
    job_files: int = 0  # under ROOT/jobs, changed or removed
    orphans: int = 0  # data files of killed jobs, removed
    files_scanned: int = 0
    bytes_scanned: int = 0
    found: list[str] = field(default_factory=list)  # "file: what" of the root's own files, which must be empty
    others: list[str] = field(default_factory=list)  # the same of files that somebody put under the root
    older_versions: str = ""  # that the store keeps removed files, and the remedy (versions.py)
    alike: list[Alike] = field(default_factory=list)  # who stays, and looks like them
    not_compared: list[str] = field(default_factory=list)  # packs of whose other faces nobody can say that


def erase(
    store: Store, person: Person, *, looks: Looks | None = None, waits_s: Sequence[float] = (1.0, 5.0, 60.0)
) -> Erasure:
    """Removes a person from a root, and looks through every byte of it afterwards.

    The tombstone comes first: whatever a running job commits from then on is refused. Safe to repeat after an
    interruption, also by `finish`. What is refused may still be written to a file, which nothing names then: if the
    person is found, that is removed after each of these waits. `found` of the result must be empty. `looks`: what the
    root's faces are compared with, where other roots know more of the person's.
    """
    own = person.clauses("faces")
    others, not_compared = alike(store, looks_of(store, own) if looks is None else looks, own)
    person = replace(person, alike=(*others, *(one for one in person.alike if one not in others)))
    needles, photos = without_copies(store, needles_of(store, person), person.alike), photos_of(person)
    kept = begun(store, person)
    salt = min(store.tombstones().salts, default=secrets.token_hex(16))  # the root's own, once there is one
    now = datetime.now(UTC).isoformat(timespec="seconds")
    buried = [{"digest": tombstone_digest(salt, i), "salt": salt, "erased_at": now} for i in person.buried()]
    store.upsert("tombstones", buried)
    rows, orphans = _purge(store, person)
    forget_uploads(store, {photo_of(face) for face in person.face_ids})  # others on them, whom nobody chose
    redact(store, person.identity_ids)
    job_files = clean_jobs(store.root, Search(needles))
    searched = scan(store.root, needles, photos)
    for wait_s in waits_s:
        if not searched.found:
            break
        time.sleep(wait_s)
        late_rows, late_orphans = _purge(store, person)
        rows, orphans = rows + late_rows, orphans + late_orphans
        searched = scan(store.root, needles, photos)
    found = searched.found
    for table in _TABLES:
        if left := store.read(table, columns=SCHEMAS[table].names[:1], where=person.clauses(table)).num_rows:
            found.append(f"{store.uri(table)}: {left} rows")
    if not found:
        ended(kept)
    return Erasure(
        rows={table: rows[table] for table in _TABLES},
        job_files=job_files,
        orphans=orphans,
        files_scanned=searched.num_files,
        bytes_scanned=searched.num_bytes,
        found=found,
        others=searched.others,
        older_versions=older_versions(store.root),
        alike=still_there(store, person.alike),
        not_compared=not_compared,
    )


def finish(store: Store) -> list[tuple[Person, Erasure]]:
    """Goes on with erasures of this root that ended between, killed or on a full disk; the audit has them, too."""
    done = [(person, erase(store, person)) for person in unfinished(store)]
    for person, erasure in done:
        note(store, "erased", sorted(person.identity_ids), sum(erasure.rows.values()))
    return done


def photos_of(person: Person) -> set[str]:
    """Ids of all photos that show the person, alone or among others."""
    return person.photo_ids | {photo_of(face) for face in person.face_ids}


def needles_of(store: Store, person: Person) -> dict[bytes, str]:
    """Byte strings that only this person's rows put on disk: ids, pieces of embeddings, pieces of pictures."""
    photos = sorted(map(photo_of, person.face_ids))
    kept = column_of(store, "faces", "face_id", where_in("photo_id", photos)) - person.face_ids
    ids = person.photo_ids | person.identity_ids | person.image_ids | person.video_ids | person.model_ids
    # "<photo>-1" is also how "<photo>-10" begins
    ids |= {face for face in person.face_ids if not any(other.startswith(face) for other in kept)}
    ids |= {any_face(photo_of(face)) for face in person.face_ids}  # in reports, of pictures that show a whole photo
    needles = {an_id.encode(): "an erased id" for an_id in ids}
    wanted: list[tuple[Table, list[str]]] = [
        ("identities", ["words"]),
        ("faces", _OF_FACES),
        ("images", ["image"]),
        ("videos", ["poster", "video"]),
        ("models", ["poster", "turntable", "splats"]),  # a checkpoint's file goes with its id, of which it holds few
        ("metrics", ["face_embedding", "features"]),
    ]
    for table, columns in wanted:
        needles |= _pieces(store, table, columns, person.clauses(table))
    raw_ids = {bytes.fromhex(an_id): "an erased id's bytes" for an_id in ids if _HASH.fullmatch(an_id)}
    photo = dict.fromkeys(pieces_of(person.content), "a piece of the photo")
    return with_base64(needles | raw_ids | photo)


def without_copies(store: Store, needles: Mapping[bytes, str], others: Iterable[Alike]) -> dict[bytes, str]:
    """The needles that are not those of others, too: the same picture in another file, as one without its EXIF, has the
    same crop and features, and stays."""
    same = sorted({one.face_id for one in others if one.similarity >= SAME_PICTURE})
    theirs = with_base64(_pieces(store, "faces", _OF_FACES, where_in("face_id", same)) if same else {})
    return {needle: what for needle, what in needles.items() if needle not in theirs}


def _pieces(store: Store, table: Table, columns: list[str], where: str) -> dict[bytes, str]:
    """Of these rows: pieces of pictures and of what is encoded, numbers of embeddings."""
    needles: dict[bytes, str] = {}
    for row in store.read(table, columns=columns, where=where).to_pylist():
        for column, value in row.items():
            if column in ("video", "turntable", "splats"):
                needles |= dict.fromkeys(pieces_of(value[_VIDEO_HEADER:]), f"{table}.{column}")
            elif isinstance(value, bytes):
                needles[value[_PNG_HEADER:][:_PICTURE_BYTES]] = f"{table}.{column}"
            else:
                needles[np.array(value[:_WINDOW], np.float32).tobytes()] = f"{table}.{column}"
    return needles


def _purge(store: Store, person: Person) -> tuple[Counter[Table], int]:
    """Rows removed by table, and the number of files that killed or refused jobs left.

    A file that is there before `Store.purge` throws back all that is under way, and that no version names after it,
    will never be named.
    """
    rows: Counter[Table] = Counter()
    orphans = 0
    drop_requests(store, person.identity_ids, person.names)
    for table in _TABLES:
        files, path = filesystem(store.uri(table))
        there = [info.path for folder in ("data", "_indices") for info in list_files(files, f"{path}/{folder}")]
        rows[table] = store.purge(table, person.clauses(table))
        named = _named(store, table)
        for file in there:
            if not named & set(file.split("/")[-2:]):
                with suppress(FileNotFoundError):  # gone with its version
                    files.delete_file(file)
                    orphans += 1
    return rows, orphans


def _named(store: Store, table: Table) -> set[str]:
    """Names of the data files, and of the indexes' folders, that a version of a table knows."""
    dataset = store.open(table)
    if dataset is None:
        return set()
    names: set[str] = set()
    for version in dataset.versions():
        then = dataset.checkout_version(version["version"])
        names |= {file.path.rpartition("/")[2] for part in then.get_fragments() for file in part.data_files()}
        names |= {segment.uuid for index in then.describe_indices() for segment in index.segments}
    return names
