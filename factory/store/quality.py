"""How good people's photos are, and what was learned from them: what the endpoint and the command line show."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from factory.records import Identity
from factory.scores import faults
from factory.store.queries import faces_by_id
from factory.store.rows import decode_png
from factory.store.sql import where_in
from factory.store.tables import Store


def photo_card(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is told of the photo of a row of `faces`: `score` and its parts, 0..1, and `faults` in words; None: a
    version prepared it that measured nothing."""
    if row["quality_parts"] is None:
        return None
    parts = {"score": row["quality"], **row["quality_parts"]}
    rounded = {name: round(value, 3) for name, value in parts.items()}
    return {**rounded, "faults": faults(row["quality_parts"])}


def photo_qualities(store: Store, identity_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By identity_id the `photo_card` of the photo it was learned from (of several the best); without those whose face
    is gone, or was not measured."""
    columns = ["identity_id", "face_id", "pack", "more_faces"]
    people = store.read("identities", columns=columns, where=where_in("identity_id", identity_ids)).to_pylist()
    faces = {who["identity_id"]: (who["pack"], [who["face_id"], *(who["more_faces"] or ())]) for who in people}
    cards = {an_id: photo_card(row) for an_id, row in _best(store, faces).items()}
    return {an_id: card for an_id, card in cards.items() if card is not None}


def crops_of(store: Store, people: Iterable[Identity]) -> dict[str, np.ndarray]:
    """By identity_id the aligned crop, uint8 [S, S, 3] RGB, of the face that each was learned from (of several that of
    the best photo); without those whose face is gone."""
    faces = {who.identity_id: (who.pack, [who.face_id, *(who.more_faces or ())]) for who in people}
    several = {an_id: own for an_id, own in faces.items() if len(own[1]) > 1}
    keys = {an_id: (pack, own[0]) for an_id, (pack, own) in faces.items()}
    keys |= {an_id: (row["pack"], row["face_id"]) for an_id, row in _best(store, several).items()}
    rows = _rows(store, keys.values(), ["face_id", "pack", "crop"])
    return {an_id: decode_png(rows[key]["crop"]) for an_id, key in keys.items() if key in rows}


def _best(store: Store, faces: Mapping[str, tuple[str, Sequence[str]]]) -> dict[str, dict[str, Any]]:
    """By identity_id, of the faces (of a pack) that each was learned from, that of the best photo, and how good it is:
    by its score, and of those without one the first."""
    keys = {(pack, face) for pack, own in faces.values() for face in own}
    rows = _rows(store, keys, ["face_id", "pack", "quality", "quality_parts"])
    found = {an_id: [rows[pack, face] for face in own if (pack, face) in rows] for an_id, (pack, own) in faces.items()}
    return {an_id: max(own, key=lambda row: row["quality"] or 0.0) for an_id, own in found.items() if own}


def _rows(store: Store, keys: Collection[tuple[str, str]], columns: list[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """Rows of `faces` by pack and face_id."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for pack in sorted({pack for pack, _ in keys}):
        own = faces_by_id(store, pack, sorted({face for of, face in keys if of == pack}), columns)
        found |= {(pack, row["face_id"]): row for row in own.to_pylist()}
    return found


def assessed(store: Store, identity_ids: Sequence[str], protocol: str | None = None) -> dict[str, dict[str, Any]]:
    """Rows of `quality` by identity_id: of these people, and of one protocol if it is named."""
    where = where_in("identity_id", identity_ids)
    if protocol is not None:
        where += f" AND {where_in('protocol', [protocol])}"
    return {row["identity_id"]: row for row in store.read("quality", where=where).to_pylist()}


def with_verdicts(store: Store, columns: Sequence[str]) -> list[dict[str, Any]]:
    """These columns (identity_id and created_at among them) of every identity, newest last, with `quality` and
    `verdict`; None: not assessed."""
    rows: list[dict[str, Any]] = store.read("identities", columns=list(columns)).sort_by("created_at").to_pylist()
    measures = ["identity_id", "quality", "verdict"]
    known = {row["identity_id"]: row for row in store.read("quality", columns=measures).to_pylist()}
    nothing = dict.fromkeys(measures)
    return [{**known.get(row["identity_id"], nothing), **row} for row in rows]


def quality_cards(store: Store, identity_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """By identity_id what an answer tells of how good somebody is: of the photo, and of what was learned of it; null:
    it was not measured."""
    photos, known = photo_qualities(store, identity_ids), assessed(store, identity_ids)
    return {an_id: {"photo_quality": photos.get(an_id), "quality": _card(known.get(an_id))} for an_id in identity_ids}


def _card(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if row is None:
        return None
    numbers = {name: row[name] for name in ("quality", "likeness", "text_alignment")}
    rounded = {name: None if value is None else round(value, 3) for name, value in numbers.items()}
    return {"verdict": row["verdict"], **rounded, "num_pictures": row["num_pictures"], "num_faces": row["num_faces"]}
