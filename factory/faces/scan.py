"""A pack's detector over several views of a photo: boxes, landmarks, scores.

The models are the pack's own ONNX files; insightface's downloader is never reached. Points are x y in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import atan2, degrees

import cv2
import numpy as np
import onnxruntime
from insightface.model_zoo import model_zoo
from insightface.model_zoo.package_manifest import has_model_package_manifest
from insightface.model_zoo.scrfd import SCRFD
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from factory.errors import PackError
from factory.faces.align import FFHQ_512, similarity
from factory.pack import Pack

_SAME_FACE_IOU = 0.4  # insightface's own threshold for duplicates
_CONTAINED = 0.8  # a part of a close-up that was taken for a face of its own
_PART = 0.2  # of a face's area: what is smaller in it and sure is no part of it
PADDING = 0.5  # of the photo's sides, on each side: with it, faces that fill the photo are found
DOUBTFUL = 0.72  # a score below which what was found may be no face at all
_HUGE = 8  # times the detector's side: of such photos a face of 40 px is lost in shrinking
_NEAR_LOST = 1 / 32  # of the longer side: where a face is smaller, others may be too small to be seen
_CLOSER = 0.4  # of the photo's pixels are looked at then
_PREFER_UNPADDED = 0.05  # in score: where both find a face, the larger view has the better landmarks


@dataclass(frozen=True, slots=True)
class Found:
    box: np.ndarray  # float32 [4], x0 y0 x1 y1 in pixels of the photo
    landmarks: np.ndarray  # float32 [5, 2], pixels of the photo
    score: float  # 0..1
    rank: float  # `score`, plus the preference for unpadded views
    turned: float = 0.0  # degrees clockwise by which the photo was turned in which it was found

    @property
    def size(self) -> np.ndarray:
        """float32 [2], width and height, px."""
        return self.box[2:] - self.box[:2]

    @property
    def middle(self) -> np.ndarray:
        """Float32 [2], of the box."""
        return (self.box[:2] + self.box[2:]) / 2

    @property
    def tilt(self) -> float:
        """Degrees clockwise from upright, by all landmarks: of a profile the eyes alone tell little."""
        matrix = similarity(self.landmarks, FFHQ_512)
        return -degrees(atan2(matrix[1, 0], matrix[0, 0]))

    @property
    def lean(self) -> float:
        """Its tilt as it was found, within -180 and 180 degrees."""
        return (self.tilt + self.turned + 180) % 360 - 180

    def mapped(self, matrix: np.ndarray) -> Found:
        """As it lies where `matrix`, float [2, 3], takes its points to; the box is that of the ellipse in it."""
        centre = matrix[:, :2] @ (self.box[:2] + self.box[2:]) / 2 + matrix[:, 2]
        half = np.sqrt(np.square(matrix[:, :2] * self.size / 2).sum(1))
        box = np.concatenate([centre - half, centre + half]).astype(np.float32)
        landmarks = np.asarray(self.landmarks @ matrix[:, :2].T + matrix[:, 2], np.float32)
        turned = self.turned - degrees(atan2(matrix[1, 0], matrix[0, 0]))
        return replace(self, box=box, landmarks=landmarks, turned=turned)


class Scan:
    """The detector over several views of a photo, their findings merged."""

    def __init__(self, pack: Pack, min_score: float, num_threads: int) -> None:
        model = load_model(pack, pack.faces.det_file, "detection", num_threads)
        if not isinstance(model, SCRFD) or not model.use_kps:
            raise PackError(f"{pack.faces.det_file} of pack {pack.name!r} is no face detector with five landmarks")
        model.prepare(0, det_thresh=min_score)
        self.model = model
        self.side = pack.faces.det_size

    def __call__(self, image: np.ndarray) -> list[Found]:
        """Faces of a uint8 [H, W, 3] RGB image, the largest first."""
        found = self._look(image, self.side, 0.0) + self._look(image, half(self.side), PADDING)
        if max(image.shape) >= 2 * self.side:  # group photos: what is small at the usual size gets a second look
            found += self._look(image, 2 * self.side, 0.0)
        if max(image.shape) >= _HUGE * self.side:
            smallest = min((float(face.size.max()) for face in found), default=0.0)
            if smallest < _NEAR_LOST * max(image.shape):  # there may be smaller ones, lost in shrinking
                found += self._look_closer(image)
        return by_size(merged(found))

    def _look_closer(self, image: np.ndarray) -> list[Found]:
        """Small faces of a huge photo, part by part: those that lie whole in one of these, which overlap."""
        side, overlap = round(2 * self.side / _CLOSER), round(self.side / (4 * _CLOSER))  # px of the photo
        found: list[Found] = []
        height, width = image.shape[:2]
        for y0, y1 in _parts(height, side, overlap):
            for x0, x1 in _parts(width, side, overlap):
                seen = self._look(image[y0:y1, x0:x1], 2 * self.side, 0.0)
                cut = np.array([x0 > 0, y0 > 0, x1 < width, y1 < height])  # sides behind which the photo goes on
                room = np.array([0, 0, x1 - x0, y1 - y0])
                for face in seen:
                    near = np.abs(face.box - room) < 0.1 * face.size.max()
                    if face.size.max() < overlap and not (cut & near).any():
                        found.append(face.mapped(np.array([[1.0, 0, x0], [0, 1, y0]])))
        return found

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


def _parts(length: int, side: int, overlap: int) -> list[tuple[int, int]]:
    """Equal parts of at most `side` that cover a length and overlap by `overlap` at least."""
    num = max(1, -(-(length - overlap) // (side - overlap)))
    side = min(side, -(-(length + (num - 1) * overlap) // num))
    starts = np.linspace(0, length - side, num).round().astype(int).tolist()
    return [(start, start + side) for start in starts]


def half(side: int) -> int:
    return max(32, side // 2 // 32 * 32)  # detectors want multiples of 32


def by_size(found: list[Found]) -> list[Found]:
    """The largest first."""
    return sorted(found, key=lambda face: (-float(np.prod(face.size)), *face.box.tolist()))


def merged(found: list[Found]) -> list[Found]:
    """Each face once: of findings that overlap, the one of the highest rank."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: -face.rank):
        if not any(same_face(face, other) for other in kept):
            kept.append(face)
    return kept


def same_face(one: Found, other: Found) -> bool:
    """Whether two findings are of one face; not a child's before its mother's, small and sure in the larger one."""
    a, b = one.box, other.box
    common = float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))
    small, large = sorted((one, other), key=lambda face: float(np.prod(face.size)))
    area, larger = float(np.prod(small.size)), float(np.prod(large.size))
    if common > _SAME_FACE_IOU * (area + larger - common):
        return True
    return common > _CONTAINED * area and (area > _PART * larger or small.score < DOUBTFUL)


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
