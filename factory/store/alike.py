"""Who else of a root looks like somebody who is erased: another photo of them, or a copy of the same one, stays, and is
told. Nobody is erased for a likeness.

Each face of the root is compared with the person's, some thousand at a time: a part of what the search for
traces reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from factory.errors import PackError
from factory.faces.people import embeddings
from factory.pack import load_pack
from factory.store.commits import retried
from factory.store.sql import where_in
from factory.store.tables import Store

# Embeddings of somebody's faces, float32 [N, F], by the pack that prepared them and F: two packs may have one name
Looks: TypeAlias = Mapping[tuple[str, int], np.ndarray]
SAME_PICTURE: Final = 0.9999  # cosine: the crops are the same to the pixel, or nearly so, whatever the pack says
_FEATURES: Final = ["features", "features_mirror"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Alike:
    """Somebody whose face looks like that of whoever is erased."""

    face_id: str
    photo_id: str
    name: str
    identity_id: str = ""  # empty: nobody learned this face
    similarity: float  # cosine of the features, -1..1
    near_duplicate: bool  # as alike as a photo and a copy of it: saved again, scaled, mirrored

    def __str__(self) -> str:
        return f"{self.name} ({self.kind}, {self.chosen_by})"

    @property
    def kind(self) -> str:
        """In words."""
        return "nearly the same picture" if self.near_duplicate else "the same person"

    @property
    def chosen_by(self) -> str:
        """How `identities erase` is told of them: a face that nobody learned goes with everybody on its photo."""
        return f"--identity {self.identity_id}" if self.identity_id else f"--photo {self.photo_id}"


def looks_of(store: Store, faces: str) -> Looks:
    """The faces of these rows (a condition in SQL), as they are compared."""
    rows = store.read("faces", columns=["pack", *_FEATURES], where=faces)
    packs, widths = rows["pack"].to_pylist(), pc.list_value_length(rows["features"]).to_pylist()
    kinds = sorted(set(zip(packs, widths, strict=True)))
    return {
        (pack, width): _embeddings(_as_wide(rows.filter(pc.equal(rows["pack"], pack)), width)) for pack, width in kinds
    }


def joined(several: Iterable[Looks]) -> Looks:
    """One person's looks in several roots."""
    together: dict[tuple[str, int], np.ndarray] = {}
    for looks in several:
        together |= {kind: np.concatenate([together.get(kind, mine[:0]), mine]) for kind, mine in looks.items()}
    return together


def alike(store: Store, looks: Looks, own: str) -> tuple[list[Alike], list[str]]:
    """Everybody who looks like these, but for rows of `own` (a condition in SQL), each once and the likest first; and
    the packs that are not here, or do not say from where on faces are one person's, so that theirs were not compared:
    of these whoever has the same picture is found alone.
    """
    found, unknown = list[dict[str, Any]](), list[str]()
    for (pack, _), mine_NF in looks.items():
        person, copy = _thresholds(pack)
        where = f"{where_in('pack', [pack])} AND NOT ({own})"
        faces = retried(partial(_faces_like, store, mine_NF, person or SAME_PICTURE, where))
        found += [{**face, "near_duplicate": face["similarity"] >= (copy or SAME_PICTURE)} for face in faces]
        if person is None and any(map(len, store.batches("faces", ["face_id"], where))):
            unknown.append(pack)
    learned = _identities(store, [face["face_id"] for face in found])
    people: dict[str, Alike] = {}
    for face in sorted(found, key=lambda face: (-face["similarity"], face["face_id"])):
        for identity_id, name in learned.get(face["face_id"], [("", face["name"])]):
            who = Alike(**{**face, "name": name, "identity_id": identity_id})
            people.setdefault(identity_id or face["face_id"], who)
    return list(people.values()), unknown


def still_there(store: Store, some: Iterable[Alike]) -> list[Alike]:
    """Those whose faces nobody has erased meanwhile."""
    some = list(some)
    where = where_in("face_id", sorted({one.face_id for one in some}))
    there = set(store.read("faces", columns=["face_id"], where=where)["face_id"].to_pylist()) if some else set()
    return [one for one in some if one.face_id in there]


def _thresholds(pack: str) -> tuple[float | None, float | None]:
    """The cosines from which two faces are one person's, and may be copies of one photo; None: not known."""
    try:
        features = load_pack(pack).fr_vit
    except PackError:  # as of another machine
        return None, None
    return features.same_person or features.near_duplicate, features.near_duplicate


def _faces_like(store: Store, mine_NF: np.ndarray, least: float, where: str) -> list[dict[str, Any]]:
    found = list[dict[str, Any]]()
    for some in store.batches("faces", ["face_id", "photo_id", "name", *_FEATURES], where):
        some = _as_wide(some, mine_NF.shape[1])
        if some.num_rows:
            cosines_M = (_embeddings(some) @ mine_NF.T).max(axis=1)
            for row in np.flatnonzero(cosines_M >= least).tolist():
                [face] = some.select(["face_id", "photo_id", "name"]).slice(row, 1).to_pylist()
                found.append({**face, "similarity": float(cosines_M[row])})
    return found


def _identities(store: Store, face_ids: list[str]) -> dict[str, list[tuple[str, str]]]:
    """identity_id and name of whoever was learned of these faces, alone or with others, by the face."""
    if not face_ids:
        return {}
    learned: dict[str, list[tuple[str, str]]] = {}
    wanted, where = set(face_ids), f"{where_in('face_id', face_ids)} OR more_faces IS NOT NULL"
    rows = store.read("identities", columns=["identity_id", "name", "face_id", "more_faces"], where=where).to_pylist()
    for row in rows:
        for face in wanted.intersection([row["face_id"], *(row["more_faces"] or ())]):
            learned.setdefault(face, []).append((row["identity_id"], row["name"]))
    return learned


def _as_wide(rows: pa.Table, width: int) -> pa.Table:
    """Those whose features have this width F."""
    return rows.filter(pc.equal(pc.list_value_length(rows["features"]), width))


def _embeddings(rows: pa.Table) -> np.ndarray:
    """float32 [N, F] of N > 0 rows of one width."""
    crops_NF, mirrors_NF = (
        np.asarray(rows[column].combine_chunks().flatten(), np.float32).reshape(len(rows), -1) for column in _FEATURES
    )
    return embeddings(crops_NF, mirrors_NF)
