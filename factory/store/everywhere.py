"""Erasing a person from an operator's root and all its tenants' at once.

Names are left out here: what one tenant calls Ada is somebody else at another. A photo is the same photo everywhere,
and an identity is found by the faces that it was learned from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from factory.errors import IdentityNotFound
from factory.files import all_roots
from factory.ids import photo_of
from factory.store.alike import alike, joined, looks_of
from factory.store.erase import Erasure, Person, erase, find_person, needles_of, photos_of, without_copies
from factory.store.schemas import Table
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.traces import scan
from factory.store.unfinished import begun


def find_everywhere(
    root: str, *, photo_id: str | None = None, identity_id: str | None = None, content: bytes = b""
) -> list[tuple[Store, Person]]:
    """A person in each root of this operator: everybody on a photo, also where it is not known (it is not learned there
    later, either), or whoever an identity of any of the roots is, where that face is known.

    Raises IdentityNotFound, ValueError for a tenant's root.
    """
    stores = [Store(one) for one in all_roots(root)]
    if photo_id is not None:
        return [(store, find_person(store, photo_id=photo_id, content=content)) for store in stores]
    faces: set[str] = set()
    for store in stores:
        rows = store.read(
            "identities", columns=["face_id", "more_faces"], where=where_in("identity_id", [identity_id or ""])
        )
        for row in rows.to_pylist():
            faces |= {row["face_id"], *(row["more_faces"] or ())}
    if not faces:
        raise IdentityNotFound(f"neither {root} nor a tenant of it knows an identity {identity_id!r}")
    known = [(store, _known(store, faces)) for store in stores]
    return [(store, find_person(store, face_ids=mine)) for store, mine in known if mine]


def erase_everywhere(
    root: str, found: Sequence[tuple[Store, Person]]
) -> Iterator[tuple[Store, Person | None, Erasure]]:
    """Erases what `find_everywhere` found, root by root, and looks through the roots that had nothing (no Person): for
    all that was looked for elsewhere. Faces of all roots are compared with the person's of any."""
    needles, photos = dict[bytes, str](), set[str]()
    looks = joined([looks_of(store, person.clauses("faces")) for store, person in found])
    for store, person in found:
        needles |= needles_of(store, person)
        photos |= photos_of(person)
        begun(store, person)  # all before the first goes, by which the others were found
    for store, person in found:
        yield store, person, erase(store, person, looks=looks)
    erased = {store.root for store, _ in found}
    for one in all_roots(root):
        if one not in erased:
            others, not_compared = alike(Store(one), looks, "FALSE")
            done = scan(one, without_copies(Store(one), needles, others), photos)
            yield (
                Store(one),
                None,
                Erasure(
                    rows={},
                    files_scanned=done.num_files,
                    bytes_scanned=done.num_bytes,
                    found=done.found,
                    others=done.others,
                    alike=others,
                    not_compared=not_compared,
                ),
            )


def _known(store: Store, faces: set[str]) -> set[str]:
    """Those of the faces that a root knows, also as one of somebody's several."""
    where = where_in("photo_id", sorted({photo_of(face) for face in faces}))
    tables: tuple[Table, ...] = ("faces", "identities")
    rows = [store.read(table, columns=["face_id"], where=where)["face_id"].to_pylist() for table in tables]
    known = {face for ids in rows for face in ids if face in faces}
    several = store.read("identities", columns=["more_faces"], where="more_faces IS NOT NULL")["more_faces"].to_pylist()
    return known | {face for group in several for face in group if face in faces}
