"""Erasing a person from a root: rows, old versions, leftovers of jobs; and the proof that nothing is left.

A tombstone stays behind, so that the same photo is not learned again: a salted hash of the erased ids, which tells
nothing to whoever has not got the photo. What lies outside the root (the photos themselves, exported files, pictures
written elsewhere) is not the root's and is not touched.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow.fs as pafs

from factory.errors import IdentityNotFound
from factory.files import filesystem
from factory.ids import any_face, index_of, photo_of
from factory.store.rows import SCHEMAS, Table
from factory.store.tables import Store, where_in
from factory.store.tombstones import tombstone_digest

_CHUNK = 2**24  # bytes read at a time while scanning
_WINDOW = 8  # numbers of an embedding that are looked for together, 32 bytes
_PNG_HEADER, _PICTURE_BYTES = 41, 256  # all PNGs begin alike; of what follows, so many bytes are looked for


@dataclass(frozen=True, slots=True)
class Person:
    """What a root holds of somebody, by its ids."""

    photo_ids: set[str]  # photos that go altogether
    face_ids: set[str]  # single faces of photos that show others too
    identity_ids: set[str]
    image_ids: set[str]
    reject_ids: set[str]  # of files that could not be read, which have no photo_id

    def clauses(self, table: Table) -> str:
        """The person's rows of a table, as an SQL condition."""
        ids = {"photo_id": self.photo_ids, "face_id": self.face_ids}
        ids |= {"identity_id": self.identity_ids, "image_id": self.image_ids}
        if table == "rejects":  # its reasons name the photo, whoever else is on it
            ids["photo_id"] = self.photo_ids | {photo_of(face_id) for face_id in self.face_ids}
            ids["reject_id"] = self.reject_ids
        if table == "names":  # a photo's other names are its largest face's
            ids["photo_id"] = self.photo_ids | {photo_of(f) for f in self.face_ids if index_of(f) == 0}
        columns = [name for name in SCHEMAS[table].names if ids.get(name)]
        return " OR ".join(where_in(name, sorted(ids[name])) for name in columns) or "FALSE"

    def buried(self) -> set[str]:
        """What the tombstones remember. `<photo_id>-any`: no face of the photo is prepared anew, as another detector
        may number them differently."""
        photos = {any_face(photo_of(face_id)) for face_id in self.face_ids}
        return self.photo_ids | self.face_ids | self.identity_ids | self.image_ids | self.reject_ids | photos


@dataclass(frozen=True, slots=True, kw_only=True)
class Erasure:
    """What was removed, and what was looked through afterwards."""

    rows: Mapping[Table, int]  # removed, by table
    job_files: int = 0  # under ROOT/jobs, changed or removed
    orphans: int = 0  # data files of killed jobs, removed
    files_scanned: int = 0
    bytes_scanned: int = 0
    found: list[str] = field(default_factory=list)  # "file: what", which must be empty


def find_person(
    store: Store, *, photo_id: str | None = None, identity_id: str | None = None, name: str | None = None
) -> Person:
    """The person of a photo (everybody on it), of an identity, or of a name (in all photos called so).

    A photo may be unknown to the root: then only the tombstone is set. Raises IdentityNotFound for the other two.
    """
    faces: set[str] = set()
    photos = {photo_id} if photo_id is not None else set()
    rejects: set[str] = set()
    if identity_id is not None:
        faces |= _column(store, "identities", "face_id", where_in("identity_id", [identity_id]))
    if name is not None:
        named = where_in("name", [name])
        faces |= _column(store, "faces", "face_id", named) | _column(store, "identities", "face_id", named)
        faces |= _faces_by_other_name(store, name)
        whole = f"{named} AND reject_id = photo_id"
        photos |= _column(store, "rejects", "photo_id", whole) - {photo_of(face) for face in faces}
        rejects = _column(store, "rejects", "reject_id", f"{named} AND photo_id = ''")
    if not faces and not photos and not rejects:
        raise IdentityNotFound(
            f"{store.root} knows nobody by {identity_id or name!r}; "
            "`identity-factory identities list` shows who is there, and --photo takes the photo itself"
        )
    among = {photo_of(face) for face in faces}
    others = _column(store, "faces", "face_id", where_in("photo_id", sorted(among))) - faces
    shared = {photo_of(face) for face in others}
    photos |= among - shared
    single = {face for face in faces if photo_of(face) in shared}
    who = f"{where_in('photo_id', sorted(photos))} OR {where_in('face_id', sorted(single))}"
    identities = _column(store, "identities", "identity_id", who)
    images = _column(store, "images", "image_id", where_in("identity_id", sorted(identities)))
    return Person(photos, single, identities, images, rejects)


def _faces_by_other_name(store: Store, name: str) -> set[str]:
    """The largest face of a photo whose other name this is, and the others that are there; a photo that was refused
    altogether has a largest one too."""
    faces = set(store.faces_by_other_name(name))
    numbered = where_in("face_id", sorted(face for face in faces if index_of(face)))
    there = _column(store, "faces", "face_id", numbered) | _column(store, "identities", "face_id", numbered)
    return {face for face in faces if not index_of(face)} | there


def erase(store: Store, person: Person, *, orphan_age_s: float = 60.0) -> Erasure:
    """Removes a person from a root, and looks through every byte of it afterwards.

    The tombstone comes first: whatever a running job commits from then on is refused. Safe to repeat after an
    interruption. A data file that no version of its table names is a killed job's once it is `orphan_age_s` seconds
    old; if the person is found in a younger one, that time is waited for. `found` of the result must be empty.
    """
    needles = _needles(store, person)
    salt = min(store.tombstones().salts, default=secrets.token_hex(16))  # the root's own, once there is one
    now = datetime.now(UTC).isoformat(timespec="seconds")
    buried = [{"digest": tombstone_digest(salt, i), "salt": salt, "erased_at": now} for i in person.buried()]
    store.upsert("tombstones", buried)
    tables: list[Table] = [table for table in SCHEMAS if table != "tombstones"]
    rows = {table: store.purge(table, person.clauses(table)) for table in tables}
    orphans = sum(_remove_orphans(store, table, orphan_age_s) for table in tables)
    job_files = _clean_jobs(store, needles)
    num_files, num_bytes, found = scan(store.root, needles)
    if found:
        time.sleep(orphan_age_s)
        orphans += sum(_remove_orphans(store, table, orphan_age_s) for table in tables)
        num_files, num_bytes, found = scan(store.root, needles)
    for table in tables:
        if left := store.read(table, columns=SCHEMAS[table].names[:1], where=person.clauses(table)).num_rows:
            found.append(f"{store.uri(table)}: {left} rows")
    return Erasure(
        rows=rows,
        job_files=job_files,
        orphans=orphans,
        files_scanned=num_files,
        bytes_scanned=num_bytes,
        found=found,
    )


def scan(root: str, needles: dict[bytes, str]) -> tuple[int, int, list[str]]:
    """Looks for byte strings (-> what they are) in every file of a root: (files, bytes, "file: what" of each hit)."""
    files, path = filesystem(root)
    num_files = num_bytes = 0
    hits: list[str] = []
    for info in _files(files, path):
        num_files += 1
        num_bytes += info.size
        hits += [f"{info.path}: {what}" for what in sorted(_found_in(files, info.path, needles))]
    return num_files, num_bytes, hits


def _found_in(files: pafs.FileSystem, path: str, needles: dict[bytes, str]) -> set[str]:
    overlap = max(map(len, needles), default=1) - 1
    found: set[str] = set()
    tail = b""
    try:
        with files.open_input_stream(path) as stream:
            while chunk := stream.read(_CHUNK):
                window = tail + chunk
                found |= {what for needle, what in needles.items() if needle in window}
                tail = window[len(window) - overlap :] if overlap else b""
    except FileNotFoundError:  # a running job tidied it away
        return set()
    return found


def _needles(store: Store, person: Person) -> dict[bytes, str]:
    """Byte strings that only this person's rows put on disk: ids, pieces of embeddings, pieces of pictures."""
    kept = _column(store, "faces", "face_id", None) - person.face_ids if person.face_ids else set()
    ids = person.photo_ids | person.identity_ids | person.image_ids
    # "<photo>-1" is also how "<photo>-10" begins
    ids |= {face for face in person.face_ids if not any(other.startswith(face) for other in kept)}
    ids |= {any_face(photo_of(face)) for face in person.face_ids}  # in reports, of pictures that show a whole photo
    needles = {an_id.encode(): "an erased id" for an_id in ids}
    wanted: list[tuple[Table, list[str]]] = [
        ("identities", ["words"]),
        ("faces", ["features", "features_mirror", "crop"]),
        ("images", ["image"]),
        ("metrics", ["face_embedding", "features"]),
    ]
    for table, columns in wanted:
        for row in store.read(table, columns=columns, where=person.clauses(table)).to_pylist():
            for column, value in row.items():
                if isinstance(value, bytes):
                    needles[value[_PNG_HEADER:][:_PICTURE_BYTES]] = f"{table}.{column}"
                else:
                    needles[np.array(value[:_WINDOW], np.float32).tobytes()] = f"{table}.{column}"
    return {needle: what for needle, what in needles.items() if len(needle) >= 8 and any(needle)}


def _remove_orphans(store: Store, table: Table, age_s: float) -> int:
    """Removes data files that no version of a table names: a job killed between writing and committing left them."""
    dataset = store.open(table)
    if dataset is None:
        return 0
    named = {
        file.path.rpartition("/")[2]
        for version in dataset.versions()
        for fragment in dataset.checkout_version(version["version"]).get_fragments()
        for file in fragment.data_files()
    }
    files, path = filesystem(f"{store.uri(table)}/data")
    oldest = datetime.now(UTC) - timedelta(seconds=age_s)
    orphans = [f for f in _files(files, path) if f.base_name not in named and f.mtime < oldest]
    for orphan in orphans:
        files.delete_file(orphan.path)
    return len(orphans)


def _clean_jobs(store: Store, needles: dict[bytes, str]) -> int:
    """Removes the person from ROOT/jobs. events.jsonl and report.html tell of a person in lines of their own (see
    pipelines/jobs: journal.py, report.py), which go; any other file that names the person goes altogether."""
    files, path = filesystem(f"{store.root}/jobs")
    changed = 0
    for info in _files(files, path):
        if not _found_in(files, info.path, needles):
            continue
        changed += 1
        if not info.path.endswith((".jsonl", ".html")):
            files.delete_file(info.path)
            continue
        with files.open_input_stream(info.path) as stream:
            lines = stream.read().splitlines(keepends=True)
        with files.open_output_stream(info.path) as stream:
            stream.write(b"".join(line for line in lines if not any(needle in line for needle in needles)))
    return changed


def _files(files: pafs.FileSystem, path: str) -> Iterator[pafs.FileInfo]:
    selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
    return (info for info in files.get_file_info(selector) if info.type == pafs.FileType.File)


def _column(store: Store, table: Table, column: str, where: str | None) -> set[str]:
    values: Sequence[str] = store.read(table, columns=[column], where=where)[column].to_pylist()
    return set(values)
