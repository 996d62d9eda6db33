"""Rows of the tables (schemas.py) <-> records."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from PIL import Image

from factory.config import Recipe
from factory.consent import COLUMNS, Consent
from factory.errors import PhotoRejected
from factory.ids import face_id
from factory.records import (
    TEXT_ENCODER,
    FaceFeatures,
    FaceMasks,
    GeneratedClip,
    GeneratedImage,
    Identity,
    Origin,
    PictureMetrics,
    PreparedFace,
    Reject,
    SculptedModel,
)
from factory.scores import PhotoQuality
from factory.store.schemas import SCHEMAS

_OF_WORDS = ("words", "num_words", "encoders")
FACE_COLUMNS = ["face_id", "photo_id", "face_index", "box", "score", "name", "quality", "quality_parts", *COLUMNS]
FACE_COLUMNS += ["features", "features_mirror"]  # of what an upload is told, or compared by


def encode_png(image: np.ndarray) -> bytes:
    """PNG bytes of a picture (uint8 [H, W, 3] RGB) or of a mask (bool [H, W], 1 bit a pixel)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)  # 5 % larger than 6, in a third of the time
    return buffer.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """The array that `encode_png` was given."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image)


def face_row(face: PreparedFace) -> dict[str, Any]:
    """A row of `faces`."""
    return {
        "face_id": face.face_id,
        "pack": face.pack,
        "photo_id": face.photo_id,
        "name": face.name,
        "face_index": face.face_index,
        "box": face.box.tolist(),
        "landmarks": face.landmarks.ravel().tolist(),
        "score": face.score,
        "crop": encode_png(face.crop),
        "face_mask": encode_png(face.masks.face),
        "hair_mask": encode_png(face.masks.hair),
        "features": face.features.crop.tolist(),
        "features_mirror": face.features.mirror.tolist(),
        "rotation": face.origin.rotation,
        "frame": face.origin.frame,
        "salvaged": face.origin.salvaged,
        **face.consent.columns(),
        "quality": None if face.quality is None else face.quality.score,
        "quality_parts": None if face.quality is None else asdict(face.quality),
    }


def face_from_row(row: dict[str, Any]) -> PreparedFace:
    """The record of a row of `faces`."""
    return PreparedFace(
        face_id=row["face_id"],
        photo_id=row["photo_id"],
        name=row["name"],
        face_index=row["face_index"],
        box=np.array(row["box"], np.float32),
        landmarks=np.array(row["landmarks"], np.float32).reshape(5, 2),
        score=row["score"],
        crop=decode_png(row["crop"]),
        masks=FaceMasks(face=decode_png(row["face_mask"]), hair=decode_png(row["hair_mask"])),
        features=FaceFeatures(
            crop=np.array(row["features"], np.float32), mirror=np.array(row["features_mirror"], np.float32)
        ),
        pack=row["pack"],
        origin=Origin(rotation=row["rotation"] or 0, frame=row["frame"] or 0, salvaged=bool(row["salvaged"])),
        consent=Consent.of(row),
        quality=None if row["quality_parts"] is None else PhotoQuality(**row["quality_parts"]),
    )


def refusal_rows(
    photo_id: str,
    name: str,
    pack: str,
    refused: Sequence[tuple[int, PhotoRejected]],
    *,
    whole: bool,
    reject_id: str | None = None,
    uri: str | None = None,
) -> list[dict[str, Any]]:
    """Rows of `rejects`: what was refused of a photo when it was prepared, by face_index. `whole`: no face of it can be
    used, so the first refusal is the photo's own, under `reject_id` (None: its photo_id)."""
    rejects = [
        Reject(
            reject_id=(reject_id or photo_id) if whole and number == 0 else face_id(photo_id, index),
            photo_id=photo_id,
            name=name,
            pack=pack,
            stage="prepare",
            reason=error.reason,
            detail=error.detail,
            uri=uri,
        )
        for number, (index, error) in enumerate(refused)
    ]
    return [reject_row(reject) for reject in rejects]


def diverged_row(face: PreparedFace, identity_id: str, recipe: Recipe) -> dict[str, Any]:
    """The row of `rejects` of a face whose words are not finite."""
    return reject_row(
        Reject(
            reject_id=identity_id,  # the identity's own: another recipe may succeed
            photo_id=face.photo_id,
            name=face.name,
            pack=face.pack,
            stage="train",
            reason="diverged",
            detail=f"words are not finite after training at a rate of {recipe.train.learning_rate:g}; "
            "`train --set seed=1`, or another learning_rate, learns it anew; precision=float32 does so more exactly",
        )
    )


def low_quality_row(identity: Mapping[str, Any], quality: float, detail: str) -> dict[str, Any]:
    """The row of `rejects` in the place of an identity (a row's identity_id, photo_id, name and pack) that is given up:
    the same recipe does not learn it again."""
    return reject_row(
        Reject(
            reject_id=identity["identity_id"],
            photo_id=identity["photo_id"],
            name=identity["name"],
            pack=identity["pack"],
            stage="train",
            reason="low_quality",
            detail=f"quality {quality:.2f}; {detail}",
        )
    )


def identity_row(identity: Identity) -> dict[str, Any]:
    """A row of `identities`."""
    row = {name: getattr(identity, name) for name in SCHEMAS["identities"].names if name not in _OF_WORDS}
    blocks = identity.words
    return {
        **row,
        "words": np.concatenate([block.ravel() for block in blocks.values()]).tolist(),
        "num_words": len(next(iter(blocks.values()))),
        "encoders": [{"name": name, "width": block.shape[1]} for name, block in blocks.items()],
    }


def identity_from_row(row: dict[str, Any]) -> Identity:
    """The record of a row of `identities`."""
    numbers, num_words = np.array(row["words"], np.float32), row["num_words"]
    blocks = row["encoders"] or [{"name": TEXT_ENCODER, "width": len(numbers) // num_words}]
    ends = np.cumsum([num_words * block["width"] for block in blocks])
    words = {
        block["name"]: part.reshape(num_words, -1)
        for block, part in zip(blocks, np.split(numbers, ends[:-1]), strict=True)
    }
    return Identity(**{name: value for name, value in row.items() if name not in _OF_WORDS}, words=words)


def image_row(image: GeneratedImage) -> dict[str, Any]:
    """A row of `images`."""
    row = {name: getattr(image, name) for name in SCHEMAS["images"].names}
    return {**row, "image": encode_png(image.image)}


def image_from_row(row: dict[str, Any]) -> GeneratedImage:
    """The record of a row of `images`."""
    return GeneratedImage(**{**row, "image": decode_png(row["image"])})


def video_row(clip: GeneratedClip) -> dict[str, Any]:
    """A row of `videos`."""
    row = {name: getattr(clip, name) for name in SCHEMAS["videos"].names}
    return {**row, "people": list(clip.people), "poster": encode_png(clip.poster)}


def video_from_row(row: dict[str, Any]) -> GeneratedClip:
    """The record of a row of `videos`."""
    return GeneratedClip(**{**row, "poster": decode_png(row["poster"])})


def model_row(model: SculptedModel) -> dict[str, Any]:
    """A row of `models`."""
    row = {name: getattr(model, name) for name in SCHEMAS["models"].names}
    return {**row, "poster": encode_png(model.poster)}


def model_from_row(row: dict[str, Any]) -> SculptedModel:
    """The record of a row of `models`."""
    return SculptedModel(**{**row, "poster": decode_png(row["poster"])})


def metrics_row(metrics: PictureMetrics) -> dict[str, Any]:
    """A row of `metrics`."""
    row = {name: getattr(metrics, name) for name in SCHEMAS["metrics"].names}
    return {**row, "face_embedding": metrics.face_embedding.tolist(), "features": metrics.features.tolist()}


def metrics_from_row(row: dict[str, Any]) -> PictureMetrics:
    """The record of a row of `metrics`."""
    vectors = {name: np.array(row[name], np.float32) for name in ("face_embedding", "features")}
    return PictureMetrics(**{**row, **vectors})


def reject_row(reject: Reject) -> dict[str, Any]:
    """A row of `rejects`."""
    return {name: getattr(reject, name) for name in SCHEMAS["rejects"].names}
