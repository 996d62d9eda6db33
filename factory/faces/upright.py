"""Faces that lie: photos on their side or head, heads that are tilted, people who lie down.

The detector finds faces upside down, too, and calls their chins eyes, and it draws the eyes of a tilted head too level:
its landmarks tell little of how a face lies. Its score does, which is the highest where the face is upright.
"""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np

from factory.faces.align import align
from factory.faces.scan import DOUBTFUL, PADDING, Found, Scan, by_size, half, merged, same_face

_SURELY_UPRIGHT = 0.83  # a score that no turned face reaches (YuNet; measured: docs/log.md, 2026-11-27)
_BETTER_TURNED = 0.02  # in score: by this much a face must be found better in the turned photo, both looks together
_FOUND_TURNED = 0.6  # the score of a face that is found in a turned photo alone
_NEARLY = 0.04  # in score: ways to lie that are as near to the likeliest are looked at closely
_SURELY_LEVEL = 0.87  # a score that no head reaches that is tilted by 20 degrees and seems level
_LEVEL, _LEVELLED, _LEVELLINGS = (
    4.0,
    2.0,
    4,
)  # degrees of tilt: from where on, and until when, it is levelled; how often
_TOO_LEVEL = 1.6  # by so much a head is tilted more than it seems; the next look tells
_AROUND, _AROUND_PX = 0.9, 224  # sides of the face's box, from its middle: what is looked at then, and how large
_WAYS = 12  # in which a face may lie, 30 degrees apart
_REGION = 1.6  # sides of the face's box: what is looked at in all of these at once
_CELL, _COLUMNS = 96, 4  # px of each in that view, and how many stand side by side; detectors want multiples of 32
_ANY_SCORE = 0.05


class UprightScan(Scan):
    """A `Scan` whose faces are upright, however the photo or somebody in it lies."""

    def upright(self, image: np.ndarray) -> tuple[int, np.ndarray, list[Found]]:
        """The photo turned so that its faces are upright: by how many quarters clockwise, the photo, its faces.

        A face with a high score settles it; else the best one is looked at in all the ways it may lie, small, and where
        another quarter than the photo's own wins, the photo is searched again so turned. A photo without faces is
        searched in all quarters, and then between them, shrunk. Then each face that is no sure one is looked at by
        itself: on a scanned page of an album each photo lies as it was glued, and somebody may lie beside others who
        stand. Its landmarks turn the crop; points stay the photo's.
        """
        found = self(image)
        best = max(found, key=lambda face: face.score, default=None)
        if best is not None and best.score >= _SURELY_UPRIGHT:
            return 0, image, self._each(image, found, {})
        scores = None if best is None else self._scores(image, best)
        turns, lead = (0, 0.0) if scores is None else _quarters(scores)
        if turns == 0 and (best is None or best.score < DOUBTFUL):
            turns = self._likely_turns(image)
        if turns:
            turned = np.ascontiguousarray(np.rot90(image, -turns))
            again = self(turned)
            least = _FOUND_TURNED if best is None else best.score + _BETTER_TURNED - lead
            if max((face.score for face in again), default=0.0) >= least:
                return turns, turned, self._each(turned, again, {})
        if best is None or best.score < DOUBTFUL:
            found = merged(found + self._askew(image))
        known = {id(best): scores} if scores is not None else {}
        return 0, image, self._each(image, found, known)

    def _each(self, image: np.ndarray, found: list[Found], known: dict[int, np.ndarray]) -> list[Found]:
        """The faces of a photo, the eyes of each where they are."""
        settled = [self._stood_up(image, face, known.get(id(face))) for face in found]
        if any(abs(face.turned) > 60 for face in settled):
            for turns in (1, 2, 3):  # where one lies, others may that were not even found
                again = self(np.ascontiguousarray(np.rot90(image, -turns)))
                back = _turned_back(turns, *image.shape[:2])
                more = [face.mapped(back) for face in again if face.score >= _FOUND_TURNED]
                settled += [
                    self._stood_up(image, face) for face in more if not any(same_face(face, s) for s in settled)
                ]
        return by_size([self._levelled(image, face) for face in merged(settled)])

    def _stood_up(self, image: np.ndarray, face: Found, scores: np.ndarray | None = None) -> Found:
        """A face as it is found where the photo around it is turned so that it is upright."""
        if face.score >= _SURELY_UPRIGHT:
            return face
        scores = self._scores(image, face) if scores is None else scores
        beside = np.maximum(np.roll(scores, 1), np.roll(scores, -1))
        likely = np.flatnonzero((scores >= beside) & (scores >= scores.max() - _NEARLY) & (scores > 0))
        if not len(likely) or likely.tolist() == [0]:
            return face
        stands = self._levelled(image, face) if 0 in likely else face
        seen = [self._seen_turned(image, face, 360.0 * way / _WAYS) for way in likely if way]
        settled = [self._levelled(image, again) for again in seen if again is not None]
        best = max(settled, key=lambda one: one.score, default=stands)
        least = stands.score + (_BETTER_TURNED if 0 in likely else -_BETTER_TURNED)
        return best if best.score > least else stands

    def _levelled(self, image: np.ndarray, face: Found) -> Found:
        """A face with its landmarks as they are found where its eyes are level: of a tilted head the detector draws
        them too level."""
        if face.score >= _SURELY_LEVEL and abs(face.lean) < 2 * _LEVEL:
            return face
        for look in range(_LEVELLINGS):
            if abs(face.lean) < (_LEVELLED if look else _LEVEL):
                break
            again = self._seen_turned(image, face, face.turned - _TOO_LEVEL * face.lean)
            if again is None or again.score < face.score - _BETTER_TURNED:
                break
            score = max(face.score, again.score)
            face = replace(face, landmarks=again.landmarks, turned=again.turned, score=score)
        return face

    def _seen_turned(self, image: np.ndarray, face: Found, clockwise: float) -> Found | None:
        """A face as it is found where the photo around it is turned by some degrees; None if it is not."""
        side = _AROUND_PX
        matrix = _turning(clockwise, side / (2 * _AROUND * float(face.size.max())), face.middle, side)
        seen = self._look(align(image, matrix, side), side, 0.0)
        again = [one.mapped(cv2.invertAffineTransform(matrix)) for one in seen]
        return max((one for one in again if same_face(one, face)), key=lambda one: one.score, default=None)

    def _scores(self, image: np.ndarray, face: Found) -> np.ndarray:
        """Of a face in all ways to lie, float [12], in one look: by which turn clockwise it is upright."""
        scale, side = _CELL / (_REGION * float(face.size.max())), round(_CELL * 2**0.5)
        around = align(image, _turning(0.0, scale, face.middle, side), side)
        middle = np.full(2, side / 2 - 0.5)
        ways = [_turning(360.0 * way / _WAYS, 1.0, middle, _CELL - 1) for way in range(_WAYS)]
        cells = [cv2.warpAffine(around, way, (_CELL, _CELL)) for way in ways]
        rows = [np.concatenate(cells[at : at + _COLUMNS], axis=1) for at in range(0, _WAYS, _COLUMNS)]
        view = np.concatenate(rows)
        scores, boxes, _ = self.model.forward(np.ascontiguousarray(view[:, :, ::-1]), _ANY_SCORE)
        score, corners = np.concatenate(scores).ravel(), np.concatenate(boxes)
        centres = (corners[:, :2] + corners[:, 2:]) / 2
        best = []
        for way in range(_WAYS):
            within = (
                np.abs(centres - np.array([way % _COLUMNS + 0.5, way // _COLUMNS + 0.5]) * _CELL).max(1) < _CELL / 5
            )
            best.append(score[within].max(initial=0.0))
        return np.array(best)

    def _likely_turns(self, image: np.ndarray) -> int:
        """The quarters clockwise after which a shrunk photo shows the face with the highest score; 0 if none does."""
        shrink = min(1.0, self.side / max(image.shape))
        size = max(1, round(image.shape[1] * shrink)), max(1, round(image.shape[0] * shrink))
        small = cv2.resize(image, size, interpolation=cv2.INTER_AREA) if shrink < 1 else image
        best = (0.0, 0)
        for turns in (1, 2, 3):
            turned = np.ascontiguousarray(np.rot90(small, -turns))
            found = self._look(turned, half(self.side), 0.0) + self._look(turned, half(self.side), PADDING)
            best = max(best, (max((face.score for face in found), default=0.0), turns))
        return best[1]

    def _askew(self, image: np.ndarray) -> list[Found]:
        """Faces that lie between the quarters, as they are found in the shrunk photo."""
        side, (height, width) = half(self.side), image.shape[:2]
        found: list[Found] = []
        for clockwise in (45.0, 135.0, 225.0, 315.0):
            matrix = _turning(clockwise, side * 2**0.5 / (height + width), np.array([width, height]) / 2, side)
            seen = self._look(align(image, matrix, side), side, 0.0)
            back = cv2.invertAffineTransform(matrix)
            found += [face.mapped(back) for face in seen if face.score >= _FOUND_TURNED]
        return found


def _quarters(scores: np.ndarray) -> tuple[int, float]:
    """The quarters clockwise after which a face of such scores stands, be it tilted, and how much better than now."""
    best = np.maximum(np.maximum(np.roll(scores, 1), np.roll(scores, -1)), scores)[:: _WAYS // 4]
    turns = int(np.argmax(best))
    return turns, float(best[turns] - best[0])


def _turning(clockwise: float, scale: float, middle: np.ndarray, side: int) -> np.ndarray:
    """Turns and scales about a point, which comes to the middle of a square of that side: float64 [2, 3]."""
    cos, sin = scale * np.cos(np.radians(clockwise)), scale * np.sin(np.radians(clockwise))
    matrix = np.array([[cos, -sin, 0.0], [sin, cos, 0.0]])
    matrix[:, 2] = side / 2 - matrix[:, :2] @ middle
    return matrix


def _turned_back(turns: int, height: int, width: int) -> np.ndarray:
    """Takes points of a photo that was turned by 1, 2 or 3 quarters clockwise to those of the unturned one."""
    return np.array({
        1: [[0.0, 1, 0], [-1, 0, height]],
        2: [[-1.0, 0, width], [0, -1, height]],
        3: [[0.0, -1, width], [1, 0, 0]],
    }[turns])  # fmt: skip
