"""What is kept of uploaded photos, and that it goes again where nobody was learned from them."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Final

from factory.ids import photo_of
from factory.store.commits import retried
from factory.store.digests import DigestSet, digests
from factory.store.queries import of_pack
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.told import UPLOADED

_AT_ONCE: Final = 256  # photos that are forgotten together


def claim_upload(store: Store, pack: str, photo_id: str) -> bool:
    """Writes what is kept of a photo anew, as it is, if it is an upload's: whoever is about to forget it looks again
    who wants it. False: nothing is kept of it."""
    mine = f"{of_pack(pack)} AND {where_in('photo_id', [photo_id])}"

    def claim() -> bool:
        faces = store.open("faces")
        if faces is None:
            return False
        if "uri" in faces.schema.names:
            faces.update({"uri": "uri"}, where=f"{mine} AND uri = '{UPLOADED}'")
        return bool(faces.count_rows(filter=mine))

    return retried(claim)


def forget_uploads(store: Store, photo_ids: Collection[str]) -> None:
    """Removes what is kept of uploaded photos of which nobody was learned, nor is to be.

    Whoever wants somebody on a photo writes so to the table `work` first and then the faces, also those that are there
    (`claim_upload`). So faces that are as they were before that table was read are nobody's; others are left, or the
    deletion fails, and all of it is begun anew.
    """
    mine = f"{where_in('photo_id', sorted(photo_ids))} AND uri = '{UPLOADED}'"
    if gone := retried(partial(_delete_nobodys, store, mine)):
        store.purge("faces", "FALSE")  # the files and versions that still hold them
        left = set(store.read("faces", columns=["photo_id"], where=where_in("photo_id", gone))["photo_id"].to_pylist())
        store.delete("names", where_in("photo_id", sorted(set(gone) - left)))


def _delete_nobodys(store: Store, uploads: str) -> list[str]:
    """The photo_ids of what was deleted. Raises OSError (a conflict) where some of it was written meanwhile."""
    faces = store.open("faces")
    if faces is None or "uri" not in faces.schema.names:
        return []
    rows = faces.to_table(columns=["photo_id", "face_id"], filter=uploads).to_pylist()
    if not rows:
        return []
    under_way = where_in("status", ["queued", "in_progress"])
    wanted = "\n".join(store.read("work", columns=["request"], where=under_way)["request"].to_pylist())
    kept = {row["photo_id"] for row in rows if row["face_id"] in wanted}
    # only now: whoever was under way before may be learned by now
    photos = where_in("photo_id", sorted({row["photo_id"] for row in rows}))
    kept |= set(store.read("identities", columns=["photo_id"], where=photos)["photo_id"].to_pylist())
    several = store.read("identities", columns=["more_faces"], where="more_faces IS NOT NULL")["more_faces"].to_pylist()
    kept |= {photo_of(face) for faces_of_one in several for face in faces_of_one}
    if gone := sorted({row["photo_id"] for row in rows} - kept):
        faces.delete(f"{where_in('photo_id', gone)} AND uri = '{UPLOADED}'", conflict_retries=0)
    return gone


def forget_nobodys_uploads(store: Store) -> None:
    """`forget_uploads`, of whatever photos: what a server left that died before it had forgotten them itself."""
    photos = sorted(retried(partial(_of_nobody, store)))
    for first in range(0, len(photos), _AT_ONCE):
        forget_uploads(store, photos[first : first + _AT_ONCE])


def _of_nobody(store: Store) -> set[str]:
    """Uploaded photos from which nobody is learned yet."""
    uploads = {
        photo for batch in store.batches("faces", ["photo_id"], f"uri = '{UPLOADED}'") for photo in batch[0].to_pylist()
    }
    if not uploads:
        return uploads
    used = DigestSet(
        digests(photo_of(face) for row in batch.to_pylist() for face in (row["face_id"], *(row["more_faces"] or ())))
        for batch in store.batches("identities", ["face_id", "more_faces"])
    )
    found = sorted(uploads)
    return {photo for photo, known in zip(found, used.hold(digests(found)), strict=True) if not known}
