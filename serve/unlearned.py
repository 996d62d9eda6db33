"""Why somebody on an uploaded photo is not learned, or not yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from factory.errors import PhotoRejected


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


class PhotosRefused(Exception):
    """Some of several photos of one person cannot be used."""

    def __init__(self, refused: Mapping[int, PhotoRejected]) -> None:
        super().__init__(refused)
        self.refused = refused  # by the photo's number in the request, from 0


class OtherPerson(Exception):
    """Some of several photos that were sent as one person's surely show somebody else than the others."""

    def __init__(self, faces: list[dict[str, Any]], photos: Sequence[int], *, unknown: bool) -> None:
        super().__init__(faces, photos, unknown)
        self.faces = faces  # as of SeveralFaces, of all photos; with `fits`
        self.photos = photos  # numbers in the request, from 0
        self._unknown = unknown  # who is meant, as no more than half of them fit one another

    def __str__(self) -> str:
        if self._unknown:
            what = "the photos surely show different people, and whom is meant cannot be told: send those of one person"
        else:
            which = f"photo {self.photos[0]}" if len(self.photos) == 1 else f"photos {', '.join(map(str, self.photos))}"
            what = f"{which} (from 0) surely shows somebody else than the others: leave it out"
            what = what if len(self.photos) == 1 else what.replace("shows", "show").replace("leave it", "leave them")
        return f"{what}, or say `same_person` to learn from all of them"


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
