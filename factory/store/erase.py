"""Erasing a person from a root: rows, old versions, leftovers of jobs; and the proof that nothing is left.

A tombstone stays behind, so that the same photo is not learned again: a salted hash of the erased ids, which tells
nothing to whoever has not got the photo. What lies outside the root (the photos themselves, exported files, pictures
written elsewhere) is not the root's and is not touched.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import numpy as np
import pyarrow as pa

from factory.errors import IdentityNotFound
from factory.files import filesystem
from factory.ids import any_face, index_of, photo_of, spellings
from factory.store.audit import redact
from factory.store.files import drop_requests
from factory.store.jobs import clean_jobs
from factory.store.schemas import KEYS, SCHEMAS, Table
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.told import of_their_other_photos
from factory.store.tombstones import tombstone_digest
from factory.store.traces import Search, list_files, pieces_of, scan, with_base64
from factory.store.uploads import forget_uploads
from factory.store.versions import older_versions

_WINDOW = 8  # numbers of an embedding that are looked for together, 32 bytes
_PNG_HEADER, _PICTURE_BYTES = 41, 256  # all PNGs begin alike; of what follows, so many bytes are looked for
_VIDEO_HEADER = 4096  # bytes; so do clips of one length: their tables of frames, and the encoder's remarks; and PLYs
_TABLES: Final[list[Table]] = [table for table in SCHEMAS if table not in ("tombstones", "keys", "audit")]
_WRITTEN: Final[dict[Table, tuple[str, ...]]] = {
    "work": ("request",),
    "files": ("filename",),
    "lines": ("custom_id", "error"),
}
_LONG_TEXT = 24  # characters; a shorter one holds no piece of a photo
_HASH = re.compile("(?:[0-9a-f]{2}){8,}")


@dataclass(frozen=True, slots=True)
class Person:
    """What a root holds of somebody, by its ids."""

    photo_ids: set[str]  # photos that go altogether
    face_ids: set[str]  # single faces of photos that show others too
    identity_ids: set[str]
    image_ids: set[str]
    video_ids: set[str]
    model_ids: set[str]
    reject_ids: set[str]  # of files that could not be read, which have no photo_id
    work_ids: set[str]  # of what was asked for about them
    content: bytes = b""  # of the photo, where it is at hand

    def clauses(self, table: Table) -> str:
        """The person's rows of a table, as an SQL condition."""
        ids = {"photo_id": self.photo_ids, "face_id": self.face_ids}
        ids |= {"identity_id": self.identity_ids, "image_id": self.image_ids, "video_id": self.video_ids}
        ids |= {"model_id": self.model_ids, "work_id": self.work_ids}
        if table == "rejects":  # its reasons name the photo, whoever else is on it
            ids["photo_id"] = self.photo_ids | {photo_of(face_id) for face_id in self.face_ids}
            ids["reject_id"] = self.reject_ids
        if table == "names":  # a photo's other names are its largest face's
            ids["photo_id"] = self.photo_ids | {photo_of(f) for f in self.face_ids if index_of(f) == 0}
        columns = [name for name in SCHEMAS[table].names if ids.get(name)]
        clauses = [where_in(name, sorted(ids[name])) for name in columns]
        for who in sorted(self.identity_ids):
            if table in ("files", "lines"):  # they have no other column for the first of several people
                clauses.append(f"array_has(people, '{who}')")
            # what a caller wrote may hold an id, too
            clauses += [f"{column} LIKE '%{who}%'" for column in _WRITTEN.get(table, ())]
        return " OR ".join(clauses) or "FALSE"

    def buried(self) -> set[str]:
        """What the tombstones remember. `<photo_id>-any`: no face of the photo is prepared anew, as another detector
        may number them differently."""
        photos = {any_face(photo_of(face_id)) for face_id in self.face_ids}
        drawn = self.image_ids | self.video_ids | self.model_ids
        return self.photo_ids | self.face_ids | self.identity_ids | drawn | self.reject_ids | photos


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was removed, and what was looked through afterwards."""

    rows: Mapping[Table, int]  # removed, by table
    job_files: int = 0  # under ROOT/jobs, changed or removed
    orphans: int = 0  # data files of killed jobs, removed
    files_scanned: int = 0
    bytes_scanned: int = 0
    found: list[str] = field(default_factory=list)  # "file: what", which must be empty
    older_versions: str = ""  # that the store keeps removed files, and the remedy (versions.py)


def find_person(
    store: Store,
    *,
    photo_id: str | None = None,
    identity_id: str | None = None,
    name: str | None = None,
    face_ids: Collection[str] = (),
    content: bytes = b"",
) -> Person:
    """The person of a photo (everybody on it), of an identity, of faces, or of a name (in all photos called so).

    A photo may be unknown to the root: then only the tombstone is set. `content` is its bytes, where they are at hand:
    rejects that quote them are the person's too. Raises IdentityNotFound for the other two.
    """
    faces = set(face_ids)
    photos = {photo_id} if photo_id is not None else set()
    rejects = _rejects_that_quote(store, content)
    if identity_id is not None:
        faces |= _column(store, "identities", "face_id", where_in("identity_id", [identity_id]))
    if name is not None:
        named, told = (where_in(column, spellings(name)) for column in ("name", "person"))
        faces |= _column(store, "faces", "face_id", f"{named} OR {told}")
        faces |= _column(store, "identities", "face_id", named)
        faces |= _faces_by_other_name(store, name)
        whole = f"{named} AND reject_id = photo_id"
        photos |= _column(store, "rejects", "photo_id", whole) - {photo_of(face) for face in faces}
        rejects |= _column(store, "rejects", "reject_id", f"{named} AND photo_id = ''")
    if not faces and not photos and not rejects:
        raise IdentityNotFound(
            f"{store.root} knows nobody by {identity_id or name!r}; "
            "`identity-factory identities list` shows who is there, and --photo takes the photo itself"
        )
    faces |= of_their_other_photos(store, faces, photos)
    among = {photo_of(face) for face in faces}
    others = _column(store, "faces", "face_id", where_in("photo_id", sorted(among))) - faces
    shared = {photo_of(face) for face in others}
    photos |= among - shared
    single = {face for face in faces if photo_of(face) in shared}
    who = f"{where_in('photo_id', sorted(photos))} OR {where_in('face_id', sorted(single))}"
    identities = _column(store, "identities", "identity_id", who)
    images, videos = _drawn(store, "images", identities), _drawn(store, "videos", identities)
    models = _column(store, "models", "model_id", where_in("identity_id", sorted(identities)))
    models |= _column(store, "checkpoints", "model_id", where_in("identity_id", sorted(identities)))
    work = _asked_for(store, identities, photos | faces)
    return Person(photos, single, identities, images, videos, models, rejects, work, content)


def _drawn(store: Store, table: Table, identities: set[str]) -> set[str]:
    """Ids of pictures or clips that show one of these identities, alone or among others."""
    key = KEYS[table][0]
    alone = _column(store, table, key, where_in("identity_id", sorted(identities)))
    several = store.read(table, columns=[key, "people"], where="people IS NOT NULL").to_pylist()
    return alone | {row[key] for row in several if identities.intersection(row["people"])}


def _asked_for(store: Store, identities: set[str], photos_and_faces: set[str]) -> set[str]:
    """Ids of work about these identities, or about one that was to be learned from these photos or faces."""
    rows = store.read("work", columns=["work_id", "people", "request"]).to_pylist()
    about = [row for row in rows if identities.intersection(row["people"])]
    about += [row for row in rows if any(an_id in row["request"] for an_id in photos_and_faces)]
    return {row["work_id"] for row in about}


def _rejects_that_quote(store: Store, content: bytes) -> set[str]:
    """Rejects with a piece of a photo in a text, as of a `data:` URI that could not be read."""
    search = Search(with_base64(dict.fromkeys(pieces_of(content), "")))
    columns = [field.name for field in SCHEMAS["rejects"] if field.type == pa.string()]
    long = " OR ".join(f"length({column}) > {_LONG_TEXT}" for column in columns)
    rows = store.read("rejects", columns=columns, where=long).to_pylist() if content else []
    return {row["reject_id"] for row in rows if search.found_in(" ".join(filter(None, row.values())).encode())}


def _faces_by_other_name(store: Store, name: str) -> set[str]:
    """The largest face of a photo whose other name this is, and the others that are there; a photo that was refused
    altogether has a largest one too."""
    faces = set(store.faces_by_other_name(name))
    numbered = where_in("face_id", sorted(face for face in faces if index_of(face)))
    there = _column(store, "faces", "face_id", numbered) | _column(store, "identities", "face_id", numbered)
    return {face for face in faces if not index_of(face)} | there


def erase(store: Store, person: Person, *, waits_s: Sequence[float] = (1.0, 5.0, 60.0)) -> Erasure:
    """Removes a person from a root, and looks through every byte of it afterwards.

    The tombstone comes first: whatever a running job commits from then on is refused. Safe to repeat after an
    interruption. What is refused may still be written to a file, which nothing names then: if the person is found,
    that is removed after each of these waits. `found` of the result must be empty.
    """
    needles, names = needles_of(store, person), _own_names(store, person)
    salt = min(store.tombstones().salts, default=secrets.token_hex(16))  # the root's own, once there is one
    now = datetime.now(UTC).isoformat(timespec="seconds")
    buried = [{"digest": tombstone_digest(salt, i), "salt": salt, "erased_at": now} for i in person.buried()]
    store.upsert("tombstones", buried)
    rows, orphans = _purge(store, person, names)
    forget_uploads(store, {photo_of(face) for face in person.face_ids})  # others on them, whom nobody chose
    redact(store, person.identity_ids)
    job_files = clean_jobs(store.root, Search(needles))
    num_files, num_bytes, found = scan(store.root, needles)
    for wait_s in waits_s:
        if not found:
            break
        time.sleep(wait_s)
        late_rows, late_orphans = _purge(store, person, names)
        rows, orphans = rows + late_rows, orphans + late_orphans
        num_files, num_bytes, found = scan(store.root, needles)
    for table in _TABLES:
        if left := store.read(table, columns=SCHEMAS[table].names[:1], where=person.clauses(table)).num_rows:
            found.append(f"{store.uri(table)}: {left} rows")
    return Erasure(
        rows={table: rows[table] for table in _TABLES},
        job_files=job_files,
        orphans=orphans,
        files_scanned=num_files,
        bytes_scanned=num_bytes,
        found=found,
        older_versions=older_versions(store.root),
    )


def needles_of(store: Store, person: Person) -> dict[bytes, str]:
    """Byte strings that only this person's rows put on disk: ids, pieces of embeddings, pieces of pictures."""
    photos = sorted(map(photo_of, person.face_ids))
    kept = _column(store, "faces", "face_id", where_in("photo_id", photos)) - person.face_ids
    ids = person.photo_ids | person.identity_ids | person.image_ids | person.video_ids | person.model_ids
    # "<photo>-1" is also how "<photo>-10" begins
    ids |= {face for face in person.face_ids if not any(other.startswith(face) for other in kept)}
    ids |= {any_face(photo_of(face)) for face in person.face_ids}  # in reports, of pictures that show a whole photo
    needles = {an_id.encode(): "an erased id" for an_id in ids}
    wanted: list[tuple[Table, list[str]]] = [
        ("identities", ["words"]),
        ("faces", ["features", "features_mirror", "crop"]),
        ("images", ["image"]),
        ("videos", ["poster", "video"]),
        ("models", ["poster", "turntable", "splats"]),  # a checkpoint's file goes with its id, of which it holds few
        ("metrics", ["face_embedding", "features"]),
    ]
    for table, columns in wanted:
        for row in store.read(table, columns=columns, where=person.clauses(table)).to_pylist():
            for column, value in row.items():
                if column in ("video", "turntable", "splats"):
                    needles |= dict.fromkeys(pieces_of(value[_VIDEO_HEADER:]), f"{table}.{column}")
                elif isinstance(value, bytes):
                    needles[value[_PNG_HEADER:][:_PICTURE_BYTES]] = f"{table}.{column}"
                else:
                    needles[np.array(value[:_WINDOW], np.float32).tobytes()] = f"{table}.{column}"
    raw_ids = {bytes.fromhex(an_id): "an erased id's bytes" for an_id in ids if _HASH.fullmatch(an_id)}
    photo = dict.fromkeys(pieces_of(person.content), "a piece of the photo")
    return with_base64(needles | raw_ids | photo)


def _own_names(store: Store, person: Person) -> set[str]:
    """Names that mean this person, and nobody else who is called so."""
    names = _column(store, "identities", "name", person.clauses("identities")) - {""}
    owners = store.name_owners(sorted(names))
    return {spelled for name in names if owners.get(name) in person.identity_ids for spelled in spellings(name)}


def _purge(store: Store, person: Person, names: set[str]) -> tuple[Counter[Table], int]:
    """Rows removed by table, and the number of files that killed or refused jobs left.

    A file that is there before `Store.purge` throws back all that is under way, and that no version names after it,
    will never be named.
    """
    rows: Counter[Table] = Counter()
    orphans = 0
    drop_requests(store, person.identity_ids, names)
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


def _column(store: Store, table: Table, column: str, where: str | None) -> set[str]:
    values: Sequence[str] = store.read(table, columns=[column], where=where)[column].to_pylist()
    return set(values)
