"""Whom texts name: what a prompt is searched for where names stand in it as they are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any, Final

from factory.ids import index_of, photo_of, spellings, stem_of_face
from factory.store.sql import where_in
from factory.store.tables import Store

_READ_THROUGH: Final = 10_000  # identities whose names are looked through


def called(store: Store, texts: Collection[str], fingerprint: str) -> dict[str, str]:
    """Those of these texts that are the id of an identity of this text encoder, or whose newest bearer it is, each for
    itself."""
    where = f"{where_in('identity_id', sorted(texts))} OR {where_in('name', sorted(texts))}"
    rows = _newest_last(store, where)
    found = {row["name"]: row for row in rows} | {row["identity_id"]: row for row in rows}
    return {text: text for text in texts if text in found and found[text]["fingerprint"] == fingerprint}


def called_in_any_case(store: Store, texts: Collection[str], fingerprint: str) -> dict[str, str]:
    """The same whatever letters are capitals, with the name as it is stored: no index knows it, so nobody is found in
    a root of very many."""
    if store.count("identities") > _READ_THROUGH:
        return {}
    plain = {text: text.lower() for text in texts}
    rows = _newest_last(store, where_in("lower(name)", sorted(set(plain.values()))))
    found = {row["name"].lower(): row for row in rows}
    mine = {low: row["name"] for low, row in found.items() if row["fingerprint"] == fingerprint}
    return {text: mine[low] for text, low in plain.items() if low in mine}


def namesakes(store: Store, texts: Collection[str]) -> dict[str, list[str]]:
    """Of those of these texts that are a name: the ids of all whom it means, the newest first, where they were not
    learned from the same photos. Whoever was learned again, also with more photos, is no namesake of themselves."""
    names = {spelling: text for text in texts for spelling in spellings(text)}
    columns = ["identity_id", "name", "photo_id", "more_faces", "created_at"]
    rows = store.read("identities", columns=columns, where=where_in("name", sorted(names))).to_pylist()
    found = defaultdict[str, list[str]](list)
    photos = defaultdict[str, set[str]](set)  # of those found, by text
    for row in sorted(rows, key=lambda row: (row["created_at"], row["identity_id"]), reverse=True):
        text, mine = names[row["name"]], {row["photo_id"], *map(photo_of, row["more_faces"] or ())}
        if mine.isdisjoint(photos[text]):
            found[text].append(row["identity_id"])
            photos[text] |= mine
    return {text: ids for text, ids in found.items() if len(ids) > 1}


def as_their_files(store: Store, texts: Collection[str]) -> dict[str, list[str]]:
    """Of those of these texts that are the name of a photo's second face or a later one, "ada-1": the names of others
    whose files are called so, "photos/ada-1" and "ada-1.jpg". Of nobody in a root of very many."""
    maybe = sorted(text for text in texts if stem_of_face(text))
    rows = store.read("identities", columns=["name", "face_id"], where=where_in("name", maybe)).to_pylist()
    faces = sorted({row["name"] for row in rows if index_of(row["face_id"])})
    names = names_of_all(store) if faces else []
    found = {
        text: [name for name in names if name != text and text in (name.rpartition("/")[2], PurePosixPath(name).stem)]
        for text in faces
    }
    return {text: others for text, others in found.items() if others}


def names_of_all(store: Store) -> list[str]:
    """Everybody's names, each once; none of a root of very many."""
    if store.count("identities") > _READ_THROUGH:
        return []
    return sorted(set(store.read("identities", columns=["name"])["name"].to_pylist()))


def _newest_last(store: Store, where: str) -> list[dict[str, Any]]:
    columns = ["identity_id", "name", "created_at", "fingerprint"]
    rows = store.read("identities", columns=columns, where=where).to_pylist()
    return sorted(rows, key=lambda row: (row["created_at"], row["identity_id"]))
