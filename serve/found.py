"""Who was found on an uploaded photo, and how that is shown to whoever uploaded it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from factory.store.quality import photo_card
from factory.store.rows import decode_png

_THUMBNAIL_PX: Final = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What was made of a photo. Until somebody on it is chosen, nobody keeps it."""

    faces: list[dict[str, Any]]  # rows of `faces`, the largest first; without crops where the table has them
    refused: list[dict[str, Any]]  # rows of `rejects`: faces that cannot be used, or the photo
    kept: bool = False  # the tables have them


def face_cards(rows: Sequence[dict[str, Any]], photo: int = 0, *, thumbnails: bool = True) -> list[dict[str, Any]]:
    """Faces of a photo, number `photo` of the request, as they are told: to choose from, or how good they are to learn
    from."""
    return [
        {
            "photo": photo,
            "face": row["face_index"],
            "name": row["name"],
            "box": [round(edge, 1) for edge in row["box"]],  # x0 y0 x1 y1, px of the photo
            "score": round(row["score"], 3),
            "photo_quality": photo_card(row),
            **({"thumbnail": _thumbnail(row["crop"])} if thumbnails else {}),
        }
        for row in rows
    ]


def _thumbnail(crop: bytes) -> str:
    """A crop, PNG, as base64 of a JPEG."""
    picture = Image.fromarray(decode_png(crop))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
