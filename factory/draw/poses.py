"""How a pose is given: by the name that the pack has for it, by a photo whose pose is taken over, or as a skeleton."""

from __future__ import annotations

import difflib

import numpy as np

from factory.config import PrepareConfig
from factory.draw.compose import Pose
from factory.faces.detect import FaceDetector
from factory.faces.photos import decode_photo
from factory.faces.pose import HeadPose, fit_pose
from factory.pack import ControlPart, Pack

# The pose of a cut-off, small or blurred face is as good as any other.
_ANY_FACE = PrepareConfig(faces="largest", min_visible=0.0, min_sharpness=0.0, min_face_px=8.0)


def pose_control(pack: Pack) -> ControlPart:
    """The pack's pose control. ValueError if it has none."""
    if "pose" not in pack.control:
        raise ValueError(f"pack {pack.name!r} has no pose control")
    return pack.control["pose"]


def named_pose(pack: Pack, name: str) -> HeadPose:
    """A pose of the pack's own. ValueError names near ones."""
    poses = pose_control(pack).poses
    if name not in poses:
        near = difflib.get_close_matches(name, poses, n=3, cutoff=0.4) or list(poses)
        raise ValueError(f"pack {pack.name!r} has no pose {name!r}; there are {', '.join(near) or 'none'}")
    return HeadPose(**poses[name])


def photo_pose(pack: Pack, data: bytes) -> Pose:
    """The pose of the largest face of a photo, of its bytes.

    Raises:
        PhotoRejected: the bytes are no usable photo, or show no face.
        ValueError: the head is turned further than the pose control knows.
    """
    pose_control(pack)
    photo = decode_photo(data, name="pose", config=_ANY_FACE)
    faces, refused = FaceDetector(pack, _ANY_FACE).find(photo)
    if not faces:
        raise refused[0][1]
    height, width = photo.image.shape[:2]
    side = min(height, width)
    # shares of the shorter side, counted on the square in the middle
    corner = np.array([width - side, height - side], np.float64) / 2
    return fit_pose((faces[0].landmarks - corner) / side)


def skeleton_pose(data: bytes) -> Pose:
    """A ready skeleton, of an image file's bytes: uint8 [H, W, 3], RGB. Raises PhotoRejected if it is no picture."""
    config = PrepareConfig(min_side_px=8)
    return decode_photo(data, name="skeleton", config=config).image
