"""What a job knows of photos before it reads them, however many there are: digests of their ids and names."""

from __future__ import annotations

from functools import partial

import numpy as np

from factory.ids import photo_name_of, stem_of_face
from factory.store.commits import retried
from factory.store.digests import DigestSet, digests, pairs
from factory.store.queries import OF_PREPARE
from factory.store.sql import where_in
from factory.store.tables import Store


def prepared(store: Store, pack: str) -> tuple[DigestSet, DigestSet, DigestSet]:
    """Digests of the photo_ids that a pack prepared or refused, of the (photo_id, name) that any table knows, and of
    names that no other photo can have: one of its faces would be called as one that is there ("a-1", the second of "a",
    beside a photo "a-1")."""
    return retried(partial(_prepared, store, pack))


def _prepared(store: Store, pack: str) -> tuple[DigestSet, DigestSet, DigestSet]:
    photos, named, taken = list[np.ndarray](), list[np.ndarray](), list[np.ndarray]()
    of_pack = where_in("pack", [pack])
    for faces in store.batches("faces", ["photo_id", "name", "face_index"], of_pack):
        ids, names, indexes = (column.to_pylist() for column in faces.columns)
        photos.append(digests(ids))
        named.append(digests(pairs(ids, map(photo_name_of, names, indexes))))
        others = (name if index else stem_of_face(name) for name, index in zip(names, indexes, strict=True))
        taken.append(digests(filter(None, others)))
    for rejects in store.batches("rejects", ["reject_id", "photo_id", "name"], f"{of_pack} AND {OF_PREPARE}"):
        reject_ids, ids, names = (column.to_pylist() for column in rejects.columns)
        # face rejects are no proof that their photo is done
        photos.append(digests(an_id for an_id, reject in zip(ids, reject_ids, strict=True) if an_id == reject))
        named.append(digests(pairs(ids, names)))
    for more in store.batches("names", ["photo_id", "name"]):
        named.append(digests(pairs(*(column.to_pylist() for column in more.columns))))
    return DigestSet(photos), DigestSet(named), DigestSet(taken)
