"""Who was erased from a root: salted hashes of ids, which tell nothing to whoever has not got the photo."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from factory.ids import any_face, face_id, photo_of
from factory.store.schemas import KEYS, Table

# In every table, whose row it is. A reject's id may be a photo's, a face's or an identity's (factory/records.py).
ID_COLUMNS: Final = ("photo_id", "face_id", "identity_id", "image_id", "video_id", "model_id", "reject_id")


def tombstone_digest(salt: str, erased_id: str) -> str:
    """What a tombstone keeps of an erased id: with the photo at hand it is recognised, without it nothing is told."""
    return hashlib.sha256(f"{salt}:{erased_id}".encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Who was erased from a root. All erasures share the root's salt, so an id costs one hash; more salts are there
    where the first erasures came at once, or where an older version gave each its own."""

    salts: frozenset[str]
    digests: frozenset[str]

    def hold(self, an_id: str) -> bool:
        """Whether this photo_id, face_id, identity_id, image_id, video_id, model_id or reject_id was erased."""
        return any(tombstone_digest(salt, an_id) in self.digests for salt in self.salts)

    def hold_photo(self, photo_id: str) -> bool:
        """Whether a photo is not to be prepared: it was erased, or one of the faces on it."""
        return self.hold(photo_id) or self.hold(any_face(photo_id))

    def hold_row(self, table: Table, row: Mapping[str, Any]) -> bool:
        """Whether a row must not be written: it is about somebody erased, or may be. Of a photo on which somebody was
        erased no face is prepared anew, as its faces may be numbered differently, and no reject is kept; its other
        names are its largest face's."""
        if not self.salts:
            return False
        ids = [row[name] for name in ID_COLUMNS if row.get(name)]
        ids += row.get("people") or ()  # of a picture or clip
        more = row.get("more_faces") or ()  # of an identity
        ids += [*more, *map(photo_of, more)]
        photo = row.get("photo_id")
        if photo and table in ("faces", "rejects"):
            ids.append(any_face(photo))
        if photo and table == "names":
            ids.append(face_id(photo, 0))
        return any(map(self.hold, ids))

    def spared(self, table: Table, rows: pa.Table) -> list[int]:
        """Numbers of the rows to be written: the last one of each key, but for those that must not be."""
        telling = (*KEYS[table], *ID_COLUMNS, "people", "more_faces")
        ids = rows.select([name for name in rows.schema.names if name in telling])
        listed = ids.to_pylist()
        last = {tuple(row[key] for key in KEYS[table]): number for number, row in enumerate(listed)}
        return [number for number in last.values() if not self.hold_row(table, listed[number])]
