"""How good a photo of a face is to learn from: five things that are measured in it, before anything is learned.

Plain numpy and OpenCV on what is there after parsing, about a millisecond a face; no network judges it. Each part is
0..1, and the score is the worst one: a sharp, large, well lit profile is still a profile.
"""

from __future__ import annotations

from functools import lru_cache
from math import atan, degrees, hypot, log

import cv2
import numpy as np

from factory.faces.align import FACE_BOX
from factory.records import FaceMasks
from factory.scores import PhotoQuality

_BLURRED, _SHARP = 0.03, 0.25  # `sharpness`: what jobs refuse by default, and the softest sharp photos (docs/log.md)
# x0 y0 x1 y1 in shares of the crop: its middle, from the eyes to the mouth, the eyes and the nose
_FINE_PARTS = ((0.2, 0.2, 0.8, 0.8), (0.3, 0.32, 0.7, 0.8), (0.36, 0.36, 0.64, 0.64))
_TINY_PX = 24.0  # a face's shorter side: what jobs refuse by default
_FRONT, _AWAY = 15.0, 60.0  # degrees: turned less is as good as from the front; turned further, half of it is not seen
_NOD_SLACK = 10.0  # degrees of nodding that five landmarks cannot tell from a long or short nose
_COVERED, _WHOLE = 0.5, 0.95  # share of the middle of the face that the parser must find there
_MIDDLE = (0.5, 0.62, 0.17, 0.22)  # of the aligned crop: x and y of an ellipse from the brows to the chin, its radii
_DARK, _LIT = 0.12, 0.35  # luma 0..1 of the brightest twentieth of the face: dark skin in good light, too
_BURNT, _TONED = 0.92, 0.65  # of the darkest twentieth
_NOSE = 0.08  # of the crop's side: half of what lies between the cheeks
_LOOKED_AT_PX = 64  # side of what exposure and cover are counted on

# How far nose and mouth lie before or behind the eyes on the head that everybody shares (factory/faces/pose.py), and
# where they are below them, in its units: what moves them when a head turns.
_EYES_APART, _NOSE_DOWN, _MOUTH_DOWN = 0.72, 0.43, 0.71
_NOSE_BEFORE, _MOUTH_BEHIND = 0.253, 0.172


def photo_quality(crop: np.ndarray, masks: FaceMasks, landmarks: np.ndarray, box: np.ndarray) -> PhotoQuality:
    """Of one face: its aligned crop, uint8 [S, S, 3] RGB, with masks; landmarks [5, 2] and box [4], px of the photo."""
    face_px = float((box[2:] - box[:2]).min())
    enough_px = max((FACE_BOX[2] - FACE_BOX[0]) * len(crop), 2 * _TINY_PX)  # a crop of these enlarges nothing
    turned = head_turn(landmarks)
    step = max(1, len(crop) // _LOOKED_AT_PX)
    face, middle = masks.face[::step, ::step], _middle(len(crop))[::step, ::step]
    return PhotoQuality(
        sharpness=_ramp(log(max(sharpness(crop, face_px), 1e-6)), log(_BLURRED), log(_SHARP)),
        size=_ramp(log(max(face_px, 1.0)), log(_TINY_PX), log(enough_px)),
        frontal=_ramp(max(abs(turned[0]), abs(turned[1]) - _NOD_SLACK), _AWAY, _FRONT),
        visible=_ramp(float(face[middle].mean()), _COVERED, _WHOLE),
        exposure=min(_exposure(crop[::step, ::step][part]) for part in _lit_alike(face)),
    )


def sharpness(crop: np.ndarray, face_px: float) -> float:
    """How much fine detail a face has for its size: variance of the Laplacian over variance, of the crop's middle.

    `crop` is uint8 [S, S, 3]; `face_px` the face's shorter side in the photo. The crop is looked at no larger than the
    face was, so that a small face is not called blurred for having been enlarged. Of three parts the least counts:
    around a face that was blurred alone, as for its anonymity, the middle has the edges of what is sharp. Of sharp
    faces the middle as a whole has the least.
    """
    side = min(len(crop), round(min(max(face_px, 24.0), 112.0)))
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY).astype(np.float64)
    parts = [[round(share * side) for share in part] for part in _FINE_PARTS]
    return min(_detail(grey[y0:y1, x0:x1]) for x0, y0, x1, y1 in parts)


def _detail(grey: np.ndarray) -> float:
    return float(cv2.Laplacian(grey, cv2.CV_64F, ksize=1).var() / max(grey.var(), 1.0))


def head_turn(landmarks: np.ndarray) -> tuple[float, float]:
    """How far a head is turned sideways and nods, degrees, of landmarks [5, 2]: rough (a nose is long, or looks down),
    but without a fit, and of heads that are turned further than `fit_pose` follows. Tilting does not count."""
    left, right, nose = np.asarray(landmarks[:3], np.float64)
    mouth = np.asarray(landmarks[3:5], np.float64).mean(0)
    across = right - left
    apart = max(hypot(*across), 1e-6)
    axes = np.array([across, [-across[1], across[0]]]) / apart
    nose_x, nose_y = axes @ (nose - (left + right) / 2) / apart
    mouth_y = float((axes @ (mouth - (left + right) / 2))[1]) / apart
    yaw = degrees(atan(nose_x * _EYES_APART / _NOSE_BEFORE))
    share = nose_y / max(mouth_y, 1e-6)  # of the way from the eyes to the mouth
    nod = (_MOUTH_DOWN * share - _NOSE_DOWN) / max(_NOSE_BEFORE + _MOUTH_BEHIND * share, 1e-6)
    return yaw, degrees(atan(nod))


def _lit_alike(face: np.ndarray) -> list[np.ndarray]:
    """Parts of a face's mask, bool [H, W], each of which light must reach: all of it, and what is left and right of
    the nose. A profile has one cheek."""
    across = (np.arange(face.shape[1]) + 0.5) / face.shape[1]
    cheeks = face & (across < 0.5 - _NOSE), face & (across > 0.5 + _NOSE)
    return [face, *(cheek for cheek in cheeks if 8 * cheek.sum() > face.sum())]


def _exposure(pixels: np.ndarray) -> float:
    """Of the pixels of a face, uint8 [n, 3] RGB: neither too dark nor burnt out, whatever the colour of the skin."""
    if not len(pixels):
        return 0.0
    luma = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    darkest, brightest = np.percentile(luma, [5, 95])
    return min(_ramp(float(brightest), _DARK, _LIT), _ramp(float(darkest), _BURNT, _TONED))


@lru_cache(maxsize=8)
def _middle(side: int) -> np.ndarray:
    x, y, across, down = (share * side for share in _MIDDLE)
    rows, columns = np.mgrid[:side, :side] + 0.5
    inside: np.ndarray = ((columns - x) / across) ** 2 + ((rows - y) / down) ** 2 <= 1
    return inside


def _ramp(value: float, worst: float, best: float) -> float:
    """0 at `worst` and beyond it, 1 at `best`."""
    return min(max((value - worst) / (best - worst), 0.0), 1.0)
