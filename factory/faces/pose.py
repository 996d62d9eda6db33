"""Head poses: how a head is turned and where it is, drawn as the skeleton of one head that everybody shares.

A skeleton says where eyes, nose, mouth and outline of *a* head go, never whose: what a face is shaped like comes from
the identity's words alone. The other way round, `fit_pose` fits the face's own proportions beside the pose and forgets
them. Angles are in degrees, lengths in shares of the picture's side (the shorter one, where it is not square).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, isfinite, sin

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

# What `fit_pose` knows beforehand. Faces differ: spread of eye distance, nose, mouth height and width, in head units.
# Five points hardly tell a short nose from a head that looks up, so poses count as likely near the front.
_SHAPE_SPREAD = np.array([0.038, 0.057, 0.053, 0.0625])
_MOUTH_FOLLOWS_NOSE = 0.58  # how much of a nose's length the mouth's height shares
_POSE_SPREAD = np.array([30.0, 5.0, 30.0, 0.5, 0.5, 0.5])  # degrees, then shares
_POINT_SPREAD = 0.005  # of a detector's landmarks, share of the side
_MAX_ROUNDS = 40
_SETTLED = 1e-4  # of a spread: smaller changes end the fit
_MAX_MISS = 0.05  # root mean square distance of a fit from its landmarks, in eye distances
_ANGLE_SLACK = 8.0  # degrees beyond LIMITS that are brought back to them; further out a pose is refused


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


def _project(points: np.ndarray, pose: np.ndarray) -> np.ndarray:
    """Points [N, 3] (x, y, lift) seen in a pose [6] (HeadPose's fields): [N, 2], shares of a square's side."""
    x, y, lift = points.T
    yaw, pitch, roll = np.radians(pose[:3])
    # the head's surface is a dome over its rim
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
    hue = np.array([[[round(180 * line / len(LINES)), 255, 255]]], np.uint8)
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


def fit_pose(landmarks_52: np.ndarray) -> HeadPose:
    """The pose of a face from a detector's eyes, nose tip and mouth corners, x y in shares of the picture's side.

    Maximum a posteriori by Gauss-Newton over the pose and four proportions of the face, which are then forgotten. Size
    and place outside what can be drawn are brought to the nearest that can. Of a picture that is not square, take
    shares of its shorter side and subtract half of what the longer one has more.

    Raises:
        ValueError: the points are not finite or no face's, the fit does not settle, or the head is turned further than
            LIMITS.
    """
    seen = np.asarray(landmarks_52, np.float64)
    if seen.shape != (NUM_LANDMARKS, 2) or not np.isfinite(seen).all():
        raise ValueError(f"a pose needs five finite landmarks [5, 2], not {seen.shape}")
    eyes = seen[1] - seen[0]
    distance = float(np.hypot(*eyes))
    if distance < 1e-3:
        raise ValueError("no pose can be told from these landmarks: both eyes lie at one place")
    start = np.zeros(10)
    start[2:4] = np.degrees(np.arctan2(eyes[1], eyes[0])), distance / (0.72 * HEAD_UNIT)
    start[4:6] = (seen[0] + seen[1]) / 2 - (0.5, EYE_LINE)
    found = _settle(seen, start)
    miss = float(np.sqrt(np.square(_fitted(found) - seen).sum(1).mean())) / distance
    if miss > _MAX_MISS or found[3] <= 0:
        raise ValueError(f"no pose fits these landmarks (off by {miss:.2f} eye distances); is the face in profile?")
    return _drawable(found[:6])


def _fitted(unknown: np.ndarray) -> np.ndarray:
    """Landmarks [5, 2] of a pose and four proportions (more eye distance, nose, mouth height and width), [10]."""
    points = np.array(list(POINTS.values()))[:NUM_LANDMARKS]
    eye, nose, mouth, width = unknown[6:]
    points[:2, 0] += (-eye, eye)
    points[2, 1] += nose
    points[3:, 1] += _MOUTH_FOLLOWS_NOSE * nose + mouth
    points[3:, 0] += (-width, width)
    return _project(points, unknown[:6])


def _settle(seen: np.ndarray, start: np.ndarray) -> np.ndarray:
    """The most likely pose and proportions [10] for landmarks [5, 2], from a first guess."""
    spread = np.concatenate([_POSE_SPREAD, _SHAPE_SPREAD])
    likely = np.zeros(10)
    likely[2:6] = start[2:6]  # of roll, size and place nothing is known beforehand

    def off(unknown: np.ndarray) -> np.ndarray:
        """What is to be small: landmarks missed, and distance from what is likely, each in its spread [20]."""
        return np.concatenate([((_fitted(unknown) - seen) / _POINT_SPREAD).ravel(), (unknown - likely) / spread])

    unknown, damping = start.copy(), 1e-3
    for _ in range(_MAX_ROUNDS):
        now = off(unknown)
        steps = 1e-4 * spread
        slopes = np.stack([(off(unknown + np.eye(10)[k] * steps[k]) - now) / steps[k] for k in range(10)], axis=1)
        scaled = slopes * spread
        move = spread * np.linalg.solve(scaled.T @ scaled + damping * np.eye(10), -scaled.T @ now)
        if np.square(off(unknown + move)).sum() < np.square(now).sum():
            unknown, damping = unknown + move, damping / 5
        else:
            damping *= 10
        if np.abs(move / spread).max() < _SETTLED:
            return unknown
    raise ValueError("no pose can be told from these landmarks: the fit does not settle")


def _drawable(numbers: np.ndarray) -> HeadPose:
    """A fitted pose within LIMITS; ValueError where it is turned further than that."""
    values = dict(zip((*LIMITS, *SHIFT_LIMITS), map(float, numbers), strict=True))
    for name in ("yaw", "pitch", "roll"):
        low, high = LIMITS[name]
        if not low - _ANGLE_SLACK <= values[name] <= high + _ANGLE_SLACK:
            raise ValueError(f"the face's {name} of {values[name]:.0f} degrees is outside {low:g}..{high:g}")
    reach = {**LIMITS, **{name: (-limit, limit) for name, limit in SHIFT_LIMITS.items()}}
    return HeadPose(**{name: min(max(value, reach[name][0]), reach[name][1]) for name, value in values.items()})
