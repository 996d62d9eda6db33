"""How good a photo is to learn from, and how good an identity is that was learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Final

FAULTS: Final = {  # what is wrong with a photo, by its part
    "sharpness": "blurred",
    "size": "small",
    "frontal": "turned away",
    "visible": "covered",
    "exposure": "too dark or too bright",
}
FAULTLESS: Final = 0.8  # from here on nothing is said against a part


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoQuality:
    """Of the photo of a face (factory/faces/quality.py): parts of 0..1, 1 is good."""

    sharpness: float  # detail for its size
    size: float  # in the photo, beside what the crop can hold
    frontal: float  # how little the head is turned or nods
    visible: float  # of the middle of the face: nothing in front of it
    exposure: float  # neither dark nor burnt out

    @property
    def score(self) -> float:
        """0..1: the worst part."""
        return min(astuple(self))

    @property
    def faults(self) -> list[str]:
        """What is wrong with it, as `faults`."""
        return faults(asdict(self))


def faults(parts: Mapping[str, float]) -> list[str]:
    """What is wrong with a photo of such parts (PhotoQuality's, by name), in words, the worst first."""
    wrong = sorted((value, name) for name, value in parts.items() if value < FAULTLESS)
    return [FAULTS[name] for _, name in wrong]


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityQuality:
    """A row of the `quality` table: what an identity's probe pictures measure (factory/measure/quality.py)."""

    identity_id: str
    protocol: str  # 16 hex digits: hash of what they were drawn and measured with
    likeness: float  # mean Face Sim to the photo, -1..1; a picture without a face counts 0
    text_alignment: float  # mean CLIP-T to the own prompt less that to the other ones; 0: prompts are not followed
    quality: float | None  # 0..1, beside what good identities of the pack reach; None: the pack does not say
    verdict: str | None  # "good", "weak" or "failed"
    num_pictures: int
    num_faces: int  # pictures in which the judge found a face
    created_at: str  # ISO 8601, UTC
