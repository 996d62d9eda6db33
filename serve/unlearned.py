"""Why somebody on an uploaded photo is not learned, or not yet."""

from __future__ import annotations

from typing import Any


class SeveralFaces(Exception):
    """A photo shows several people, and it was not said who is meant."""

    def __init__(self, faces: list[dict[str, Any]], photo: int | None = None) -> None:
        super().__init__(faces, photo)
        self.faces = faces  # `face`, `box`, `score`, `name`, `thumbnail` of each
        self.photo = photo  # which one of several of a person, from 0

    def __str__(self) -> str:
        if self.photo is not None:
            return f"photo {self.photo} (from 0) shows {len(self.faces)} faces: of several photos each shows one person"
        return f"the photo shows {len(self.faces)} faces: say which one as `face` (0 is the largest), or `all`"


class NoSuchFace(ValueError):
    """`face` is no face of the photo."""


class Erased(Exception):
    """The person on a photo was erased from this root, which does not learn them again."""

    def __str__(self) -> str:
        return "somebody on this photo was erased here, and is not learned again"


class NotLearned(Exception):
    """Who is on the photo was not learned: what went wrong, as it is told."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code, self.message = code, message

    def __str__(self) -> str:
        return self.message


class StillLearning(Exception):
    """It takes longer than a request may. The learning goes on."""

    retry_after_s = 10.0

    def __str__(self) -> str:
        return "who is on the photo is still being learned; ask again with the same photo, or stream"
