"""Five landmarks -> the aligned crop. Points are x y in pixels; a `matrix` takes photo px to crop px."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

# Left eye, right eye, nose, mouth left, mouth right in FFHQ's 512 px crops (facexlib's face_template).
FFHQ_512 = np.array(
    [[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]], np.float64
)


def similarity(points: np.ndarray, template: np.ndarray) -> np.ndarray:
    """The similarity (rotation, scale, shift; no mirroring) that takes points [n, 2] nearest to template [n, 2].

    Least squares over all points, so it depends on nothing but them; returns float64 [2, 3], as cv2.warpAffine wants.
    """
    x, y = np.asarray(points, np.float64).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    equations = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    (a, b, shift_x, shift_y), *_ = np.linalg.lstsq(equations, np.asarray(template, np.float64).T.ravel(), rcond=None)
    return np.array([[a, -b, shift_x], [b, a, shift_y]])


# x0 y0 x1 y1 of a face, forehead to chin, in such a crop as fractions of its side: the median of detected boxes.
FACE_BOX = (0.22, 0.22, 0.77, 0.905)


def align(image: np.ndarray, matrix: np.ndarray, side: int) -> np.ndarray:
    """Cut a uint8 [side, side, 3] crop out of a photo uint8 [H, W, 3] by a similarity (photo px -> crop px).

    What lies outside the photo repeats its edge: a mirrored edge would show a cut-off chin's mouth twice.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]]) @ inverse[:, :2].T + inverse[:, 2]
    height, width = image.shape[:2]
    margin = 2 + 2 / scale  # px of the photo: what the interpolation at the crop's edge reaches
    x0, y0 = np.clip(np.floor(corners.min(0) - margin), 0, (width - 1, height - 1)).astype(int)
    x1, y1 = np.clip(np.ceil(corners.max(0) + margin), (x0 + 1, y0 + 1), (width, height)).astype(int)
    part = np.ascontiguousarray(image[y0:y1, x0:x1])
    size = np.array([x1 - x0, y1 - y0], np.float64)
    # Warping samples single pixels and would alias when it shrinks, so most of the shrinking is done by area first.
    kept = np.maximum(1, np.round(size * min(1.0, scale)))
    if (kept < size).any():
        part = cv2.resize(part, (int(kept[0]), int(kept[1])), interpolation=cv2.INTER_AREA)
    grow = size / kept
    # pixel (u, v) of the shrunk part is photo pixel ((u + .5) * grow - .5 + x0, ...)
    from_part = matrix[:, :2] * grow
    shift = matrix[:, 2] + matrix[:, :2] @ (grow / 2 - 0.5 + (x0, y0))
    to_crop = np.column_stack([from_part, shift])
    crop = cv2.warpAffine(part, to_crop, (side, side), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8)


def photo_corners(matrix: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Where the corners of a photo of shape [H, W, ...] lie in the crop, float32 [4, 2]."""
    height, width = shape[:2]
    edges = np.array([[0, 0], [width, 0], [width, height], [0, height]]) - 0.5
    return np.asarray(edges @ matrix[:, :2].T + matrix[:, 2], np.float32)


def inside_photo(corners: np.ndarray, side: int) -> np.ndarray:
    """Which pixels of a crop show the photo, bool [side, side]; `corners` as `photo_corners` gives them."""
    y, x = np.mgrid[:side, :side]
    within = np.ones((side, side), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        within &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)  # on the inner side of this edge
    return within


def nearer_to(box: np.ndarray, others: Sequence[np.ndarray], matrix: np.ndarray, side: int) -> np.ndarray:
    """Which pixels of a crop are nearer to its own face than to other ones, bool [side, side].

    Boxes are x0 y0 x1 y1 in pixels of the photo. The line between two faces parts the way from one's middle to the
    other's by their sizes: where cheeks touch, they do so there.
    """
    y, x = np.mgrid[:side, :side]
    nearer = np.ones((side, side), bool)
    middle, size = matrix[:, :2] @ (box[:2] + box[2:]) / 2 + matrix[:, 2], float((box[2:] - box[:2]).sum())
    for other in others:
        way = matrix[:, :2] @ (other[:2] + other[2:]) / 2 + matrix[:, 2] - middle
        reach = size / (size + float((other[2:] - other[:2]).sum())) * float(way @ way)
        nearer &= (x - middle[0]) * way[0] + (y - middle[1]) * way[1] <= reach
    return nearer


def visible_share(matrix: np.ndarray, box: np.ndarray, shape: tuple[int, ...]) -> float:
    """Share, 0..1, of a box (x0 y0 x1 y1 in crop px) that lies inside the photo of shape [H, W, ...]."""
    x0, y0, x1, y1 = box
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ inverse[:, :2].T + inverse[:, 2]
    height, width = shape[:2]
    photo = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    common, _ = cv2.intersectConvexConvex(corners.astype(np.float32), photo)
    return float(common / cv2.contourArea(corners.astype(np.float32)))
