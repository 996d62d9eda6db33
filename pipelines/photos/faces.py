"""What the workers of `prepare` do to a batch: find faces (CPU), then read their masks and features (GPU or CPU).

They run in processes of their own (factory/faces/isolated.py), which load no Ray. Between them crops are raw pixels;
they become PNG where the rows of `faces` are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any, Final

import numpy as np
import pyarrow as pa

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.ids import face_id
from factory.pack import load_pack
from factory.records import Face, FoundFaces, Origin
from factory.store.rows import face_row, refusal_rows
from factory.store.schemas import SCHEMAS
from pipelines.photos.consents import CONSENT

_TEXTS: Final = ("photo_id", "reject_id", "name", "uri", "person")
_PHOTO: Final = [*((name, pa.string()) for name in _TEXTS), *CONSENT]  # of PHOTO
_FACE: Final = [
    ("face_index", pa.int32()),
    ("box", pa.list_(pa.float32(), 4)),
    ("landmarks", pa.list_(pa.float32(), 10)),
    ("score", pa.float32()),
    ("inside", pa.list_(pa.float32(), 8)),
    ("pixels", pa.large_binary()),  # uint8 [S, S, 3] RGB; large: the crops of some big groups pass 2 GiB
]
_ORIGIN: Final = [("rotation", pa.int32()), ("frame", pa.int32()), ("salvaged", pa.bool_())]
_REFUSED: Final = [("face_index", pa.int32()), ("reason", pa.string()), ("detail", pa.string())]
# One row per photo, so that a photo's faces and refusals are committed together.
FOUND: Final = pa.schema(
    [
        *_PHOTO,
        ("faces", pa.list_(pa.struct(_FACE))),
        ("refused", pa.list_(pa.struct(_REFUSED))),
        ("origin", pa.struct(_ORIGIN)),
        ("num_aside", pa.int32()),  # faces that were passed over
    ]
)
OUTCOME: Final = pa.schema(
    [
        ("faces", pa.list_(pa.struct(list(SCHEMAS["faces"])))),
        ("rejects", pa.list_(pa.struct(list(SCHEMAS["rejects"])))),
        ("num_aside", pa.int32()),
    ]
)


class FindFaces:
    """Decodes photos and cuts out their faces. Needs no GPU."""

    def __init__(self, pack: str, config: PrepareConfig, threads: int) -> None:
        import cv2

        from factory.faces.find import FaceFinder

        cv2.setNumThreads(threads)  # else every worker resizes with as many threads as the node has cores
        self.finder = FaceFinder(load_pack(pack), config, num_threads=threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """PHOTO -> FOUND."""
        return pa.Table.from_pylist([self._find(row) for row in batch.to_pylist()], FOUND)

    def _find(self, row: dict[str, Any]) -> dict[str, Any]:
        if row["reason"] is not None:
            return _refused(row, row["reason"], row["detail"])
        found = self.finder.find(row["image"], row["name"], row["photo_id"])
        refused = [{"face_index": i, "reason": error.reason, "detail": error.detail} for i, error in found.refused]
        faces = [_sent(face) for face in found.faces]
        told = {"origin": asdict(found.origin), "num_aside": found.num_aside}
        return {**_photo(row), "faces": faces, "refused": refused, **told}


class ReadFaces:
    """Masks and FR-ViT features of the faces, all faces of the batch at once."""

    def __init__(self, pack: str, config: PrepareConfig, device: str, threads: int) -> None:
        import torch

        from factory.faces.read import FaceReader

        torch.set_num_threads(threads)
        self.pack, self.threads = load_pack(pack), threads
        self.reader = FaceReader(self.pack, config, device=device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """FOUND -> OUTCOME."""
        photos = batch.to_pylist()
        read = self.reader.read([_received(photo, self.pack.resolution) for photo in photos])
        with ThreadPoolExecutor(self.threads) as threads:  # PNG costs more than the networks do on a GPU
            rows = iter(list(threads.map(face_row, [face for outcome in read for face in outcome.faces])))
        outcomes = [
            {
                "faces": [{**next(rows), **_told(photo)} for _ in outcome.faces],
                "rejects": _rejects(photo, outcome.refused, self.pack.name, whole=not outcome.faces),
                "num_aside": photo["num_aside"],
            }
            for photo, outcome in zip(photos, read, strict=True)
        ]
        return pa.Table.from_pylist(outcomes, OUTCOME)


def find_poisoned(photo: pa.Table, detail: str) -> pa.Table:
    """PHOTO of one row, which killed its FindFaces -> FOUND."""
    rows = [_refused(row, "crashed_worker", f"its process {detail}") for row in photo.to_pylist()]
    return pa.Table.from_pylist(rows, FOUND)


def read_poisoned(found: pa.Table, detail: str, pack: str) -> pa.Table:
    """FOUND of one row, which killed its ReadFaces -> OUTCOME."""
    error = PhotoRejected("crashed_worker", f"its process {detail} on its faces")
    rows = [
        {"faces": [], "rejects": _rejects(row, [(0, error), *_errors(row)], pack, whole=True)}
        for row in found.to_pylist()
    ]
    return pa.Table.from_pylist(rows, OUTCOME)


def _photo(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name, _ in _PHOTO}


def _told(photo: Mapping[str, Any]) -> dict[str, Any]:
    return {name: photo[name] for name in ("uri", "person", *(name for name, _ in CONSENT))}


def _refused(row: Mapping[str, Any], reason: str, detail: str) -> dict[str, Any]:
    refused = [{"face_index": 0, "reason": reason, "detail": detail}]
    return {**_photo(row), "faces": [], "refused": refused, "origin": asdict(Origin())}


def _sent(face: Face) -> dict[str, Any]:
    """A row of FOUND.faces."""
    return {
        "face_index": face.face_index,
        "box": face.box,
        "landmarks": face.landmarks.ravel(),
        "score": face.score,
        "inside": face.inside.ravel(),
        "pixels": face.crop.tobytes(),
    }


def _received(row: Mapping[str, Any], side: int) -> FoundFaces:
    """The record of a row of FOUND."""
    faces = [
        Face(
            face_id=face_id(row["photo_id"], face["face_index"]),
            face_index=face["face_index"],
            box=np.array(face["box"], np.float32),
            landmarks=np.array(face["landmarks"], np.float32).reshape(5, 2),
            score=face["score"],
            crop=np.frombuffer(face["pixels"], np.uint8).reshape(side, side, 3),
            inside=np.array(face["inside"], np.float32).reshape(4, 2),
        )
        for face in row["faces"]
    ]
    return FoundFaces(
        photo_id=row["photo_id"], name=row["name"], faces=faces, refused=_errors(row), origin=Origin(**row["origin"])
    )


def _errors(row: Mapping[str, Any]) -> list[tuple[int, PhotoRejected]]:
    return [(each["face_index"], PhotoRejected(each["reason"], each["detail"])) for each in row["refused"]]


def _rejects(
    photo: Mapping[str, Any], refused: Sequence[tuple[int, PhotoRejected]], pack: str, *, whole: bool
) -> list[dict[str, Any]]:
    ids = {"reject_id": photo["reject_id"], "uri": photo["uri"]}
    return refusal_rows(photo["photo_id"], photo["name"], pack, refused, whole=whole, **ids)
