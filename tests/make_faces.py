"""Prepared faces without photos, for tests of what comes after `prepare`."""

from __future__ import annotations

import numpy as np

from factory.pack import Pack
from factory.records import FaceFeatures, FaceMasks, PreparedFace


def noise_face(number: int, pack: Pack, *, width: int = 16) -> PreparedFace:
    """A face of noise, features [width]: the method does not care what it learns, and noise hides no symmetry."""
    random = np.random.default_rng(number)
    side = pack.resolution
    mask = np.zeros((side, side), bool)
    mask[side // 4 : -side // 4, side // 4 : -side // 4] = True
    hair = np.zeros_like(mask)
    hair[: side // 4] = True
    crop, mirror = random.normal(size=(2, width)).astype(np.float32)
    return PreparedFace(
        face_id=f"face-{number}",
        photo_id=f"photo-{number}",
        name=f"person {number}",
        face_index=0,
        box=np.zeros(4, np.float32),
        landmarks=np.zeros((5, 2), np.float32),
        score=1.0,
        crop=random.integers(0, 256, (side, side, 3), dtype=np.uint8),
        masks=FaceMasks(face=mask, hair=hair),
        features=FaceFeatures(crop=crop, mirror=mirror),
        pack=pack.name,
    )
