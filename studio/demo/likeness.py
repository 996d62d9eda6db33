"""Face similarity of pictures to photos, measured by the pack's judge, which no training used."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Embed = Callable[[np.ndarray], np.ndarray | None]  # uint8 [H, W, 3] RGB -> float32 [E] of unit length, None: no face


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Cosines between a person's pictures and photos; None where no face was found to measure."""

    own: float | None  # mean over the pictures, against the person's own photo
    others: float | None  # the same pictures against the photos of everybody else
    nearest: float | None  # share of the pictures whose nearest photo is the person's own, 0..1
    num_measured: int  # pictures in which a face was found


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of what was measured, or None if nothing was."""
    measured = [value for value in values if value is not None]
    return float(np.mean(measured)) if measured else None


def measure(
    photos: Mapping[str, np.ndarray], pictures: Mapping[str, Sequence[np.ndarray]], embed: Embed
) -> dict[str, Likeness]:
    """Likeness by person. `photos` holds one uint8 [S, S, 3] a person and is the gallery for `nearest`."""
    embedded = {name: embed(photo) for name, photo in photos.items()}
    gallery = {name: vector for name, vector in embedded.items() if vector is not None}
    names = list(gallery)
    rows: dict[str, Likeness] = {}
    for person, taken in pictures.items():
        found = [vector for picture in taken if (vector := embed(picture)) is not None]
        if person not in gallery or not found:
            rows[person] = Likeness(own=None, others=None, nearest=None, num_measured=len(found))
            continue
        cosines = np.stack(found) @ np.stack([gallery[name] for name in names]).T  # [pictures, people]
        own = names.index(person)
        others = np.delete(cosines, own, axis=1)
        rows[person] = Likeness(
            own=float(cosines[:, own].mean()),
            others=float(others.mean()) if others.size else None,
            nearest=float((cosines.argmax(axis=1) == own).mean()),
            num_measured=len(found),
        )
    return rows


def overall(rows: Sequence[Likeness]) -> Likeness:
    """Means over people, each counting the same."""
    return Likeness(
        own=mean([row.own for row in rows]),
        others=mean([row.others for row in rows]),
        nearest=mean([row.nearest for row in rows]),
        num_measured=sum(row.num_measured for row in rows),
    )
