"""One photo -> its faces, in this process: decode, find, align, parse, encode. pipelines/prepare.py does it in bulk."""

from __future__ import annotations

import numpy as np

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.detect import FaceDetector
from factory.faces.encode import FeatureEncoder
from factory.faces.parse import FaceParser, check_masks
from factory.faces.photos import decode_photo
from factory.ids import face_name
from factory.pack import Pack
from factory.records import PreparedFace


class Preparer:
    """Holds a pack's detector, parser and feature encoder."""

    def __init__(self, pack: Pack, config: PrepareConfig | None = None, *, device: str = "cpu") -> None:
        """Load the models. Raises PackError where one is missing or does not fit."""
        self.pack, self.config = pack, config or PrepareConfig()
        self.detector = FaceDetector(pack, self.config)
        self.parser = FaceParser(pack, device=device)
        self.encoder = FeatureEncoder(pack, device=device)

    def prepare(self, data: bytes, name: str) -> list[PreparedFace]:
        """The usable faces of an image file, the largest first; faces after the first are called "<name>-<index>".

        Raises:
            PhotoRejected: the file is no usable photo, or no face in it can be used (then the largest one's reason).
        """
        photo = decode_photo(data, name=name, config=self.config)
        found, refusals = self.detector.find(photo)
        if not found:
            raise refusals[0][1]
        crops = np.stack([face.crop for face in found])
        faces: list[PreparedFace] = []
        for face, masks, features in zip(found, self.parser.parse(crops), self.encoder.encode(crops), strict=True):
            try:
                check_masks(masks, self.config)
            except PhotoRejected as refusal:
                refusals.append((face.face_index, refusal))
                continue
            faces.append(
                PreparedFace(
                    face_id=face.face_id,
                    photo_id=photo.photo_id,
                    name=face_name(name, face.face_index),
                    face_index=face.face_index,
                    box=face.box,
                    landmarks=face.landmarks,
                    score=face.score,
                    crop=face.crop,
                    masks=masks,
                    features=features,
                    pack=self.pack.name,
                )
            )
        if not faces:
            raise min(refusals, key=lambda refusal: refusal[0])[1]
        return faces
