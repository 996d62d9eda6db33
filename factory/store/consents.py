"""Consents of the people of a root: given anew, and what is over."""

from __future__ import annotations

from factory.consent import Consent
from factory.ids import photo_of
from factory.store.schemas import Table
from factory.store.sql import where_in
from factory.store.tables import Store

_TABLES: tuple[Table, ...] = ("faces", "identities")


def set_consent(store: Store, name_or_id: str, consent: Consent) -> int:
    """Writes a consent to everything that was learned from a person's photos; returns how many rows. Raises
    IdentityNotFound."""
    found = store.find_identity(name_or_id)
    photos = {found.photo_id, *map(photo_of, found.more_faces or ())}
    return sum(set_photos_consent(store, photo_id, consent) for photo_id in sorted(photos))


def set_photos_consent(store: Store, photo_id: str, consent: Consent) -> int:
    """Writes a consent to everything that was learned from a photo; returns how many rows."""
    num = 0
    for table in _TABLES:
        rows = store.read(table, where=where_in("photo_id", [photo_id])).to_pylist()
        store.upsert(table, [row | consent.columns() for row in rows])
        num += len(rows)
    return num


def expired_photos(store: Store, now: float) -> list[str]:
    """photo_ids of photos whose people's consent is over at this Unix time, s."""
    found: set[str] = set()
    for table in _TABLES:
        found |= set(store.read(table, columns=["photo_id"], where=f"consent_expires <= {now}")["photo_id"].to_pylist())
    return sorted(found)
