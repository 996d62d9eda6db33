"""What a root holds of somebody: found by a photo, an identity, faces or a name."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa

from factory.errors import IdentityNotFound
from factory.ids import any_face, index_of, photo_of, spellings
from factory.store.alike import Alike
from factory.store.schemas import KEYS, SCHEMAS, Table
from factory.store.sql import quoted, where_in
from factory.store.tables import Store
from factory.store.told import of_their_other_photos
from factory.store.traces import Search, pieces_of, with_base64

_WRITTEN: Final[dict[Table, tuple[str, ...]]] = {
    "work": ("request",),
    "files": ("filename",),
    "lines": ("custom_id", "error"),
}
_IDS_OF_A_PATTERN: Final = 1000
_LONG_TEXT = 24  # characters; a shorter one holds no piece of a photo


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
    names: set[str] = field(default_factory=set)  # that mean this person, and nobody else who is called so
    asked: str = ""  # the photo_id, identity_id or name that they were found by
    alike: tuple[Alike, ...] = ()  # others of the root who look like them, once somebody has looked

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
        whose = sorted(self.identity_ids)
        if whose and table in ("files", "lines"):  # they have no other column for the first of several people
            clauses.append(f"array_has_any(people, [{', '.join(map(quoted, whose))}])")
        for column in _WRITTEN.get(table, ()):  # what a caller wrote may hold an id, too
            clauses += [
                f"regexp_like({column}, {quoted('|'.join(map(re.escape, whose[first : first + _IDS_OF_A_PATTERN])))})"
                for first in range(0, len(whose), _IDS_OF_A_PATTERN)
            ]
        return " OR ".join(clauses) or "FALSE"

    def buried(self) -> set[str]:
        """What the tombstones remember. `<photo_id>-any`: no face of the photo is prepared anew, as another detector
        may number them differently."""
        photos = {any_face(photo_of(face_id)) for face_id in self.face_ids}
        drawn = self.image_ids | self.video_ids | self.model_ids
        return self.photo_ids | self.face_ids | self.identity_ids | drawn | self.reject_ids | photos


def find_person(
    store: Store,
    *,
    photo_id: str | None = None,
    photo_ids: Collection[str] = (),
    identity_id: str | None = None,
    name: str | None = None,
    face_ids: Collection[str] = (),
    content: bytes = b"",
) -> Person:
    """The person of a photo (everybody on it; of several, on any of them), of an identity, of faces, or of a name (in
    all photos called so).

    A photo may be unknown to the root: then only the tombstone is set. `content` is its bytes, where they are at hand:
    rejects that quote them are the person's too. Raises IdentityNotFound for the other two.
    """
    faces = set(face_ids)
    photos = {*photo_ids, *([photo_id] if photo_id is not None else [])}
    rejects = _rejects_that_quote(store, content)
    if identity_id is not None:
        faces |= column_of(store, "identities", "face_id", where_in("identity_id", [identity_id]))
    if name is not None:
        named, told = (where_in(column, spellings(name)) for column in ("name", "person"))
        faces |= column_of(store, "faces", "face_id", f"{named} OR {told}")
        faces |= column_of(store, "identities", "face_id", named)
        faces |= _faces_by_other_name(store, name)
        whole = f"{named} AND reject_id = photo_id"
        photos |= column_of(store, "rejects", "photo_id", whole) - {photo_of(face) for face in faces}
        rejects |= column_of(store, "rejects", "reject_id", f"{named} AND photo_id = ''")
    if not faces and not photos and not rejects:
        told = store.nobody_called(identity_id or name or "")
        raise IdentityNotFound(f"{told}; by --photo everybody on a photo is found")
    faces |= of_their_other_photos(store, faces, photos)
    among = {photo_of(face) for face in faces}
    others = column_of(store, "faces", "face_id", where_in("photo_id", sorted(among))) - faces
    shared = {photo_of(face) for face in others}
    photos |= among - shared
    single = {face for face in faces if photo_of(face) in shared}
    who = f"{where_in('photo_id', sorted(photos))} OR {where_in('face_id', sorted(single))}"
    identities = column_of(store, "identities", "identity_id", who)
    images, videos = _drawn(store, "images", identities), _drawn(store, "videos", identities)
    models = column_of(store, "models", "model_id", where_in("identity_id", sorted(identities)))
    models |= column_of(store, "checkpoints", "model_id", where_in("identity_id", sorted(identities)))
    work = _asked_for(store, identities, photos | faces)
    names, asked = _own_names(store, identities), identity_id or name or photo_id or ""
    return Person(photos, single, identities, images, videos, models, rejects, work, content, names, asked)


def _drawn(store: Store, table: Table, identities: set[str]) -> set[str]:
    """Ids of pictures or clips that show one of these identities, alone or among others."""
    key = KEYS[table][0]
    alone = column_of(store, table, key, where_in("identity_id", sorted(identities)))
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
    there = column_of(store, "faces", "face_id", numbered) | column_of(store, "identities", "face_id", numbered)
    return {face for face in faces if not index_of(face)} | there


def _own_names(store: Store, identities: set[str]) -> set[str]:
    """Names that mean one of these identities, and nobody else who is called so."""
    names = column_of(store, "identities", "name", where_in("identity_id", sorted(identities))) - {""}
    owners = store.name_owners(sorted(names))
    return {spelled for name in names if owners.get(name) in identities for spelled in spellings(name)}


def column_of(store: Store, table: Table, column: str, where: str | None) -> set[str]:
    values: Sequence[str] = store.read(table, columns=[column], where=where)[column].to_pylist()
    return set(values)
