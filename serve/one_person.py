"""Whether photos that were uploaded as one person's show one person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from factory.faces.people import embeddings, strangers
from factory.pack import Pack
from serve.found import Found, face_cards
from serve.unlearned import OtherPerson


def fits(pack: Pack, rows: Sequence[Mapping[str, Any]]) -> dict[str, bool] | None:
    """By face_id whether a face, a row of `faces`, may be of the person whom the others show; None: nobody can tell, as
    there is one, or the pack does not say how unlike two people are (`other_person`)."""
    faces = {row["face_id"]: row for row in rows}  # a photo may come twice
    least = pack.fr_vit.other_person
    if least is None or len(faces) < 2:
        return None
    crops, mirrors = (
        np.array([row[name] for row in faces.values()], np.float32) for name in ("features", "features_mirror")
    )
    others = strangers(embeddings(crops, mirrors), least)
    return {face_id: number not in others for number, face_id in enumerate(faces)}


def photo_cards(
    several: Sequence[Found], fitting: Mapping[str, bool] | None, *, thumbnails: bool = False
) -> list[dict[str, Any]]:
    """The faces of several photos, each with `fits` where that is known."""
    return [
        card | ({} if fitting is None or row["face_id"] not in fitting else {"fits": fitting[row["face_id"]]})
        for number, found in enumerate(several)
        for row, card in zip(found.faces, face_cards(found.faces, number, thumbnails=thumbnails), strict=True)
    ]


def other_person(cards: list[dict[str, Any]], fitting: Mapping[str, bool]) -> OtherPerson:
    """The refusal of photos of which some do not fit."""
    odd = [card["photo"] for card in cards if not card["fits"]]
    # also where only photos that were there before do not fit, as more new ones do
    return OtherPerson(cards, odd or [card["photo"] for card in cards], unknown=not odd or not any(fitting.values()))
