"""The columns of the tables, and rows <-> records.

Pictures and masks are PNG bytes: lossless, and any tool that reads the table can show them. Words and features are
lists with their own length, because one root may hold the work of several packs.
"""

from __future__ import annotations

import io
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
from PIL import Image

from factory.records import (
    TEXT_ENCODER,
    FaceFeatures,
    FaceMasks,
    GeneratedImage,
    Identity,
    Origin,
    PictureMetrics,
    PreparedFace,
    Reject,
)

Table = Literal["faces", "identities", "images", "metrics", "rejects", "names", "tombstones"]


_LATER = b"later"


def _field(
    name: str, kind: pa.DataType, doc: str, unit: str = "", *, key: bool = False, later: bool = False
) -> pa.Field:
    """`later`: older roots lack it; it is null in their rows, and comes last in its table."""
    metadata = {"doc": doc, **({"unit": unit} if unit else {}), **({_LATER.decode(): "true"} if later else {})}
    if key:  # lets Lance see that two concurrent upserts insert the same row, and retry one of them
        metadata["lance-schema:unenforced-primary-key"] = "true"
    return pa.field(name, kind, nullable=not key, metadata=metadata)


_TEXT, _FLOATS, _PACK = pa.string(), pa.list_(pa.float32()), "name of the model pack"
_REJECTED = "photo_id; face_id of one face; identity_id that training would give; sha256 of an unreadable uri"
_ROTATION = "the photo was turned so after EXIF, and box and landmarks are of the turned one; null: 0"
_WHERE = "where the photo was; null: an older version wrote it, or no job did"
_ENCODERS = pa.list_(pa.struct([("name", pa.string()), ("width", pa.int32())]))

SCHEMAS: Final[dict[Table, pa.Schema]] = {
    "faces": pa.schema(
        [
            _field("face_id", _TEXT, "photo_id, '-', face_index", key=True),
            _field("pack", _TEXT, _PACK + " that prepared it", key=True),
            _field("photo_id", _TEXT, "sha256 of the photo's bytes, hex"),
            _field("name", _TEXT, "the photo's name; faces after the first are <name>-<face_index>"),
            _field("face_index", pa.int32(), "0 is the largest face of the photo"),
            _field("box", pa.list_(pa.float32(), 4), "x0 y0 x1 y1 of the face in the photo", "px"),
            _field("landmarks", pa.list_(pa.float32(), 10), "x y of eyes, nose, mouth corners in the photo", "px"),
            _field("score", pa.float32(), "the detector's confidence, 0..1"),
            _field("crop", pa.binary(), "aligned face, RGB", "PNG"),
            _field("face_mask", pa.binary(), "where the face is in the crop, 1 bit", "PNG"),
            _field("hair_mask", pa.binary(), "where the hair is in the crop, 1 bit", "PNG"),
            _field("features", _FLOATS, "FR-ViT features of the crop [F]"),
            _field("features_mirror", _FLOATS, "FR-ViT features of the mirrored crop [F]"),
            _field("rotation", pa.int32(), _ROTATION, "degrees clockwise", later=True),
            _field("frame", pa.int32(), "of an animation, page of a TIFF, from 0; null: 0", later=True),
            _field("salvaged", pa.bool_(), "only the whole rows of a damaged file were used; null: no", later=True),
            _field("uri", _TEXT, _WHERE, later=True),
        ]
    ),
    "identities": pa.schema(
        [
            _field("identity_id", _TEXT, "hash of face, configs, base model, celebrities, training texts", key=True),
            _field("face_id", _TEXT, "the face it was learned from"),
            _field("photo_id", _TEXT, "sha256 of the photo's bytes, hex"),
            _field("name", _TEXT, "the face's name"),
            _field("words", _FLOATS, "token embeddings, for each text encoder [num_words * its width], row by row"),
            _field("num_words", pa.int32(), "words per identity"),
            _field("pack", _TEXT, _PACK + " it was learned with"),
            _field("fingerprint", _TEXT, "of the pack's text encoder; the words mean nothing to another one"),
            _field("preset", _TEXT, "paper, release or custom"),
            _field("config", _TEXT, "MethodConfig and TrainConfig", "JSON"),
            _field("num_steps", pa.int32(), "updates; fewer than the config's where it stopped early"),
            _field("final_loss", pa.float32(), "mean masked loss over the last 10 % of the steps"),
            _field("train_s", pa.float32(), "its share of the time of the batches it was in", "s"),
            _field("created_at", _TEXT, "ISO 8601, UTC"),
            _field("encoders", _ENCODERS, "the blocks of `words`, in order; null: one of text_encoder", later=True),
        ]
    ),
    "images": pa.schema(
        [
            _field("image_id", _TEXT, "hash of identity, prompt, seed, config and base model", key=True),
            _field("identity_id", _TEXT, "who is in it"),
            _field("name", _TEXT, "of the identity"),
            _field("prompt", _TEXT, "as given, with <person>"),
            _field("seed", pa.int64(), "of the initial noise"),
            _field("image", pa.binary(), "RGB", "PNG"),
            _field("config", _TEXT, "GenerateConfig", "JSON"),
            _field("created_at", _TEXT, "ISO 8601, UTC"),
            _field("people", pa.list_(_TEXT), "identity_ids of all who are in it; null: one person", later=True),
            _field("pose", _TEXT, "what the pose was called when it was asked for; empty: none", later=True),
        ]
    ),
    "metrics": pa.schema(
        [
            _field("image_id", _TEXT, "the picture measured", key=True),
            _field(
                "protocol", _TEXT, "hash of prompts, seeds, configs and measuring networks, 16 hex digits", key=True
            ),
            _field("identity_id", _TEXT, "who is in it"),
            _field("prompt", _TEXT, "as given, with <person>"),
            _field("seed", pa.int64(), "of the initial noise"),
            _field("clip_i", pa.float32(), "CLIP-I: cosine to the aligned crop of the photo, -1..1"),
            _field("clip_t", pa.float32(), "CLIP-T: cosine to the prompt's text, -1..1"),
            _field("face_sim", pa.float32(), "Face Sim: the judge's cosine to the photo's face, -1..1; NaN: no face"),
            _field("face_div", pa.float32(), "Face Div: mean distance to the identity's other faces; NaN: no face"),
            _field("trusted_div", pa.float32(), "Trusted Div: mean over pairs of Face Sim x Face Div; NaN: no face"),
            _field("face_embedding", _FLOATS, "the judge's, length 1 [E]; empty: no face"),
            _field("features", _FLOATS, "what FID compares [K]"),
            _field("created_at", _TEXT, "ISO 8601, UTC"),
        ]
    ),
    "rejects": pa.schema(
        [
            _field("reject_id", _TEXT, _REJECTED, key=True),
            _field("pack", _TEXT, _PACK + " in use", key=True),
            _field("photo_id", _TEXT, "sha256 of the photo's bytes, hex; empty if they could not be read"),
            _field("name", _TEXT, "the photo's name"),
            _field("stage", _TEXT, "prepare or train"),
            _field("reason", _TEXT, "one of factory.errors.REASONS"),
            _field("detail", _TEXT, "what was found, for a person to read"),
            _field("uri", _TEXT, _WHERE, later=True),
        ]
    ),
    "names": pa.schema(
        [
            _field("photo_id", _TEXT, "sha256 of the photo's bytes, hex", key=True),
            _field("name", _TEXT, "another name under which the same bytes came", key=True),
        ]
    ),
    "tombstones": pa.schema(
        [
            _field("digest", _TEXT, "sha256 of salt and an erased id, hex", key=True),
            _field("salt", _TEXT, "random, the same in all rows but for first erasures at once, hex"),
            _field("erased_at", _TEXT, "ISO 8601, UTC"),
        ]
    ),
}
LATER: Final[dict[Table, list[str]]] = {
    name: [field.name for field in schema if _LATER in field.metadata] for name, schema in SCHEMAS.items()
}
KEYS: Final[dict[Table, list[str]]] = {name: [f.name for f in s if not f.nullable] for name, s in SCHEMAS.items()}


_OF_WORDS = ("words", "num_words", "encoders")


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
