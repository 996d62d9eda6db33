"""Photo -> faces: boxes and landmarks through insightface, crops aligned to the FFHQ template; face embeddings.

The models are the pack's own ONNX files; insightface's downloader is never reached. Points are x y in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import onnxruntime
from insightface.model_zoo import model_zoo
from insightface.model_zoo.arcface_onnx import ArcFaceONNX
from insightface.model_zoo.package_manifest import has_model_package_manifest
from insightface.model_zoo.scrfd import SCRFD
from insightface.utils.face_align import arcface_dst
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from factory.config import PrepareConfig
from factory.errors import PackError, PhotoRejected
from factory.faces.align import FFHQ_512, align, similarity, visible_share
from factory.ids import face_id
from factory.pack import Pack
from factory.records import Face, Photo

ARCFACE_112 = np.asarray(arcface_dst, np.float64)  # the same points in the 112 px input of ArcFace models

_SAME_FACE_IOU = 0.4  # insightface's own threshold for duplicates
_CONTAINED = 0.8  # a part of a close-up that was taken for a face of its own
_PADDING = 0.5  # of the photo's sides, on each side: with it, faces that fill the photo are found
_PREFER_UNPADDED = 0.05  # in score: where both find a face, the larger view has the better landmarks


@dataclass(frozen=True, slots=True)
class _Found:
    box: np.ndarray  # float32 [4], x0 y0 x1 y1 in pixels of the photo
    landmarks: np.ndarray  # float32 [5, 2], pixels of the photo
    score: float  # 0..1
    rank: float  # `score`, plus the preference for unpadded views

    @property
    def size(self) -> np.ndarray:
        """float32 [2], width and height, px."""
        return self.box[2:] - self.box[:2]


class FaceDetector:
    """All faces of a photo, with their aligned crops. One thread per detector unless told otherwise."""

    def __init__(self, pack: Pack, config: PrepareConfig, *, num_threads: int = 1) -> None:
        """Load the pack's detector; raises PackError if the file is missing, damaged or no 5-point detector."""
        self._scan = _Scan(pack, config.min_score, num_threads)
        self._config = config
        self._resolution = pack.resolution
        self._crop_box = np.asarray(pack.crop_box) * pack.resolution

    def find(self, photo: Photo) -> tuple[list[Face], list[tuple[int, PhotoRejected]]]:
        """The usable faces, the largest first, and (face_index, refusal) for each of the others.

        Refusals: face_too_small, face_cut_off, blurred. Raises PhotoRejected("no_face") when nothing was found at all.
        With `config.faces == "largest"` the other faces are passed over: no faces of this job, so no refusals either.
        """
        found = self._scan(photo.image)
        if not found:
            height, width = photo.image.shape[:2]
            raise PhotoRejected("no_face", f"no face scores {self._config.min_score} in {width} x {height} pixels")
        faces: list[Face] = []
        refused: list[tuple[int, PhotoRejected]] = []
        for index, face in enumerate(found[:1] if self._config.faces == "largest" else found):
            try:
                faces.append(self._face(photo, index, face))
            except PhotoRejected as refusal:
                refused.append((index, refusal))
        return faces, refused

    def _face(self, photo: Photo, index: int, found: _Found) -> Face:
        config = self._config
        if found.size.min() < config.min_face_px:
            width, height = found.size
            raise PhotoRejected("face_too_small", f"{width:.0f} x {height:.0f} px; a side needs {config.min_face_px:g}")
        matrix = similarity(found.landmarks, FFHQ_512 * (self._resolution / 512))
        visible = visible_share(matrix, self._crop_box, photo.image.shape)
        if visible < config.min_visible:
            raise PhotoRejected("face_cut_off", f"{visible:.0%} of it lies in the photo; {config.min_visible:.0%} must")
        crop = align(photo.image, matrix, self._resolution)
        detail = sharpness(crop, float(found.size.min()))
        if detail < config.min_sharpness:
            raise PhotoRejected("blurred", f"sharpness {detail:.3f}; it needs {config.min_sharpness:g}")
        return Face(
            face_id=face_id(photo.photo_id, index),
            face_index=index,
            box=found.box,
            landmarks=found.landmarks,
            score=found.score,
            crop=crop,
        )


def sharpness(crop: np.ndarray, face_px: float) -> float:
    """How much fine detail a face has for its size: variance of the Laplacian over variance, of the crop's middle.

    `crop` is uint8 [S, S, 3]; `face_px` the face's shorter side in the photo. The crop is looked at no larger than the
    face was, so that a small face is not called blurred for having been enlarged.
    """
    side = min(len(crop), round(min(max(face_px, 24.0), 112.0)))
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64)[
        side // 5 : -(side // 5), side // 5 : -(side // 5)
    ]
    return float(cv2.Laplacian(grey, cv2.CV_64F, ksize=1).var() / max(grey.var(), 1.0))


class FaceRecogniser:
    """The pack's judge: how alike two faces are is the dot product of their embeddings. No part of training."""

    def __init__(self, pack: Pack, *, num_threads: int = 1) -> None:
        """Load the pack's recogniser and detector; raises PackError if a file is missing, damaged or another kind."""
        if pack.faces.judge is None:
            raise PackError(f"pack {pack.name!r} names no recogniser; set `judge` under [faces] in its pack.toml")
        model = _load(pack, pack.faces.judge, "recognition", num_threads)
        if not isinstance(model, ArcFaceONNX):
            raise PackError(f"{pack.faces.judge} of pack {pack.name!r} is no recogniser (a square input, one output)")
        self._model = model
        self._scan = _Scan(pack, PrepareConfig().min_score, num_threads)

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


class _Scan:
    """The detector over several views of a photo, their findings merged."""

    def __init__(self, pack: Pack, min_score: float, num_threads: int) -> None:
        model = _load(pack, pack.faces.det_file, "detection", num_threads)
        if not isinstance(model, SCRFD) or not model.use_kps:
            raise PackError(f"{pack.faces.det_file} of pack {pack.name!r} is no face detector with five landmarks")
        model.prepare(0, det_thresh=min_score)
        self.model = model
        self._side = pack.faces.det_size

    def __call__(self, image: np.ndarray) -> list[_Found]:
        """Faces of a uint8 [H, W, 3] RGB image, the largest first."""
        found = self._look(image, self._side, 0.0) + self._look(image, _half(self._side), _PADDING)
        if max(image.shape) >= 2 * self._side:  # group photos: what is small at the usual size gets a second look
            found += self._look(image, 2 * self._side, 0.0)
        return sorted(_merge(found), key=lambda face: (-float(np.prod(face.size)), *face.box.tolist()))

    def _look(self, image: np.ndarray, side: int, padding: float) -> list[_Found]:
        height, width = image.shape[:2]
        # Shrunk here, by area: insightface's own bilinear resize of a large photo would alias.
        shrink = min(1.0, side / ((1 + 2 * padding) * max(height, width)))
        view_size = max(1, round(width * shrink)), max(1, round(height * shrink))
        view = cv2.resize(image, view_size, interpolation=cv2.INTER_AREA) if shrink < 1 else image
        left, top = round(view_size[0] * padding), round(view_size[1] * padding)
        # insightface cannot scale panoramas whose shorter side would round to nothing: padded to 16 : 1
        wide, high = max(0, view_size[1] // 16 - view_size[0]), max(0, view_size[0] // 16 - view_size[1])
        view = cv2.copyMakeBorder(view, top, top + high, left, left + wide, cv2.BORDER_CONSTANT)
        bgr = np.ascontiguousarray(view[:, :, ::-1])  # insightface's order
        boxes, landmarks = self.model.detect(bgr, input_size=(side, side))
        scale = np.array([width / view_size[0], height / view_size[1]], np.float32)
        rank = 0.0 if padding else _PREFER_UNPADDED
        return [
            _Found(
                box=((box[:4].reshape(2, 2) - (left, top)) * scale).astype(np.float32).ravel(),
                landmarks=((points - (left, top)) * scale).astype(np.float32),
                score=min(float(box[4]), 1.0),
                rank=float(box[4]) + rank,
            )
            for box, points in zip(boxes, landmarks, strict=True)
        ]


def _half(side: int) -> int:
    return max(32, side // 2 // 32 * 32)  # detectors want multiples of 32


def _merge(found: list[_Found]) -> list[_Found]:
    """Each face once: of findings that overlap, the one of the highest rank."""
    kept: list[_Found] = []
    for face in sorted(found, key=lambda face: -face.rank):
        if not any(_same(face.box, other.box) for other in kept):
            kept.append(face)
    return kept


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    common = float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))
    area_a, area_b = float(np.prod(a[2:] - a[:2])), float(np.prod(b[2:] - b[:2]))
    return common > _SAME_FACE_IOU * (area_a + area_b - common) or common > _CONTAINED * min(area_a, area_b)


def _load(pack: Pack, file_name: str, task: str, num_threads: int) -> object:
    """A model of the pack's insightface folder. The file is checked here: insightface would take an empty folder."""
    file = pack.folder(pack.faces) / file_name
    if not file.is_file():
        raise PackError(f"pack {pack.name!r} has no {file_name} in {file.parent}; {pack.remedy(pack.faces)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors only
    # With a manifest insightface takes mean and std from it, without one it goes by the model's shape.
    declared = task if has_model_package_manifest(file.parent) else None
    try:
        return model_zoo.get_model(str(file), model_task=declared, sess_options=options)
    except (ort_errors.InvalidProtobuf, ort_errors.InvalidGraph, ort_errors.Fail, RuntimeError, ValueError) as error:
        raise PackError(f"{file} is damaged or of another kind: {error}; {pack.remedy(pack.faces)}") from error
