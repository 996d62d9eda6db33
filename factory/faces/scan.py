"""A pack's detector over several views of a photo, and over its four rotations: boxes, landmarks, scores.

The models are the pack's own ONNX files; insightface's downloader is never reached. Points are x y in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import onnxruntime
from insightface.model_zoo import model_zoo
from insightface.model_zoo.package_manifest import has_model_package_manifest
from insightface.model_zoo.scrfd import SCRFD
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from factory.errors import PackError
from factory.faces.align import align
from factory.pack import Pack

_SAME_FACE_IOU = 0.4  # insightface's own threshold for duplicates
_CONTAINED = 0.8  # a part of a close-up that was taken for a face of its own
_PADDING = 0.5  # of the photo's sides, on each side: with it, faces that fill the photo are found
_SURELY_UPRIGHT = 0.83  # a score that no turned face reaches (YuNet; measured: docs/log.md, 2026-11-27)
_DOUBTFUL = 0.72  # a score below which what was found may be no face at all
_BETTER_TURNED = 0.02  # in score: by this much a face must be found better in the turned photo, both looks together
_FOUND_TURNED = 0.6  # the score of a face that is found in a turned photo alone
_REGION = 1.6  # sides of the face's box: what is looked at in all four rotations at once
_CELL = 160  # px of each of the four in that view
_ANY_SCORE = 0.05
_PREFER_UNPADDED = 0.05  # in score: where both find a face, the larger view has the better landmarks


@dataclass(frozen=True, slots=True)
class Found:
    box: np.ndarray  # float32 [4], x0 y0 x1 y1 in pixels of the photo
    landmarks: np.ndarray  # float32 [5, 2], pixels of the photo
    score: float  # 0..1
    rank: float  # `score`, plus the preference for unpadded views

    @property
    def size(self) -> np.ndarray:
        """float32 [2], width and height, px."""
        return self.box[2:] - self.box[:2]


class Scan:
    """The detector over several views of a photo, their findings merged."""

    def __init__(self, pack: Pack, min_score: float, num_threads: int) -> None:
        model = load_model(pack, pack.faces.det_file, "detection", num_threads)
        if not isinstance(model, SCRFD) or not model.use_kps:
            raise PackError(f"{pack.faces.det_file} of pack {pack.name!r} is no face detector with five landmarks")
        model.prepare(0, det_thresh=min_score)
        self.model = model
        self._side = pack.faces.det_size

    def __call__(self, image: np.ndarray) -> list[Found]:
        """Faces of a uint8 [H, W, 3] RGB image, the largest first."""
        found = self._look(image, self._side, 0.0) + self._look(image, _half(self._side), _PADDING)
        if max(image.shape) >= 2 * self._side:  # group photos: what is small at the usual size gets a second look
            found += self._look(image, 2 * self._side, 0.0)
        return sorted(_merge(found), key=lambda face: (-float(np.prod(face.size)), *face.box.tolist()))

    def upright(self, image: np.ndarray) -> tuple[int, np.ndarray, list[Found]]:
        """The photo turned so that its faces are upright: by how many quarters clockwise, the photo, its faces.

        The detector also finds faces that lie on their head, and calls the chin the eyes; only its score tells. A face
        with a high score settles it; else the best one is looked at in four rotations, small, and where another one
        than the photo's own wins, the photo is searched again so turned. A photo without faces is searched in all
        four, shrunk.
        """
        found = self(image)
        best = max(found, key=lambda face: face.score, default=None)
        if best is not None and best.score >= _SURELY_UPRIGHT:
            return 0, image, found
        turns, lead = (0, 0.0) if best is None else self._better_turns(image, best)
        if turns == 0 and (best is None or best.score < _DOUBTFUL):
            turns = self._likely_turns(image)
        if turns:
            turned = np.ascontiguousarray(np.rot90(image, -turns))
            again = self(turned)
            least = _FOUND_TURNED if best is None else best.score + _BETTER_TURNED - lead
            if max((face.score for face in again), default=0.0) >= least:
                return turns, turned, again
        return 0, image, found

    def _better_turns(self, image: np.ndarray, face: Found) -> tuple[int, float]:
        """The quarters clockwise after which a face has the highest score, in one look at all four; and by how much."""
        scale = _CELL / (_REGION * float(face.size.max()))
        shift = _CELL / 2 - scale * (face.box[:2] + face.box[2:]) / 2
        region = align(image, np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float64), _CELL)
        turned = [np.rot90(region, -turns) for turns in range(4)]
        view = np.concatenate([np.concatenate(turned[:2], axis=1), np.concatenate(turned[2:], axis=1)])
        scores, boxes, _ = self.model.forward(np.ascontiguousarray(view[:, :, ::-1]), _ANY_SCORE)
        score, corners = np.concatenate(scores).ravel(), np.concatenate(boxes)
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        best = []
        for turns in range(4):
            middle = np.array([turns % 2 + 0.5, turns // 2 + 0.5]) * _CELL
            best.append(score[np.abs(centres - middle).max(1) < _CELL / 5].max(initial=0.0))
        turns = int(np.argmax(best))
        return turns, float(best[turns] - best[0])

    def _likely_turns(self, image: np.ndarray) -> int:
        """The quarters clockwise after which a shrunk photo shows the face with the highest score; 0 if none does."""
        shrink = min(1.0, self._side / max(image.shape))
        size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink < 1 else image
        best = (0.0, 0)
        for turns in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(small, -turns))
            found = self._look(turned, _half(self._side), 0.0) + self._look(turned, _half(self._side), _PADDING)
            best = max(best, (max((face.score for face in found), default=0.0), turns))
        return best[1]

    def _look(self, image: np.ndarray, side: int, padding: float) -> list[Found]:
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
            Found(
                box=((box[:4].reshape(2, 2) - (left, top)) * scale).astype(np.float32).ravel(),
                landmarks=((points - (left, top)) * scale).astype(np.float32),
                score=min(float(box[4]), 1.0),
                rank=float(box[4]) + rank,
            )
            for box, points in zip(boxes, landmarks, strict=True)
        ]


def _half(side: int) -> int:
    return max(32, side // 2 // 32 * 32)  # detectors want multiples of 32


def _merge(found: list[Found]) -> list[Found]:
    """Each face once: of findings that overlap, the one of the highest rank."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: -face.rank):
        if not any(_same(face.box, other.box) for other in kept):
            kept.append(face)
    return kept


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    common = float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))
    area_a, area_b = float(np.prod(a[2:] - a[:2])), float(np.prod(b[2:] - b[:2]))
    return common > _SAME_FACE_IOU * (area_a + area_b - common) or common > _CONTAINED * min(area_a, area_b)


def load_model(pack: Pack, file_name: str, task: str, num_threads: int) -> object:
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
