"""People whose photos a source told, without the photos that surely show somebody else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from factory.faces.people import embeddings, strangers
from factory.pack import Pack
from factory.store.people import matrix
from factory.store.queries import faces_by_id
from factory.store.tables import Store
from factory.store.told import ToldPerson, unclear_row

_AT_ONCE: Final = 2048  # faces of which the features are in memory, 6 kB each for a ViT of width 768
_COLUMNS: Final = ["face_id", "photo_id", "name", "face_index", "uri", "pack", "features", "features_mirror"]
_REMEDY: Final = "`--persons-as-told` learns it all the same"


def without_strangers(store: Store, pack: Pack, people: Sequence[ToldPerson]) -> Iterator[ToldPerson]:
    """The same people: faces that surely are not theirs (`factory.faces.people.strangers`, the pack's `other_person`)
    are no longer among `face_ids` and have rows in `unclear`. Of a pack that knows no such cosine they are as given."""
    least, waiting, num = pack.fr_vit.other_person, list[ToldPerson](), 0
    for person in people:
        waiting.append(person)
        num += len(person.face_ids)
        if num >= _AT_ONCE:
            yield from _looked_at(store, pack.name, waiting, least)
            waiting, num = [], 0
    yield from _looked_at(store, pack.name, waiting, least)


def _looked_at(store: Store, pack: str, people: Sequence[ToldPerson], least: float | None) -> Iterator[ToldPerson]:
    several = [face for person in people if len(person.face_ids) > 1 for face in person.face_ids]
    if least is None or not several:
        yield from people
        return
    found = faces_by_id(store, pack, several, _COLUMNS)
    if not found.num_rows:  # all of them were erased meanwhile
        yield from people
        return
    compared_NF = embeddings(matrix(found["features"]), matrix(found["features_mirror"]))
    row_of = {face_id: row for row, face_id in enumerate(found["face_id"].to_pylist())}
    rows = found.drop_columns(["features", "features_mirror"])
    for person in people:
        mine = [row_of[face] for face in person.face_ids if face in row_of]  # else it was erased meanwhile
        others = strangers(compared_NF[mine], least) if len(mine) > 1 else {}
        gone = {rows["face_id"][mine[number]].as_py(): mean for number, mean in others.items()}
        refused = [
            _refused(rows.slice(row_of[face], 1).to_pylist()[0], mean, least, unknown=len(others) == len(mine))
            for face, mean in gone.items()
        ]
        left = [face for face in person.face_ids if face not in gone]
        yield replace(person, face_ids=left, unclear=[*person.unclear, *refused]) if gone else person


def _refused(row: dict[str, Any], mean: float, least: float, *, unknown: bool) -> dict[str, Any]:
    """A row of `rejects`."""
    far = f"its mean cosine to the person's other photos is {mean:.2f}, and below {least:.2f} it is somebody else's"
    which = "; which of them show the person cannot be told: add another photo, or" if unknown else ";"
    return unclear_row(row, "other_person", f"{far}{which} {_REMEDY}")
