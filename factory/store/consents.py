"""Consents of the people of a root: given anew, and what is over."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from factory.consent import COLUMNS, Consent
from factory.errors import ConsentExpired
from factory.ids import photo_of
from factory.records import Identity
from factory.store.schemas import Table
from factory.store.sql import where_in
from factory.store.tables import Store

_TABLES: tuple[Table, ...] = ("faces", "identities")
Row = TypeVar("Row", bound=Mapping[str, Any])


def set_consent(store: Store, name_or_id: str, consent: Consent) -> int:
    """Writes a consent to everything that was learned from a person's photos; returns how many rows. Raises
    IdentityNotFound."""
    found = store.find_identity(name_or_id)
    return set_photo_consents(store, dict.fromkeys(_photos(found.photo_id, found.more_faces), consent))


def set_photo_consents(store: Store, told: Mapping[str, Consent]) -> int:
    """Writes consents, by photo_id, to everything that was learned from these photos; returns how many rows. Of whom
    other photos were learned, too, it is what all of them agree to."""
    mine = where_in("photo_id", sorted(told))
    faces = store.read("faces", where=mine).to_pylist()
    store.upsert("faces", [row | told[row["photo_id"]].columns() for row in faces])
    several = store.read(
        "identities", columns=["identity_id", "photo_id", "more_faces"], where="more_faces IS NOT NULL"
    )
    among = [
        row["identity_id"]
        for row in several.to_pylist()
        if not told.keys().isdisjoint(_photos(row["photo_id"], row["more_faces"]))
    ]
    people = store.read("identities", where=f"{mine} OR {where_in('identity_id', among)}").to_pylist()
    photos = {row["identity_id"]: _photos(row["photo_id"], row["more_faces"]) for row in people}
    others = {photo for each in photos.values() for photo in each} - told.keys()
    consents = {**_kept(store, others), **told}
    for row in people:
        row |= Consent.of_all([consents[one] for one in photos[row["identity_id"]] if one in consents]).columns()
    store.upsert("identities", people)
    return len(faces) + len(people)


def _photos(photo_id: str, more_faces: Iterable[str] | None) -> list[str]:
    """The photos that an identity was learned from."""
    return list(dict.fromkeys([photo_id, *map(photo_of, more_faces or ())]))


def _kept(store: Store, photo_ids: Iterable[str]) -> dict[str, Consent]:
    """What is written down of photos, by photo_id; all faces of one have the same."""
    columns = ["photo_id", *COLUMNS]
    rows = store.read("faces", columns=columns, where=where_in("photo_id", sorted(photo_ids)))
    return {row["photo_id"]: Consent.of(row) for row in rows.to_pylist()}


def told_anew(store: Store, told: Mapping[str, Consent], now: float) -> tuple[dict[str, Consent], set[str]]:
    """Of known photos, by photo_id, of which a source tells consents: what is to be written, at this Unix time, s; and
    those that stay, though it tells another one.

    Written is what takes something back: a no, and an earlier end of what is written down already; and what is told
    where nothing was. A later end may as well be older than one that somebody wrote down by hand.
    """
    new, other = dict[str, Consent](), set[str]()
    for photo_id, old in _kept(store, told).items():
        mine = told[photo_id]
        if mine.refuses:
            if not old.has_expired(now):
                new[photo_id] = Consent(reference=mine.reference, expires=now)
        elif (old.reference is None and old.expires is None) or (
            mine.reference == old.reference and mine.ends_before(old)
        ):
            new[photo_id] = mine
        elif (mine.reference, mine.expires) != (old.reference, old.expires):
            other.add(photo_id)
    return new, other


def expired_people(store: Store, now: float) -> set[str]:
    """identity_ids of those whose consent is over at this Unix time, s."""
    rows = store.read("identities", columns=["identity_id"], where=f"consent_expires <= {now}")
    return set(rows["identity_id"].to_pylist())


def still_agreed(store: Store, rows: Sequence[Row], *, named: bool) -> list[Row]:
    """Of identities, clips or heads those whose people's consent is not over. Raises ConsentExpired instead where they
    were asked for by name."""
    over = expired_people(store, time.time())
    kept = [row for row in rows if over.isdisjoint(row.get("people") or [row["identity_id"]])]
    if named and len(kept) < len(rows):
        raise ConsentExpired("what somebody among these agreed to is over; `identities consent` tells a new one")
    return kept


def agreed_people(store: Store, names_or_ids: Sequence[str] | None) -> list[Identity]:
    """As Store.identities, but for those whose consent is over. Raises ConsentExpired instead where one was named."""
    people, now = store.identities(names_or_ids), time.time()
    if names_or_ids is not None:
        for who in people:
            who.check_consent(now)
    return [who for who in people if who.consent_expires is None or who.consent_expires > now]


def expired_photos(store: Store, now: float) -> list[str]:
    """photo_ids of photos whose people's consent is over at this Unix time, s."""
    found: set[str] = set()
    for table in _TABLES:
        found |= set(store.read(table, columns=["photo_id"], where=f"consent_expires <= {now}")["photo_id"].to_pylist())
    return sorted(found)
