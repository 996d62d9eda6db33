"""What the workers of `prepare` do to a batch: find faces (CPU), then read their masks and features (GPU or CPU).

They run in processes of their own (factory/faces/isolated.py), which load no Ray.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import pyarrow as pa

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.photos import decode_photo
from factory.ids import face_id, face_name, index_of, is_face_id
from factory.pack import Pack, load_pack
from factory.records import Face, Photo, Reject
from factory.store.rows import SCHEMAS, decode_png, encode_png, reject_row

# One row per photo, so that a photo's faces and refusals are committed together.
OUTCOME: Final = pa.schema(
    [
        ("faces", pa.list_(pa.struct(list(SCHEMAS["faces"])))),  # rows of `faces`, masks and features still null
        ("rejects", pa.list_(pa.struct(list(SCHEMAS["rejects"])))),
    ]
)


class FaceFinder:
    """Decodes photos and cuts out their faces. Needs no GPU."""

    def __init__(self, pack: str, config: PrepareConfig, threads: int) -> None:
        import cv2

        from factory.faces.detect import FaceDetector

        cv2.setNumThreads(threads)  # else every worker resizes with as many threads as the node has cores
        self.pack, self.config = load_pack(pack), config
        self.detector = FaceDetector(self.pack, config, num_threads=threads)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """PHOTO -> OUTCOME."""
        return pa.Table.from_pylist([self._find(row) for row in batch.to_pylist()], OUTCOME)

    def _find(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if row["reason"] is not None:
                raise PhotoRejected(row["reason"], row["detail"])
            photo = decode_photo(row["image"], name=row["name"], config=self.config)
            faces, bad_faces = self.detector.find(photo)
        except PhotoRejected as error:
            return _refused(row, error, self.pack.name)
        except MemoryError:
            too_much = PhotoRejected("out_of_memory", f"{len(row['image'])} bytes need more memory than there is")
            return _refused(row, too_much, self.pack.name)
        return {
            "faces": [_found_row(face, photo, self.pack) for face in faces],
            "rejects": [_reject(row, face_id(photo.photo_id, i), error, self.pack.name) for i, error in bad_faces],
        }


class FaceReader:
    """Masks and FR-ViT features of the faces, all faces of the batch at once."""

    def __init__(self, pack: str, config: PrepareConfig, device: str, threads: int) -> None:
        import torch

        from factory.faces.encode import FeatureEncoder
        from factory.faces.parse import FaceParser, check_masks

        torch.set_num_threads(threads)
        self.out_of_memory = torch.OutOfMemoryError
        self.pack, self.config = load_pack(pack), config
        self.check_masks = check_masks
        self.parser = FaceParser(self.pack, device=device)
        self.encoder = FeatureEncoder(self.pack, device=device)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """OUTCOME -> OUTCOME, complete."""
        photos = batch.to_pylist()
        faces = [face for photo in photos for face in photo["faces"]]
        if faces:
            self._read(faces)
        return pa.Table.from_pylist([self._settle(photo) for photo in photos], OUTCOME)

    def _read(self, faces: list[dict[str, Any]]) -> None:
        crops = np.stack([decode_png(face["crop"]) for face in faces])
        try:
            masks, features = self.parser.parse(crops), self.encoder.encode(crops)
        except (self.out_of_memory, MemoryError) as error:  # a group photo may bring a hundred faces
            if len(faces) == 1:
                faces[0]["error"] = PhotoRejected("out_of_memory", str(error)[:300])
                return
            self._read(faces[: len(faces) // 2])
            self._read(faces[len(faces) // 2 :])
            return
        for face, mask, feature in zip(faces, masks, features, strict=True):
            try:
                self.check_masks(mask, self.config)
            except PhotoRejected as error:
                face["error"] = error
            face |= {"face_mask": encode_png(mask.face), "hair_mask": encode_png(mask.hair)}
            face |= {"features": feature.crop.tolist(), "features_mirror": feature.mirror.tolist()}

    def _settle(self, photo: dict[str, Any]) -> dict[str, Any]:
        faces = [face for face in photo["faces"] if "error" not in face]
        bad = [face for face in photo["faces"] if "error" in face]
        rejects = photo["rejects"] + [_reject(face, face["face_id"], face["error"], self.pack.name) for face in bad]
        if not faces:  # then the photo itself is refused, for what is wrong with its largest face
            rejects.sort(key=lambda row: index_of(row["reject_id"]) if is_face_id(row["reject_id"]) else 0)
            rejects[0]["reject_id"] = rejects[0]["photo_id"]
        return {"faces": faces, "rejects": rejects}


def find_poisoned(photo: pa.Table, detail: str, pack: str) -> pa.Table:
    """PHOTO of one row, which killed its FaceFinder -> OUTCOME."""
    error = PhotoRejected("crashed_worker", f"its process {detail}")
    return pa.Table.from_pylist([_refused(row, error, pack) for row in photo.to_pylist()], OUTCOME)


def read_poisoned(outcome: pa.Table, detail: str, pack: str) -> pa.Table:
    """OUTCOME of one row, which killed its FaceReader -> OUTCOME."""
    error = PhotoRejected("crashed_worker", f"its process {detail} on its faces")
    rows = outcome.to_pylist()
    for row in rows:
        whose = {**(row["faces"] or row["rejects"])[0]}
        row["rejects"] = [*row["rejects"], _reject(whose, whose["photo_id"], error, pack)]
        row["faces"] = []
    return pa.Table.from_pylist(rows, OUTCOME)


def _refused(row: Mapping[str, Any], error: PhotoRejected, pack: str) -> dict[str, Any]:
    return {"faces": [], "rejects": [_reject(row, row["reject_id"], error, pack)]}


def _reject(photo: Mapping[str, Any], reject_id: str, error: PhotoRejected, pack: str) -> dict[str, Any]:
    reject = Reject(
        reject_id=reject_id,
        photo_id=photo["photo_id"],
        name=photo["name"],
        pack=pack,
        stage="prepare",
        reason=error.reason,
        detail=error.detail,
    )
    return reject_row(reject)


def _found_row(face: Face, photo: Photo, pack: Pack) -> dict[str, Any]:
    return {
        "face_id": face.face_id,
        "pack": pack.name,
        "photo_id": photo.photo_id,
        "name": face_name(photo.name, face.face_index),
        "face_index": face.face_index,
        "box": face.box.tolist(),
        "landmarks": face.landmarks.ravel().tolist(),
        "score": face.score,
        "crop": encode_png(face.crop),
    }
