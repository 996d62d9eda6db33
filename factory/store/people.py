"""Who comes more than once in a root: faces of one person, and near-duplicates: of one photo and its copies."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from factory.errors import PackError
from factory.faces.people import embeddings, seen_before
from factory.pack import Pack
from factory.store.queries import faces_of_pack
from factory.store.tables import Store

MOST_FACES: Final = 100_000  # that a job compares: some minutes of a CPU; more are left to whoever asks for them
_COLUMNS: Final = ["face_id", "photo_id", "name", "box", "features", "features_mirror"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """A face of somebody whom another one shows that came before, or is larger."""

    face_id: str
    photo_id: str
    name: str
    of_face_id: str
    of_photo_id: str
    of_name: str
    similarity: float  # cosine of the features, -1..1
    near_duplicate: bool  # as alike as a photo and a copy of it: saved again, scaled, mirrored
    by_name: bool = False  # less alike than that, and called as a copy (copies.py)

    def __str__(self) -> str:
        return f"{self.name}: {self.kind} as {self.of_name} ({self.similarity:.3f})"

    @property
    def kind(self) -> str:
        """In words."""
        if self.by_name:
            return "probably the same photo (by name)"
        return "nearly the same picture" if self.near_duplicate else "the same person"


def seen_again(
    store: Store, pack: Pack, *, before: Collection[str] = (), but: Collection[str] = (), least: float | None = None
) -> list[Again]:
    """The faces of a pack that show somebody again, each with the face that stands for that person.

    That is the largest of them, or one of `before` (face_ids), which are never told themselves. Faces in `but` do not
    count. `least` is a cosine in place of the pack's `same_person`. Raises PackError if neither is given.
    """
    person = same_person(pack) if least is None else least
    copy = max(person, pack.fr_vit.near_duplicate or 2.0)  # which no cosine is
    table = faces_of_pack(store, pack.name, _COLUMNS)
    table = table.filter(pa.array([face_id not in but for face_id in table["face_id"].to_pylist()], pa.bool_()))
    if table.num_rows < 2:
        return []
    table, first = _in_order(table, before)
    faces_NF = embeddings(matrix(table["features"]), matrix(table["features_mirror"]))
    rows = table.select(["face_id", "photo_id", "name"]).to_pylist()
    copies, people = seen_before(faces_NF, copy, first), seen_before(faces_NF, person, first)
    near = copies[0] >= 0
    earlier, cosine = np.where(near, copies[0], people[0]), np.where(near, copies[1], people[1])
    found = np.flatnonzero(earlier >= 0)
    return [_again(rows[i], rows[earlier[i]], float(cosine[i]), bool(near[i])) for i in found]


def same_person(pack: Pack) -> float:
    """The cosine from which two faces are one person's. Raises PackError, with the remedy, if the pack knows none."""
    if pack.fr_vit.same_person is None:
        raise PackError(
            f"pack {pack.name!r} does not say how alike two faces of one person are; write it as same_person under "
            "[fr_vit] in its pack.toml: a cosine, which `identity-factory identities people --at 0.9` tries"
        )
    return pack.fr_vit.same_person


def _in_order(table: pa.Table, before: Collection[str]) -> tuple[pa.Table, int]:
    """Those of `before` first, and how many they are; then by size, the largest first."""
    face_ids, boxes_N4 = table["face_id"].to_pylist(), matrix(table["box"])
    area = np.prod(boxes_N4[:, 2:] - boxes_N4[:, :2], axis=1)
    order = sorted(range(len(face_ids)), key=lambda i: (face_ids[i] not in before, -area[i], face_ids[i]))
    return table.take(order), sum(face_id in before for face_id in face_ids)


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """float32 [N, ...] of lists of one length."""
    return np.asarray(column.combine_chunks().flatten(), np.float32).reshape(len(column), -1)


def _again(face: dict[str, Any], of: dict[str, Any], similarity: float, near: bool) -> Again:
    named = {f"of_{key}": value for key, value in of.items()}
    return Again(**face, **named, similarity=similarity, near_duplicate=near)
