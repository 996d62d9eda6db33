"""Head poses: how a head is turned and where it is, drawn as the skeleton of one head that everybody shares.

A skeleton says where eyes, nose, mouth and outline of *a* head go, never whose: what a face is shaped like comes from
the identity's words alone. The other way round, `fit_pose` fits the face's own proportions beside the pose and forgets
them. Angles are in degrees, lengths in shares of the picture's side (the shorter one, where it is not square).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, isfinite, radians, sin

import cv2
import numpy as np

HEAD_UNIT = 0.278  # of the side; lengths on the head are in this unit
EYE_LINE = 0.47  # of the side, from the top, where a head that is not shifted has its eyes
DEPTH = 0.75  # of the head at the nose, in head units
YAW_PIVOT, PITCH_PIVOT = 0.3, 0.5  # depth of the two axes, in head units

# The shared head: x and y on it (eyes at y = 0, downwards positive) and the lift above its surface, in head units. The
# first five are the landmarks of detectors; the proportions are the average of many faces.
POINTS: dict[str, tuple[float, float, float]] = {
    "left eye": (-0.36, 0.0, 0.0),  # left and right as one sees the picture
    "right eye": (0.36, 0.0, 0.0),
    "nose": (0.0, 0.43, 0.22),
    "left mouth": (-0.29, 0.71, 0.0),
    "right mouth": (0.29, 0.71, 0.0),
    "crown": (0.0, -1.05, 0.0),
    "right temple": (0.62, -0.62, 0.0),
    "right cheek": (0.8, 0.15, 0.0),
    "right jaw": (0.55, 0.82, 0.0),
    "chin": (0.0, 1.1, 0.0),
    "left jaw": (-0.55, 0.82, 0.0),
    "left cheek": (-0.8, 0.15, 0.0),
    "left temple": (-0.62, -0.62, 0.0),
}
NUM_LANDMARKS = 5
_OUTLINE = list(range(NUM_LANDMARKS, len(POINTS)))
LINES: tuple[tuple[int, int], ...] = (
    *((0, 1), (0, 2), (1, 2), (2, 3), (2, 4), (3, 4)),
    *zip(_OUTLINE, [*_OUTLINE[1:], _OUTLINE[0]], strict=True),
)
_THICKNESS = 1 / 64  # of lines, share of the side
_DOT = 1 / 48  # radius of a landmark's dot, share of the side
_SUBPIXELS = 4  # bits

LIMITS: dict[str, tuple[float, float]] = {  # as far as the renders reach that a pose model learns from
    "yaw": (-32.0, 32.0),
    "pitch": (-10.0, 10.0),
    "roll": (-18.0, 18.0),
    "scale": (0.65, 1.1),
}
SHIFT_LIMITS = {"dx": 0.14, "dy": 0.10}  # on a square; a longer side has that much more room


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadPose:
    """How a head is turned, how large it is and where. ValueError for what lies outside LIMITS."""

    yaw: float = 0.0  # degrees, positive turns the face to image right
    pitch: float = 0.0  # degrees, positive looks down
    roll: float = 0.0  # degrees, positive is clockwise
    scale: float = 1.0  # 1: the eyes are a fifth of the side apart
    dx: float = 0.0  # shift from the middle, share of the side
    dy: float = 0.0

    def __post_init__(self) -> None:
        for name in (*LIMITS, *SHIFT_LIMITS):
            value = getattr(self, name)
            if not isfinite(value):
                raise ValueError(f"pose: {name} is {value}, not a number")
            low, high = LIMITS.get(name, (value, value))
            if not low <= value <= high:
                raise ValueError(f"pose: {name} {value:g} is outside {low:g}..{high:g}")


def depth(x: float, y: float) -> float:
    """Height of the shared head's surface over its rim, head units: a dome."""
    return DEPTH * float(np.clip(1 - (x / 0.98) ** 2 - ((y - 0.05) / 1.25) ** 2, 0, 1))


def _project(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points [N, 3] (x, y, lift) seen in a pose (yaw, pitch, roll, scale, dx, dy): [N, 2], shares of a square's side."""
    x, y, lift = points.T
    yaw, pitch, roll = np.radians(pose[:3])
    z = DEPTH * np.clip(1 - (x / 0.98) ** 2 - ((y - 0.05) / 1.25) ** 2, 0, 1) + lift
    px = x * cos(yaw) + (z - YAW_PIVOT) * sin(yaw)
    py = y * cos(pitch) + (z - PITCH_PIVOT) * sin(pitch)
    unit = HEAD_UNIT * pose[3]
    across, down = px * cos(roll) - py * sin(roll), px * sin(roll) + py * cos(roll)
    return np.stack([0.5 + pose[4] + across * unit, EYE_LINE + pose[5] + down * unit], axis=1)


def _numbers(pose: HeadPose) -> np.ndarray:
    return np.array([pose.yaw, pose.pitch, pose.roll, pose.scale, pose.dx, pose.dy], np.float64)


def outline(pose: HeadPose) -> np.ndarray:
    """All points of the shared head, float64 [13, 2], x y in shares of a square picture's side, in POINTS' order."""
    return _project(np.array(list(POINTS.values())), _numbers(pose))


def landmarks(pose: HeadPose) -> np.ndarray:
    """Eyes, nose and mouth corners of the shared head, float64 [5, 2], x y in shares of a square picture's side."""
    return outline(pose)[:NUM_LANDMARKS]


def _colour(line: int) -> tuple[int, ...]:
    hue = np.uint8([[[round(180 * line / len(LINES)), 255, 255]]])
    return tuple(int(value) for value in cv2.cvtColor(hue, cv2.COLOR_HSV2RGB)[0, 0])


def draw_skeleton(poses: Sequence[HeadPose], width_px: int, height_px: int) -> np.ndarray:
    """The heads' lines and dots on black, uint8 [H, W, 3] RGB, a colour per line.

    `dx` is counted from the middle of the canvas, in shares of its shorter side: two heads side by side on 256 x 128
    have dx -0.5 and 0.5. ValueError for a head that does not fit on the canvas.
    """
    side = min(width_px, height_px)
    canvas = np.zeros((height_px, width_px, 3), np.uint8)
    for pose in poses:
        for name, extent in (("dx", width_px), ("dy", height_px)):
            limit = SHIFT_LIMITS[name] + (extent / side - 1) / 2
            if abs(getattr(pose, name)) > limit + 1e-9:
                shift = f"{name} {getattr(pose, name):g} is outside -{limit:g}..{limit:g}"
                raise ValueError(f"pose: {shift} on a canvas of {width_px} x {height_px} px")
        corner = np.array([width_px - side, height_px - side]) / 2
        places = outline(pose) * side + corner
        _draw(canvas, places, side)
    return canvas


def _draw(canvas: np.ndarray, places: np.ndarray, side: int) -> None:
    """Lines and dots at `places` [13, 2], pixels from the upper left corner, in place."""
    # cv2 counts from the middle of the first pixel
    fixed = [tuple(int(v) for v in np.round((place - 0.5) * 2**_SUBPIXELS)) for place in places]
    for number, (start, end) in enumerate(LINES):
        width = max(1, round(_THICKNESS * side))
        cv2.line(canvas, fixed[start], fixed[end], _colour(number), width, cv2.LINE_AA, _SUBPIXELS)
    for place in fixed[:NUM_LANDMARKS]:
        radius = round(_DOT * side * 2**_SUBPIXELS)
        cv2.circle(canvas, place, radius, (255, 255, 255), cv2.FILLED, cv2.LINE_AA, _SUBPIXELS)
