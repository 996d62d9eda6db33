"""Photo -> faces: found upright, cut out, aligned to the FFHQ template, or refused; face embeddings.

Points are x y in pixels.
"""

from __future__ import annotations

from dataclasses import replace
from math import floor

import numpy as np
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.utils.face_align import arcface_dst

from factory.config import PrepareConfig
from factory.errors import PackError, PhotoRejected
from factory.faces.align import FACE_BOX, FFHQ_512, align, photo_corners, similarity, visible_share
from factory.faces.quality import sharpness
from factory.faces.scan import Found, Scan, load_model
from factory.faces.upright import UprightScan
from factory.ids import face_id
from factory.pack import Pack
from factory.records import Face, FoundFaces, Photo

ARCFACE_112 = np.asarray(arcface_dst, np.float64)  # the same points in the 112 px input of ArcFace models


class FaceDetector:
    """All faces of a photo, with their aligned crops. One thread per detector unless told otherwise."""

    def __init__(self, pack: Pack, config: PrepareConfig, *, num_threads: int = 1) -> None:
        """Load the pack's detector; raises PackError if the file is missing, damaged or no 5-point detector."""
        self._scan = UprightScan(pack, config.min_score, num_threads)
        self._config = config
        self._resolution = pack.resolution

    def find(self, photo: Photo) -> FoundFaces:
        """The usable faces, and the refusals of the others: face_too_small, face_cut_off, blurred.

        A photo that lies on its side or head is turned first (`origin.rotation`); boxes and landmarks are of the
        turned one. Raises PhotoRejected("no_face") when nothing was found at all. With `config.faces == "largest"` the
        other faces are passed over: no faces of this job, so no refusals either, but counted.
        """
        turns, image, found = self._scan.upright(photo.image)
        if not found:
            height, width = photo.image.shape[:2]
            least = f"{self._config.min_score:g} (min_score)"
            raise PhotoRejected("no_face", f"no face scores {least} in {width} x {height} pixels")
        faces: list[Face] = []
        refused: list[tuple[int, PhotoRejected]] = []
        taken = found[:1] if self._config.faces == "largest" else found
        for index, face in enumerate(taken):
            try:
                faces.append(self._face(photo.photo_id, image, index, face))
            except PhotoRejected as refusal:
                refused.append((index, refusal))
        origin = replace(photo.origin, rotation=90 * turns)
        return FoundFaces(
            photo_id=photo.photo_id,
            name=photo.name,
            faces=faces,
            refused=refused,
            origin=origin,
            num_aside=len(found) - len(taken),
        )

    def _face(self, photo_id: str, image: np.ndarray, index: int, found: Found) -> Face:
        config = self._config
        if found.size.min() < config.min_face_px:
            width, height = found.size
            least = f"{config.min_face_px:g} (min_face_px)"
            raise PhotoRejected("face_too_small", f"{width:.0f} x {height:.0f} px; a side needs {least}")
        matrix = similarity(found.landmarks, FFHQ_512 * (self._resolution / 512))
        visible = visible_share(matrix, np.asarray(FACE_BOX) * self._resolution, image.shape)
        if visible < config.min_visible:
            there = floor(visible * 1000) / 10  # rounded up, it might agree with the limit
            must = f"{config.min_visible * 100:g}% must (min_visible)"
            raise PhotoRejected("face_cut_off", f"{there:.1f}% of it, forehead to chin, lies in the photo; {must}")
        crop = align(image, matrix, self._resolution)
        detail = sharpness(crop, float(found.size.min()))
        if detail < config.min_sharpness:
            raise PhotoRejected("blurred", f"sharpness {detail:.3f}; it needs {config.min_sharpness:g} (min_sharpness)")
        return Face(
            face_id=face_id(photo_id, index),
            face_index=index,
            box=found.box,
            landmarks=found.landmarks,
            score=found.score,
            crop=crop,
            inside=photo_corners(matrix, image.shape),
        )


class FaceRecogniser:
    """The pack's judge: how alike two faces are is the dot product of their embeddings. No part of training."""

    def __init__(self, pack: Pack, *, num_threads: int = 1) -> None:
        """Load the pack's recogniser and detector; raises PackError if a file is missing, damaged or another kind."""
        if pack.faces.judge is None:
            raise PackError(f"pack {pack.name!r} names no recogniser; set `judge` under [faces] in its pack.toml")
        model = load_model(pack, pack.faces.judge, "recognition", num_threads)
        if not isinstance(model, ArcFaceONNX):
            raise PackError(f"{pack.faces.judge} of pack {pack.name!r} is no recogniser (a square input, one output)")
        self._model = model
        self._scan = Scan(pack, PrepareConfig().min_score, num_threads)

    def embed(self, image: np.ndarray, *, aligned: bool = False) -> np.ndarray | None:
        """Embedding of the largest face, float32 [E] of length 1; None if there is no face.

        `image` is uint8 [H, W, 3] RGB. `aligned` says that it is a crop of `FaceDetector`: if no face is found in it
        (the crop may be tight), its landmarks are taken to be where the template has them.
        """
        seen = self.look(image, aligned=aligned)
        return None if seen is None else seen[0]

    def look(self, image: np.ndarray, *, aligned: bool = False) -> tuple[np.ndarray, np.ndarray] | None:
        """As `embed`: the embedding, and the aligned face it was made of, uint8 [112, 112, 3] RGB for most models."""
        found = self._scan(image)
        if found:
            landmarks = found[0].landmarks
        elif aligned:
            landmarks = (FFHQ_512 * (image.shape[0] / 512)).astype(np.float32)
        else:
            return None
        side = int(self._model.input_size[0])
        face = align(image, similarity(landmarks, ARCFACE_112 * (side / 112)), side)
        embedding = np.asarray(self._model.get_feat(face[:, :, ::-1]), np.float32).ravel()
        return embedding / max(float(np.linalg.norm(embedding)), 1e-12), face
