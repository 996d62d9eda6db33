"""Faces of photos -> their masks and features: the parser and the FR-ViT, for many faces at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import torch

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.align import FFHQ_512, inside_photo, nearer_to, similarity
from factory.faces.encode import FeatureEncoder
from factory.faces.parse import FaceParser, check_masks
from factory.faces.quality import photo_quality
from factory.ids import face_name
from factory.pack import Pack
from factory.records import Face, FaceFeatures, FaceMasks, FoundFaces, PreparedFace

_Seen: TypeAlias = tuple[FaceMasks, FaceFeatures] | PhotoRejected


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFaces:
    """What became of a photo's faces."""

    faces: list[PreparedFace]  # the largest first
    refused: list[tuple[int, PhotoRejected]]  # by face_index; without faces the first one is the photo's own

    def usable(self) -> list[PreparedFace]:
        """The faces. Raises PhotoRejected, the photo's own, if there is none."""
        if not self.faces:
            raise self.refused[0][1]
        return self.faces


def _own_part(face: Face, of_photo: Sequence[Face]) -> np.ndarray:
    """Which pixels of a crop may be learned: not the streaks beside a tight one, nor who stands cheek to cheek."""
    side = len(face.crop)
    matrix = similarity(face.landmarks, FFHQ_512 * (side / 512))
    others = [other.box for other in of_photo if other is not face]
    return inside_photo(face.inside, side) & nearer_to(face.box, others, matrix, side)


class FaceReader:
    """A pack's parser and feature encoder. Torch's threads are the caller's to set."""

    def __init__(self, pack: Pack, config: PrepareConfig, *, device: str = "cpu") -> None:
        """Load them; raises PackError where one is missing or does not fit."""
        self._pack, self._config = pack, config
        self._parser = FaceParser(pack, device=device)
        self._encoder = FeatureEncoder(pack, device=device)

    def read(self, photos: Sequence[FoundFaces]) -> list[ReadFaces]:
        """Masks and features of all faces of some photos at once."""
        seen = iter(self._look([face for photo in photos for face in photo.faces]))
        return [self._settled(photo, [next(seen) for _ in photo.faces]) for photo in photos]

    def _look(self, faces: list[Face]) -> list[_Seen]:
        if not faces:
            return []
        crops = np.stack([face.crop for face in faces])
        try:
            masks, features = self._parser.parse(crops), self._encoder.encode(crops)
        except (torch.OutOfMemoryError, MemoryError) as error:  # a group photo may bring a hundred faces
            if len(faces) == 1:
                return [PhotoRejected("out_of_memory", str(error)[:300])]
            half = len(faces) // 2
            return self._look(faces[:half]) + self._look(faces[half:])
        return list(zip(masks, features, strict=True))

    def _settled(self, photo: FoundFaces, seen: list[_Seen]) -> ReadFaces:
        faces, refused = list[PreparedFace](), list(photo.refused)
        for face, outcome in zip(photo.faces, seen, strict=True):
            try:
                if isinstance(outcome, PhotoRejected):
                    raise outcome
                masks, features = outcome
                within = _own_part(face, photo.faces)
                masks = FaceMasks(face=masks.face & within, hair=masks.hair & within)
                check_masks(masks, self._config)
            except PhotoRejected as error:
                refused.append((face.face_index, error))
                continue
            faces.append(self._prepared(photo, face, masks, features))
        return ReadFaces(faces=faces, refused=sorted(refused, key=lambda refusal: refusal[0]))

    def _prepared(self, photo: FoundFaces, face: Face, masks: FaceMasks, features: FaceFeatures) -> PreparedFace:
        return PreparedFace(
            face_id=face.face_id,
            photo_id=photo.photo_id,
            name=face_name(photo.name, face.face_index),
            face_index=face.face_index,
            box=face.box,
            landmarks=face.landmarks,
            score=face.score,
            crop=face.crop,
            masks=masks,
            features=features,
            pack=self._pack.name,
            origin=photo.origin,
            quality=photo_quality(face.crop, masks, face.landmarks, face.box),
        )
