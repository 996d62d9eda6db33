"""A root of seven people, and the bytes of one of them that may be left in it."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from factory.pack import Pack
from factory.records import (
    TEXT_ENCODER,
    GeneratedClip,
    GeneratedImage,
    Identity,
    PictureMetrics,
    PreparedFace,
    Reject,
    SculptedModel,
)
from factory.scores import IdentityQuality
from factory.store.rows import (
    encode_png,
    face_row,
    identity_row,
    image_row,
    metrics_row,
    model_row,
    reject_row,
    video_row,
)
from factory.store.tables import Store
from factory.store.traces import scan
from tests.make_faces import noise_face
from tests.serving import person


def photo_id(number: int) -> str:
    return hashlib.sha256(f"photo {number}".encode()).hexdigest()


def face(number: int, pack: Pack, index: int = 0) -> PreparedFace:
    name = f"person {number}" if index == 0 else f"person {number}-{index}"
    made = noise_face(100 * index + number, pack, width=32)
    ids = {"photo_id": photo_id(number), "face_id": f"{photo_id(number)}-{index}", "face_index": index}
    return replace(made, name=name, **ids)  # type: ignore[arg-type]


def learned(of: PreparedFace, number: int, pack: Pack) -> Identity:
    made = person(number, of.name, pack.fingerprint())
    unique = hashlib.sha256(of.face_id.encode()).hexdigest()[:16]
    return replace(made, identity_id=unique, face_id=of.face_id, photo_id=of.photo_id)


def picture(of: Identity, number: int) -> GeneratedImage:
    image = np.random.default_rng([7, number]).integers(0, 256, (64, 64, 3), np.uint8)
    unique = hashlib.sha256(f"{of.identity_id} picture".encode()).hexdigest()[:16]
    return GeneratedImage(
        image_id=unique, identity_id=of.identity_id, name=of.name, prompt="x", seed=0, image=image, config="{}",
        created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def clip(of: Identity) -> GeneratedClip:
    random = np.random.default_rng(list(of.identity_id.encode()))
    header = b"as every clip begins" * 205  # 4,100 bytes, as a clip's tables of frames
    return GeneratedClip(
        video_id=hashlib.sha256(f"{of.identity_id} clip".encode()).hexdigest()[:16], identity_id=of.identity_id,
        name=of.name, prompt="x", seed=0, video=header + random.bytes(20_000),
        poster=random.integers(0, 256, (64, 64, 3), np.uint8), num_frames=2, fps=8, width=64, height=64,
        config="{}", created_at="2026-01-01T00:00:00+00:00", people=[of.identity_id],
    )  # fmt: skip


def head(of: Identity) -> SculptedModel:
    random = np.random.default_rng([3, *of.identity_id.encode()])
    header = b"as every PLY begins." * 205
    return SculptedModel(
        model_id=hashlib.sha256(f"{of.identity_id} head".encode()).hexdigest()[:16], identity_id=of.identity_id,
        name=of.name, prompt="x", splats=header + random.bytes(20_000), turntable=header + random.bytes(20_000),
        poster=random.integers(0, 256, (64, 64, 3), np.uint8), num_gaussians=2, num_iterations=1, seconds=1.0,
        config="{}", created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def state_of(of: Identity) -> bytes:
    return np.random.default_rng([4, *of.identity_id.encode()]).bytes(20_000)


def in_the_making(of: Identity) -> dict[str, Any]:
    ids = {"model_id": head(of).model_id, "identity_id": of.identity_id}
    return {**ids, "num_iterations": 1, "seconds": 1.0, "state": state_of(of)}


def measured(image: GeneratedImage) -> PictureMetrics:
    embedding, features = np.random.default_rng(list(image.image_id.encode())).random((2, 8), np.float32)
    return PictureMetrics(
        image_id=image.image_id, protocol="p", identity_id=image.identity_id, prompt=image.prompt, seed=image.seed,
        clip_i=0.0, clip_t=0.0, face_sim=0.0, face_div=0.0, trusted_div=0.0,
        face_embedding=embedding, features=features, created_at="",
    )  # fmt: skip


def assessed(of: Identity, quality: float = 0.8) -> IdentityQuality:
    return IdentityQuality(
        identity_id=of.identity_id, protocol="p", likeness=0.5, text_alignment=0.1, quality=quality, verdict="good",
        num_pictures=8, num_faces=8, created_at="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def asked_for(identity: Identity) -> dict[str, Any]:
    """A row of `work`: a clip that somebody waits for."""
    request = json.dumps({"identity": identity.identity_id, "prompt": f"{identity.name} in the snow"})
    who = {"identity_id": identity.identity_id, "people": [identity.identity_id]}
    times = {"progress": 0.0, "created_at": 0.0, "beat_at": 0.0}
    return (
        {"work_id": f"video_{identity.identity_id}", "kind": "video", "status": "queued", "request": request}
        | who
        | times
    )


def at_an_address(image: GeneratedImage) -> dict[str, Any]:
    """A row of `files`: a picture that somebody has the address of."""
    content = encode_png(image.image)
    times = {"created_at": 0.0, "expires_at": 0.0}
    return {
        "file_id": f"file-{image.image_id[::-1]}",
        "purpose": "picture",
        "filename": "png",
        "content": content,
        "num_bytes": len(content),
        "people": [image.identity_id],
        **times,
    }


def answered(image: GeneratedImage) -> dict[str, Any]:
    """A row of `lines`: a request of a batch that was drawn."""
    body = {"identity": image.identity_id, "data": [{"b64_json": b64encode(encode_png(image.image)).decode()}]}
    who = {"custom_id": f"picture of {image.name}", "people": [image.identity_id]}
    answer = {"status": 200, "answer": json.dumps(body).encode(), "error": None, "num_bytes": 1, "created_at": 0.0}
    return {"batch_id": "batch_1", "line": int(image.image_id[:6], 16)} | who | answer


def fill(store: Store, pack: Pack) -> tuple[list[PreparedFace], list[Identity], list[GeneratedImage]]:
    """Five people on photos of their own, and 20 and 20-1 on one photo; committed in several versions."""
    faces = [*(face(number, pack) for number in range(5)), face(20, pack), face(20, pack, 1)]
    identities = [learned(one, number, pack) for number, one in enumerate(faces)]
    images = [picture(one, number) for number, one in enumerate(identities)]
    for some in (slice(0, 3), slice(3, None)):
        store.upsert("faces", [face_row(one) for one in faces[some]])
        store.upsert("identities", [identity_row(one) for one in identities[some]])
        store.upsert("quality", [asdict(assessed(one)) for one in identities[some]])
        store.upsert("images", [image_row(one) for one in images[some]])
        store.upsert("videos", [video_row(clip(one)) for one in identities[some]])
        store.upsert("models", [model_row(head(one)) for one in identities[some]])
        store.upsert("work", [asked_for(one) for one in identities[some]])
        store.upsert("files", [at_an_address(one) for one in images[some]])
        store.upsert("lines", [answered(one) for one in images[some]])
        store.upsert("checkpoints", [in_the_making(one) for one in identities[some]])
        store.upsert("metrics", [metrics_row(measured(one)) for one in images[some]])
    refused = Reject(
        reject_id=photo_id(1), photo_id=photo_id(1), name="person 1", pack="another", stage="prepare",
        reason="no_face", detail="",
    )  # fmt: skip
    store.upsert("rejects", [reject_row(refused)])
    store.upsert("names", [{"photo_id": photo_id(1), "name": "alias"}, {"photo_id": photo_id(20), "name": "pair"}])
    return faces, identities, images


def traces(of: PreparedFace, identity: Identity, image: GeneratedImage) -> dict[bytes, str]:
    """What is looked for here, written down apart from what `erase` itself looks for."""
    moving, round_about = clip(identity), head(identity)
    return {
        of.face_id.encode(): "face_id",
        identity.identity_id.encode(): "identity_id",
        image.image_id.encode(): "image_id",
        identity.words[TEXT_ENCODER][0, :6].tobytes(): "words",
        of.features.crop[:6].tobytes(): "features",
        encode_png(of.crop)[60:200]: "crop",
        encode_png(image.image)[60:200]: "image",
        b64encode(encode_png(image.image)[60:210])[:180]: "image as base64",
        moving.video_id.encode(): "video_id",
        moving.video[12_000:12_100]: "video",
        encode_png(moving.poster)[60:200]: "poster",
        round_about.model_id.encode(): "model_id",
        round_about.splats[12_000:12_100]: "splats",
        round_about.turntable[12_000:12_100]: "turntable",
        encode_png(round_about.poster)[60:200]: "poster of a head",
        state_of(identity)[9_000:9_100]: "state",
    }


def found(store: Store, needles: dict[bytes, str]) -> set[str]:
    return {hit.rpartition(": ")[2] for hit in scan(store.root, needles).found}
