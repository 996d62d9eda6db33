"""A pack's detector over several views of a photo, and over its four rotations: boxes, landmarks, scores.

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
from factory.faces.align import FFHQ_512, align, similarity
from factory.pack import Pack

_SAME_FACE_IOU = 0.4  # insightface's own threshold for duplicates
_CONTAINED = 0.8  # a part of a close-up that was taken for a face of its own
_PART = 0.2  # of a face's area: what is smaller in it and sure is no part of it
_PADDING = 0.5  # of the photo's sides, on each side: with it, faces that fill the photo are found
_SURELY_UPRIGHT = 0.83  # a score that no turned face reaches (YuNet; measured: docs/log.md, 2026-11-27)
_DOUBTFUL = 0.72  # a score below which what was found may be no face at all
_BETTER_TURNED = 0.02  # in score: by this much a face must be found better in the turned photo, both looks together
_FOUND_TURNED = 0.6  # the score of a face that is found in a turned photo alone
_MUCH_BETTER = 0.1  # in score: by this much one face of several must be better turned, in one look at all four
_SURELY_LEVEL = 0.87  # a score that no head reaches that is tilted by 20 degrees and seems level
_LEVEL, _LEVELLINGS = 4.0, 4  # degrees of tilt from which landmarks are looked for again, and how often
_AROUND, _AROUND_PX = 0.9, 224  # sides of the face's box, from its middle: what is looked at then, and how large
_REGION = 1.6  # sides of the face's box: what is looked at in all four rotations at once
_CELL = 160  # px of each of the four in that view
_ANY_SCORE = 0.05
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

    @property
    def size(self) -> np.ndarray:
        """float32 [2], width and height, px."""
        return self.box[2:] - self.box[:2]

    @property
    def tilt(self) -> float:
        """Degrees clockwise from upright, by all landmarks: of a profile the eyes alone tell little."""
        matrix = similarity(self.landmarks, FFHQ_512)
        return -degrees(atan2(matrix[1, 0], matrix[0, 0]))

    def mapped(self, matrix: np.ndarray) -> Found:
        """As it lies where `matrix`, float [2, 3], takes its points to; the box is that of the ellipse in it."""
        centre = matrix[:, :2] @ (self.box[:2] + self.box[2:]) / 2 + matrix[:, 2]
        half = np.sqrt(np.square(matrix[:, :2] * self.size / 2).sum(1))
        box = np.concatenate([centre - half, centre + half]).astype(np.float32)
        return replace(self, box=box, landmarks=np.asarray(self.landmarks @ matrix[:, :2].T + matrix[:, 2], np.float32))


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
        if max(image.shape) >= _HUGE * self._side:
            smallest = min((float(face.size.max()) for face in found), default=0.0)
            if smallest < _NEAR_LOST * max(image.shape):  # there may be smaller ones, lost in shrinking
                found += self._look_closer(image)
        return sorted(_merge(found), key=lambda face: (-float(np.prod(face.size)), *face.box.tolist()))

    def upright(self, image: np.ndarray) -> tuple[int, np.ndarray, list[Found]]:
        """The photo turned so that its faces are upright: by how many quarters clockwise, the photo, its faces.

        The detector also finds faces that lie on their head, and calls the chin the eyes; only its score tells. A face
        with a high score settles it; else the best one is looked at in four rotations, small, and where another one
        than the photo's own wins, the photo is searched again so turned. A photo without faces is searched in all
        four, shrunk. Then each face that is no sure one is looked at by itself: on a scanned page of an album each
        photo lies as it was glued, and somebody may lie beside others who stand.
        """
        found = self(image)
        best = max(found, key=lambda face: face.score, default=None)
        if best is not None and best.score >= _SURELY_UPRIGHT:
            return 0, image, self._each_upright(image, found)
        turns, lead = (0, 0.0) if best is None else self._better_turns(image, best)
        if turns == 0 and (best is None or best.score < _DOUBTFUL):
            turns = self._likely_turns(image)
        if turns:
            turned = np.ascontiguousarray(np.rot90(image, -turns))
            again = self(turned)
            least = _FOUND_TURNED if best is None else best.score + _BETTER_TURNED - lead
            if max((face.score for face in again), default=0.0) >= least:
                return turns, turned, self._each_upright(turned, again)
        return 0, image, self._each_upright(image, found, best)

    def _each_upright(self, image: np.ndarray, found: list[Found], looked_at: Found | None = None) -> list[Found]:
        """The faces of a photo that is upright, the eyes of each where they are. Points stay the photo's."""
        sure = [face is looked_at or face.score >= _SURELY_UPRIGHT for face in found]
        settled = [face if is_sure else self._stood_up(image, face) for face, is_sure in zip(found, sure, strict=True)]
        if any(face is not same for face, same in zip(settled, found, strict=True)):
            for turns in (1, 2, 3):  # where one lies, others may that were not even found
                again = self(np.ascontiguousarray(np.rot90(image, -turns)))
                back = _turned_back(turns, *image.shape[:2])
                settled += [face.mapped(back) for face in again if face.score >= _FOUND_TURNED]
        levelled = [self._levelled(image, face) for face in _merge(settled)]
        return sorted(levelled, key=lambda face: (-float(np.prod(face.size)), *face.box.tolist()))

    def _stood_up(self, image: np.ndarray, face: Found) -> Found:
        """A face as it is found where the photo around it is turned by quarters, where that is much better."""
        turns, lead = self._better_turns(image, face)
        if turns == 0 or lead < _MUCH_BETTER:
            return face
        again = self._seen_turned(image, face, 90.0 * turns)
        return again if again is not None and again.score > face.score else face

    def _levelled(self, image: np.ndarray, face: Found) -> Found:
        """A face with its landmarks as they are found where its eyes are level: of a tilted head the detector draws
        them too level."""
        tilt = 0.0
        for _ in range(0 if face.score >= _SURELY_LEVEL and abs(face.tilt) < 2 * _LEVEL else _LEVELLINGS):
            if abs(face.tilt - tilt) < _LEVEL:
                break
            tilt = face.tilt
            again = self._seen_turned(image, face, -tilt)
            if again is None or again.score < face.score - _BETTER_TURNED:
                break
            face = replace(face, landmarks=again.landmarks, score=max(face.score, again.score))
        return face

    def _seen_turned(self, image: np.ndarray, face: Found, clockwise: float) -> Found | None:
        """A face as it is found where the photo around it is turned by some degrees; None if it is not."""
        side = _AROUND_PX
        scale = side / (2 * _AROUND * float(face.size.max()))
        cos, sin = scale * np.cos(np.radians(clockwise)), scale * np.sin(np.radians(clockwise))
        matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
        matrix[:, 2] = side / 2 - matrix[:, :2] @ (face.box[:2] + face.box[2:]) / 2
        seen = self._look(align(image, matrix, side), side, 0.0)
        again = [one.mapped(cv2.invertAffineTransform(matrix)) for one in seen]
        return max((one for one in again if _same(one, face)), key=lambda one: one.score, default=None)

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

    def _look_closer(self, image: np.ndarray) -> list[Found]:
        """Small faces of a huge photo, part by part: those that lie whole in one of these, which overlap."""
        side, overlap = round(2 * self._side / _CLOSER), round(self._side / (4 * _CLOSER))  # px of the photo
        found: list[Found] = []
        height, width = image.shape[:2]
        for y0, y1 in _parts(height, side, overlap):
            for x0, x1 in _parts(width, side, overlap):
                seen = self._look(image[y0:y1, x0:x1], 2 * self._side, 0.0)
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


def _turned_back(turns: int, height: int, width: int) -> np.ndarray:
    """Takes points of a photo that was turned by 1, 2 or 3 quarters clockwise to those of the unturned one."""
    return np.array({
        1: [[0.0, 1, 0], [-1, 0, height]],
        2: [[-1.0, 0, width], [0, -1, height]],
        3: [[0.0, -1, width], [1, 0, 0]],
    }[turns])  # fmt: skip


def _half(side: int) -> int:
    return max(32, side // 2 // 32 * 32)  # detectors want multiples of 32


def _merge(found: list[Found]) -> list[Found]:
    """Each face once: of findings that overlap, the one of the highest rank."""
    kept: list[Found] = []
    for face in sorted(found, key=lambda face: -face.rank):
        if not any(_same(face, other) for other in kept):
            kept.append(face)
    return kept


def _same(one: Found, other: Found) -> bool:
    """Whether two findings are of one face; not a child's before its mother's, small and sure in the larger one."""
    a, b = one.box, other.box
    common = float(np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)))
    small, large = sorted((one, other), key=lambda face: float(np.prod(face.size)))
    area, larger = float(np.prod(small.size)), float(np.prod(large.size))
    if common > _SAME_FACE_IOU * (area + larger - common):
        return True
    return common > _CONTAINED * area and (area > _PART * larger or small.score < _DOUBTFUL)


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
