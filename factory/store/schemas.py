"""The columns of the tables, each with a sentence of documentation and its unit.

Pictures and masks are PNG bytes, clips MP4, heads PLY: any tool that reads the table can show them. Words and features
are lists with their own length, because one root may hold the work of several packs.
"""

from __future__ import annotations

from typing import Final, Literal

import pyarrow as pa

from factory.store.fields import ENCODERS as _ENCODERS
from factory.store.fields import FLOATS as _FLOATS
from factory.store.fields import LATER as _LATER
from factory.store.fields import PARTS as _PARTS
from factory.store.fields import TEXT as _TEXT
from factory.store.fields import column as _field
from factory.store.fields import consent as _consent

Table = Literal[
    "faces",
    "identities",
    "quality",
    "images",
    "videos",
    "models",
    "checkpoints",
    "metrics",
    "rejects",
    "names",
    "work",
    "files",
    "keys",
    "lines",
    "audit",
    "tombstones",
]


_PACK = "name of the model pack"
_REJECTED = "photo_id; face_id of one face; identity_id that training would give; sha256 of an unreadable uri"
_ROTATION = "the photo was turned so after EXIF, and box and landmarks are of the turned one; null: 0"
_WHERE = "where the photo was, 'upload:' if it came over HTTP; null: an older version wrote it"
_PERSON = "whose photo it is, as its source told; null: it did not, or nobody asked"
_COMPARED = "the seeds that were drawn, of which this one's picture was kept; null: it alone was drawn"
_LIKENESS = "Face Sim of it where seeds were compared, -1..1; NaN: no face; null: not measured"

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
            *_consent(),
            _field("person", _TEXT, _PERSON, later=True),
            _field("quality", pa.float32(), "of the photo, 0..1: its worst part; null: not measured", later=True),
            _field("quality_parts", _PARTS, "0..1, 1 is good (factory/faces/quality.py)", later=True),
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
            *_consent(),
            _field("more_faces", pa.list_(_TEXT), "face_ids of the person's other photos; null: one photo", later=True),
        ]
    ),
    "quality": pa.schema(
        [
            _field("identity_id", _TEXT, "whose probe pictures were measured", key=True),
            _field("protocol", _TEXT, "hash of what they were drawn and measured with, 16 hex digits"),
            _field("likeness", pa.float32(), "mean Face Sim to the photo, -1..1; a picture without a face counts 0"),
            _field("text_alignment", pa.float32(), "mean CLIP-T to the own prompt less that to the other ones, -2..2"),
            _field("quality", pa.float32(), "0..1, beside what good ones of the pack reach; null: it does not say"),
            _field("verdict", _TEXT, "good, weak or failed; null: the pack does not say"),
            _field("num_pictures", pa.int32(), "that were drawn and measured"),
            _field("num_faces", pa.int32(), "pictures in which the judge found a face"),
            _field("created_at", _TEXT, "ISO 8601, UTC"),
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
            _field("best_of", pa.list_(pa.int64()), _COMPARED, later=True),
            _field("likeness", pa.float32(), _LIKENESS, later=True),
            _field("clip_t", pa.float32(), "CLIP-T where seeds were compared, -1..1; null: not measured", later=True),
        ]
    ),
    "videos": pa.schema(
        [
            _field("video_id", _TEXT, "hash of identity, prompt, seed, poses, config and what draws it", key=True),
            _field("identity_id", _TEXT, "who is in it"),
            _field("name", _TEXT, "of the identity"),
            _field("prompt", _TEXT, "as given, with <person>"),
            _field("seed", pa.int64(), "of the initial noise"),
            _field("video", pa.binary(), "H.264, yuv420p", "MP4"),
            _field("poster", pa.binary(), "the first frame as it was drawn, RGB", "PNG"),
            _field("num_frames", pa.int32(), "of the clip"),
            _field("fps", pa.int32(), "frames per second", "1/s"),
            _field("width", pa.int32(), "of a frame", "px"),
            _field("height", pa.int32(), "of a frame", "px"),
            _field("config", _TEXT, "AnimateConfig", "JSON"),
            _field("created_at", _TEXT, "ISO 8601, UTC"),
            _field("people", pa.list_(_TEXT), "identity_ids of all who are in it"),
            _field("poses", _TEXT, "what the path of poses was called when it was asked for; empty: none"),
        ]
    ),
    "models": pa.schema(
        [
            _field("model_id", _TEXT, "hash of identity, prompt, config and base model", key=True),
            _field("identity_id", _TEXT, "whose head it is"),
            _field("name", _TEXT, "of the identity"),
            _field("prompt", _TEXT, "as given, with <person>"),
            _field("splats", pa.binary(), "3D Gaussians in the layout of 3D Gaussian Splatting", "PLY"),
            _field("turntable", pa.binary(), "the head as it turns, H.264; WebP in rows of before 2026-11-29", "MP4"),
            _field("poster", pa.binary(), "from the front, RGB", "PNG"),
            _field("num_gaussians", pa.int32(), "of the head"),
            _field("num_iterations", pa.int32(), "updates"),
            _field("seconds", pa.float32(), "of work, also of jobs that were interrupted", "s"),
            _field("config", _TEXT, "SculptConfig", "JSON"),
            _field("created_at", _TEXT, "ISO 8601, UTC"),
        ]
    ),
    "checkpoints": pa.schema(
        [
            _field("model_id", _TEXT, "of the head in the making", key=True),
            _field("identity_id", _TEXT, "whose head it is"),
            _field("num_iterations", pa.int32(), "updates done"),
            _field("seconds", pa.float32(), "of work so far", "s"),
            _field("state", pa.binary(), "what factory/draw/sculpt.py goes on from, as torch.save writes it"),
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
    "work": pa.schema(
        [
            _field("work_id", _TEXT, "its kind, '_', 24 random hex digits", key=True),
            _field("kind", _TEXT, "what is to be done: video, head, identity, assessment, batch"),
            _field("status", _TEXT, "queued, in_progress, completed, failed or cancelled"),
            _field("request", _TEXT, "all that is needed to do it", "JSON"),
            _field("identity_id", _TEXT, "whom it is about; empty: nobody alone"),
            _field("people", pa.list_(_TEXT), "identity_ids of all whom it is about"),
            _field("progress", pa.float64(), "0..1"),
            _field("result_id", _TEXT, "of the row that came of it; null: none did yet"),
            _field("error", _TEXT, "why it failed, as it is told; null: it did not", "JSON"),
            _field("idempotency_key", _TEXT, "sha256 of the caller's, hex; null: none was given"),
            _field("created_at", pa.float64(), "Unix time", "s"),
            _field("started_at", pa.float64(), "Unix time; null: it has not begun", "s"),
            _field("finished_at", pa.float64(), "Unix time; null: it is not over", "s"),
            _field("beat_at", pa.float64(), "Unix time when a server last saw to it; 0: it was put down", "s"),
            _field("asked", _TEXT, "sha256 of what came with the idempotency_key, hex", later=True),
            _field("key_id", _TEXT, "key that asked, for its limits; null: there are no keys", later=True),
        ]
    ),
    "files": pa.schema(
        [
            _field("file_id", _TEXT, "'file-', 32 random hex digits: whoever knows a picture's may see it", key=True),
            _field("purpose", _TEXT, "what it is for: picture, at an address; batch, requests"),
            _field("filename", _TEXT, "of a picture its format, else as it was sent"),
            _field("content", pa.large_binary(), "the bytes"),
            _field("num_bytes", pa.int64(), "of the content", "bytes"),
            _field("people", pa.list_(_TEXT), "identity_ids of all who are in it"),
            _field("created_at", pa.float64(), "Unix time", "s"),
            _field("expires_at", pa.float64(), "Unix time; from then on it is not there any more", "s"),
        ]
    ),
    "keys": pa.schema(
        [
            _field("key_id", _TEXT, "12 random hex digits, the part of a key that is shown", key=True),
            _field("digest", _TEXT, "sha256 of the key, whose secret is 256 random bits, hex"),
            _field("label", _TEXT, "for whoever reads the list"),
            _field("tenant", _TEXT, "whose people it reaches; null: the operator's own"),
            _field("scopes", pa.list_(_TEXT), "what it is good for: draw, learn, erase, words, admin"),
            _field("created_at", pa.float64(), "Unix time", "s"),
            _field("expires_at", pa.float64(), "Unix time; null: never", "s"),
            _field("revoked_at", pa.float64(), "Unix time; null: it was not", "s"),
            _field("pictures_per_minute", pa.int32(), "at most; null: any number", "1/min"),
            _field("max_waiting", pa.int32(), "pictures asked for and not answered, at most; null: any number"),
            _field("identities_per_day", pa.int32(), "learned, at most; null: any number", "1/d"),
        ]
    ),
    "lines": pa.schema(
        [
            _field("batch_id", _TEXT, "work_id of the batch", key=True),
            _field("line", pa.int32(), "number of the request in its file, from 1", key=True),
            _field("custom_id", _TEXT, "the caller's name for the request"),
            _field("people", pa.list_(_TEXT), "identity_ids of all who are in its pictures"),
            _field("status", pa.int32(), "HTTP's; 0: not begun when the batch expired"),
            _field(
                "answer", pa.large_binary(), "with pictures, as JSON; null: there is none, or it was deleted", "UTF-8"
            ),
            _field("error", _TEXT, "why there is no answer, as it is told; null: there is one", "JSON"),
            _field("num_bytes", pa.int64(), "of its line in the output or error file; 0: that was deleted", "bytes"),
            _field("created_at", pa.float64(), "Unix time", "s"),
            _field("num_tokens", pa.int64(), "of the prompt that were read; null: none, or not counted", later=True),
        ]
    ),
    "audit": pa.schema(
        [
            _field("number", pa.int64(), "of the row, from 0", key=True),
            _field("at", pa.float64(), "Unix time", "s"),
            _field("actor", _TEXT, "'key' and its key_id; 'command line'; 'anybody' where there are no keys"),
            _field("action", _TEXT, "what was done, such as drew, learned, exported, erased; or a route"),
            _field("whom", pa.list_(_TEXT), "sha256 of salt and identity_id of all whom it was about, hex"),
            _field("num", pa.int64(), "how many: pictures, identities, rows"),
            _field("salt", _TEXT, "random, the same in all rows, hex"),
            _field("detail", _TEXT, "what else there is to tell; null: nothing, or it was taken out", "JSON"),
            _field("detail_salt", _TEXT, "random, hex; null: the detail was taken out with somebody erased"),
            _field("detail_digest", _TEXT, "sha256 of detail_salt and detail, hex"),
            _field("previous", _TEXT, "digest of the row before; of the first zeros"),
            _field("digest", _TEXT, "sha256 of the row but detail and detail_salt, hex"),
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
