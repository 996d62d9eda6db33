"""Poses from pictures: a photo whose pose is taken over, or a ready skeleton. (Named ones: compose.py.)"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from factory.config import PrepareConfig
from factory.draw.compose import Pose, named_pose, pose_path
from factory.errors import PhotoRejected
from factory.faces.detect import FaceDetector
from factory.faces.openpose import BodyEstimator
from factory.faces.photos import decode_photo
from factory.faces.pose import HeadPose, fit_pose
from factory.pack import Pack

# The pose of a cut-off, small or blurred face is as good as any other.
_ANY_FACE = PrepareConfig(faces="largest", min_visible=0.0, min_sharpness=0.0, min_face_px=8.0)

_BETWEEN_STOPS = re.compile(r"(?<![/.:])\.\.(?![/.])")  # not the ".." of a file's path


class PhotoPoses:
    """Takes poses over from photos, as the pack's control reads them: the largest face's, or everybody's bodies."""

    def __init__(self, pack: Pack) -> None:
        """Load what finds them. Raises PackError where that is missing."""
        bodies = "pose" in pack.control and pack.control["pose"].conditioning == "openpose"
        self._finder = BodyEstimator(pack) if bodies else FaceDetector(pack, _ANY_FACE)

    def read(self, data: bytes, size_px: tuple[int, int]) -> Pose:
        """The pose in a photo, of its bytes, for a picture of this width and height.

        Raises:
            PhotoRejected: the bytes are no usable photo, or show no face.
            ValueError: the head is turned further than the pose control knows; nobody's body is found.
        """
        photo = decode_photo(data, name="pose", config=_ANY_FACE)
        if isinstance(self._finder, BodyEstimator):
            return self._finder.skeleton(photo.image, size_px)
        found = self._finder.find(photo)
        if not found.faces:
            raise found.refused[0][1]
        height, width = photo.image.shape[:2]
        if found.origin.rotation in (90, 270):  # landmarks are of the turned photo
            height, width = width, height
        return _head(found.faces[0].landmarks, height, width)


def _head(landmarks: np.ndarray, height: int, width: int) -> HeadPose:
    """The pose of a face by its landmarks [5, 2], px of a photo of this size."""
    side = min(height, width)
    # shares of the shorter side, counted on the square in the middle
    corner = np.array([width - side, height - side], np.float64) / 2
    return fit_pose((landmarks - corner) / side)


def skeleton_pose(data: bytes) -> Pose:
    """A ready skeleton, of an image file's bytes: uint8 [H, W, 3], RGB. Raises PhotoRejected if it is no picture."""
    config = PrepareConfig(min_side_px=8)
    return decode_photo(data, name="skeleton", config=config).image


def read_pose(pack: Pack, text: str, size_px: tuple[int, int]) -> list[Pose]:
    """A pose as it is written on a command line, for a picture of this width and height.

    That is the pack's NAME, NAME+NAME (one a person), photo:FILE or skeleton:FILE.

    Raises OSError for a file that cannot be read, ValueError for whatever else is wrong with it.
    """
    kind, colon, file = text.partition(":")
    if not colon:
        return [named_pose(pack, name.strip()) for name in text.split("+")]
    if kind not in ("photo", "skeleton") or not file:
        raise ValueError(f"--pose {text}: write a pose's name, photo:FILE or skeleton:FILE")
    data = Path(file).expanduser().read_bytes()
    try:
        return [PhotoPoses(pack).read(data, size_px) if kind == "photo" else skeleton_pose(data)]
    except (PhotoRejected, ValueError) as error:
        raise ValueError(f"--pose {text}: {error}") from None


def read_path(pack: Pack, text: str, size_px: tuple[int, int], num_frames: int) -> list[Pose]:
    """Poses over time as they are written on a command line: one for each of a clip's frames.

    That is POSE..POSE (of `read_pose`, of one person; the frames lie between them), or skeletons:DIR, a folder with a
    ready skeleton for each frame, in the order of their names. Raises as `read_pose`.
    """
    kind, _, folder = text.partition(":")
    if kind == "skeletons":
        files = sorted(file for file in Path(folder).expanduser().iterdir() if file.is_file())
        if len(files) != num_frames:
            raise ValueError(f"--pose-path {text}: {len(files)} files for {num_frames} frames (--frames): one for each")
        return [pose for file in files for pose in read_pose(pack, f"skeleton:{file}", size_px)]
    return path_between(text, lambda stop: read_pose(pack, stop, size_px), num_frames)


def path_between(text: str, read: Callable[[str], Sequence[Pose]], num_frames: int) -> list[Pose]:
    """POSE..POSE as one pose a frame; `read` gives those of one stop. Raises ValueError, and what `read` does."""
    stops: list[HeadPose] = []
    for stop in _BETWEEN_STOPS.split(text):
        (pose, *others) = read(stop.strip())
        if others or not isinstance(pose, HeadPose):
            raise ValueError(
                f"path of poses {text}: {stop!r} is not the pose of one head, and only such have poses between them; "
                "skeletons:DIR takes a ready skeleton for each frame"
            )
        stops.append(pose)
    return list(pose_path(stops, num_frames))
