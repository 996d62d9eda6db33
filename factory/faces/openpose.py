"""OpenPose bodies: a photo's people as the coloured skeletons that OpenPose ControlNets were trained on.

DWPose (Yang et al. 2023, arXiv:2307.15880) finds them with two ONNX networks of the pack: YOLOX boxes the people, and a
whole-body RTMPose places points on each. Both are run here: every rtmlib that reads DWPose's own files requires a
second OpenCV beside ours (docs/log.md). Points are x y in pixels; `P` people.
"""

from __future__ import annotations

import cv2
import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as ort_errors

from factory.errors import PackError
from factory.pack import Pack
from factory.parts import PoseEstimatorPart

_MIN_SCORE = 0.3  # of a person and of a point, as in DWPose
_SAME_PERSON_IOU = 0.45
_PERSON = 5  # column of YOLOX's output: box, objectness, then the classes, of which people are the first
_BOX_MARGIN = 1.25  # what RTMPose sees of a person, in sizes of the box
_PIXEL_MEAN, _PIXEL_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # RGB, of RTMPose's training

# OpenPose's points: nose, neck, then shoulder, elbow, wrist of the right and left arm, hip, knee, ankle of the right
# and left leg, eyes and ears. COCO's (DWPose's first 17) lack the neck, which is the middle of the shoulders.
NUM_POINTS = 18
_COCO_SHOULDERS, _NECK = [5, 6], 17
_FROM_COCO = [0, _NECK, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17)),
)
COLOURS = (  # RGB, of the points; the first ones are those of the limbs, too
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85)),
)
_LIMB_SHADE = 0.6
_RADIUS = 4 / 512  # of points, and half the width of limbs, in shorter sides


class BodyEstimator:
    """The people of a photo, by a pack's DWPose. One thread unless told otherwise."""

    def __init__(self, pack: Pack, *, num_threads: int = 1) -> None:
        """Load both networks. PackError if the pack names none, or a file is missing, damaged or another kind."""
        part = pack.control["pose"].estimator if "pose" in pack.control else None
        if part is None:
            raise PackError(f"pack {pack.name!r} takes over no body poses; see [control.pose.estimator] of packs/sd21")
        self._detector = _load(pack, part, part.det_file, num_threads)
        self._poser = _load(pack, part, part.pose_file, num_threads)
        if len(self._poser.get_outputs()) != 2:
            raise PackError(f"{part.pose_file} of pack {pack.name!r} is no RTMPose network (two outputs, x and y)")

    def skeleton(self, image: np.ndarray, size_px: tuple[int, int] | None = None) -> np.ndarray:
        """The skeletons of a photo's people on black, for a picture of this width and height (None: the photo's).

        Where the picture has another shape, the whole photo is put into its middle.

        Args:
            image: uint8 [H, W, 3], RGB.

        Raises:
            ValueError: nobody is found in it.
        """
        own = np.array(image.shape[1::-1])
        size = own if size_px is None else np.array(size_px)
        bodies = self.bodies(image)
        bodies[:, :, :2] = (bodies[:, :, :2] - own / 2) * (size / own).min() + size / 2
        drawn = draw_bodies(bodies, *(int(side) for side in size))
        if not drawn.any():
            raise ValueError(f"no person is found in this photo of {own[0]}x{own[1]} px, so no pose can be taken over")
        return drawn

    def bodies(self, image: np.ndarray) -> np.ndarray:
        """The people of a photo (uint8 [H, W, 3], RGB): float32 [P, 18, 3], x y of OpenPose's points and their score.

        What is not seen has a low score, which `draw_bodies` leaves out.
        """
        bodies = [self._points(image, box) for box in self._boxes(image)]
        return np.stack(bodies) if bodies else np.zeros((0, NUM_POINTS, 3), np.float32)

    def _boxes(self, image: np.ndarray) -> np.ndarray:
        """People's boxes, float32 [P, 4], x0 y0 x1 y1."""
        (network_input,) = self._detector.get_inputs()
        height, width = network_input.shape[2:]
        shrink = min(height / image.shape[0], width / image.shape[1])
        size = max(1, int(image.shape[1] * shrink)), max(1, int(image.shape[0] * shrink))
        seen = np.full((height, width, 3), 114, np.uint8)
        seen[: size[1], : size[0]] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        bgr = seen[:, :, ::-1].transpose(2, 0, 1)[None].astype(np.float32)  # YOLOX was trained on BGR, 0..255
        output = self._detector.run(None, {network_input.name: bgr})[0][0]
        # Each output belongs to a cell of three grids; centres are offsets from its corner, in cells.
        scores = output[:, 4] * output[:, _PERSON]
        likely = scores > _MIN_SCORE
        output, scores = output[likely], scores[likely]
        corners, strides = (values[likely] for values in _cells(height, width))
        middle = (output[:, :2] + corners) * strides
        extent = np.exp(output[:, 2:4]) * strides
        boxes = np.concatenate([middle - extent / 2, extent], axis=1) / shrink  # x y width height
        kept = np.array(cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), _MIN_SCORE, _SAME_PERSON_IOU), int)
        return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)[kept].astype(np.float32)

    def _points(self, image: np.ndarray, box: np.ndarray) -> np.ndarray:
        """OpenPose's points of the person in a box, float32 [18, 3]."""
        (network_input,) = self._poser.get_inputs()
        height, width = network_input.shape[2:]
        middle = (box[:2] + box[2:]) / 2
        zoom = float(min((width, height) / np.maximum((box[2:] - box[:2]) * _BOX_MARGIN, 1e-3)))
        shift = np.array([width, height]) / 2 - zoom * middle
        matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
        seen = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        pixels = ((seen - np.array(_PIXEL_MEAN)) / _PIXEL_STD).transpose(2, 0, 1)[None].astype(np.float32)
        along_x, along_y = (axis[0] for axis in self._poser.run(None, {network_input.name: pixels}))
        # SimCC: for each point a score of every column and of every row, at a fraction of a pixel
        places = np.stack([along_x.argmax(1) * width / along_x.shape[1], along_y.argmax(1) * height / along_y.shape[1]])
        scores = np.minimum(along_x.max(1), along_y.max(1))
        coco = np.concatenate([(places.T - shift) / zoom, scores[:, None]], axis=1)[:_NECK]
        left, right = coco[_COCO_SHOULDERS]
        neck = [*(left[:2] + right[:2]) / 2, min(left[2], right[2])]
        return np.concatenate([coco, [neck]])[_FROM_COCO].astype(np.float32)


def draw_bodies(bodies: np.ndarray, width_px: int, height_px: int) -> np.ndarray:
    """OpenPose's drawing on black, uint8 [H, W, 3] RGB, of people [P, 18, 3] (x y in pixels, score).

    As ControlNet's annotators draw it: limbs as ellipses at 0.6 of their colours, points over them as dots, at 512 px
    eight pixels wide. Points of low scores are left out, with their limbs.
    """
    canvas = np.zeros((height_px, width_px, 3), np.uint8)
    radius = max(1, round(_RADIUS * min(width_px, height_px)))
    for (start, end), colour in zip(LIMBS, COLOURS, strict=False):
        shade = tuple(int(value * _LIMB_SHADE) for value in colour)
        for body in bodies:
            if min(body[start, 2], body[end, 2]) < _MIN_SCORE:
                continue
            along = body[end, :2] - body[start, :2]
            middle, length = (body[start, :2] + body[end, :2]) / 2, float(np.hypot(*along))
            angle = round(float(np.degrees(np.arctan2(along[1], along[0]))))
            centre, axes = (int(middle[0]), int(middle[1])), (int(length / 2), radius)
            cv2.ellipse(canvas, centre, axes, angle, 0, 360, shade, cv2.FILLED)
    for body in bodies:
        for (x, y, score), colour in zip(body, COLOURS, strict=True):
            if score >= _MIN_SCORE:
                cv2.circle(canvas, (int(x), int(y)), radius, colour, cv2.FILLED)
    return canvas


def _cells(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Corners [N, 2] (x y, in cells) and sizes [N, 1] (pixels) of YOLOX's cells, in the order of its output."""
    corners, sizes = [], []
    for stride in (8, 16, 32):
        y, x = np.mgrid[: height // stride, : width // stride]
        corners.append(np.stack([x.ravel(), y.ravel()], axis=1))
        sizes.append(np.full((x.size, 1), stride))
    return np.concatenate(corners), np.concatenate(sizes)


def _load(pack: Pack, part: PoseEstimatorPart, file_name: str, num_threads: int) -> onnxruntime.InferenceSession:
    file = pack.folder(part) / file_name
    if not file.is_file():
        raise PackError(f"pack {pack.name!r} has no {file_name} in {file.parent}; {pack.remedy(part)}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads
    options.log_severity_level = 3  # errors only
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    except (ort_errors.InvalidProtobuf, ort_errors.InvalidGraph, ort_errors.Fail, RuntimeError, ValueError) as error:
        raise PackError(f"{file} is damaged or of another kind: {error}; {pack.remedy(part)}") from error
    inputs = session.get_inputs()
    if len(inputs) != 1 or len(inputs[0].shape) != 4 or not all(isinstance(side, int) for side in inputs[0].shape[2:]):
        raise PackError(f"{file} is no network of pictures of one size; {pack.remedy(part)}")
    return session
