"""Aligned face pictures for the trainings: the templates, the warp, and what detectors and cameras do to a face."""

from __future__ import annotations

import cv2
import numpy as np

from studio.training.dataset import FIRST_HELD_OUT, NUM_CELEBRITIES, SIDE_PX, Dataset

# five points as fractions of the side: left eye, right eye, nose, mouth corners
FFHQ = np.array([[192.98, 239.95], [318.90, 240.19], [256.63, 314.02], [201.26, 371.41], [313.09, 371.15]]) / 512
ARCFACE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]])
ARCFACE = ARCFACE / 112
CROP_BOX = (64 / 512, 70 / 512, 440 / 512, 446 / 512)  # of the aligned face, input of the FR-ViT
LANDMARK_NOISE_PX = 0.8  # std, at 128 px


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least-squares similarity [2, 3] that takes points `source` to `target` (Umeyama 1991, without reflection)."""
    mean_s, mean_t = source.mean(0), target.mean(0)
    a = (source - mean_s) @ np.array([1, 1j])
    b = (target - mean_t) @ np.array([1, 1j])
    turn = (np.conj(a) @ b) / (np.conj(a) @ a)  # scale and rotation as one complex number
    matrix = np.array([[turn.real, -turn.imag], [turn.imag, turn.real]])
    return np.concatenate([matrix, (mean_t - matrix @ mean_s)[:, None]], axis=1)


def aligned(image: np.ndarray, landmarks: np.ndarray, template: np.ndarray, side_px: int) -> np.ndarray:
    """Warp `image` so that `landmarks` fall on `template`; outside of the picture is grey."""
    matrix = similarity(landmarks.astype(np.float64), template * side_px)
    return cv2.warpAffine(image, matrix, (side_px, side_px), flags=cv2.INTER_LINEAR, borderValue=(135, 133, 132))


def inner(face: np.ndarray, side_px: int) -> np.ndarray:
    """Cut CROP_BOX out of an FFHQ-aligned face and resize it to the FR-ViT's input."""
    left, top, right, bottom = (round(f * len(face)) for f in CROP_BOX)
    return cv2.resize(face[top:bottom, left:right], (side_px, side_px), interpolation=cv2.INTER_LINEAR)


def face_grid(landmarks: np.ndarray, side_px: int) -> np.ndarray:
    """Where `inner(aligned(picture))` looks: float32 [side_px, side_px, 2] for torch's `grid_sample`."""
    left, top, right, bottom = (round(f * SIDE_PX) for f in CROP_BOX)
    middles = (np.arange(side_px) + 0.5) / side_px
    x, y = np.meshgrid(left + middles * (right - left) - 0.5, top + middles * (bottom - top) - 0.5)
    back = cv2.invertAffineTransform(similarity(landmarks.astype(np.float64), FFHQ * SIDE_PX))
    points = np.stack([x, y], axis=-1) @ back[:, :2].T + back[:, 2]
    grid: np.ndarray = ((points + 0.5) / SIDE_PX * 2 - 1).astype(np.float32)
    return grid


def weather(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Light, blur, noise and JPEG as cameras add them; mild, because skin and hair colours are part of an identity."""
    gain = 1 + rng.normal(0, 0.06) + rng.normal(0, 0.02, 3)
    changed: np.ndarray = image.astype(np.float32) * gain + rng.normal(0, 5)
    if rng.random() < 0.3:
        changed = cv2.GaussianBlur(changed, (0, 0), float(rng.uniform(0.4, 1.2)))
    if rng.random() < 0.2:
        changed += rng.normal(0, rng.uniform(1, 6), image.shape).astype(np.float32)
    changed = np.clip(changed, 0, 255).astype(np.uint8)
    if rng.random() < 0.3:
        _, code = cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(35, 95))])
        decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
        assert decoded is not None
        changed = decoded
    return changed


def people_split(which: str) -> np.ndarray:
    """Numbers of the people the FR-ViT ("features") or the judge ("judge") is trained on; they share nobody."""
    anonymous = np.arange(NUM_CELEBRITIES, FIRST_HELD_OUT)
    if which == "judge":
        return anonymous[anonymous % 2 == 1]
    return np.concatenate([np.arange(NUM_CELEBRITIES), anonymous[anonymous % 2 == 0]])


def items_by_person(data: Dataset, which: str) -> list[np.ndarray]:
    """Rendered pictures of every person of a split, people with at least two of them."""
    ready = data.ready()
    ready = ready[np.isin(data.persons[ready], people_split(which))]
    order = ready[np.argsort(data.persons[ready], kind="stable")]
    groups = np.split(order, np.flatnonzero(np.diff(data.persons[order])) + 1)
    return [group for group in groups if len(group) > 1]


def cropped(data: Dataset, item: int, rng: np.random.Generator | None, *, judge: bool, side_px: int) -> np.ndarray:
    """Input of the FR-ViT or the judge for one picture, uint8 RGB; with `rng`, landmarks and light vary."""
    image, points = np.asarray(data.images[item]), np.asarray(data.landmarks[item])
    if rng is not None:
        points = points + rng.normal(0, LANDMARK_NOISE_PX, points.shape) + rng.normal(0, LANDMARK_NOISE_PX, 2)
        image = weather(image, rng)
    if judge:
        return aligned(image, points, ARCFACE, side_px)
    return inner(aligned(image, points, FFHQ, SIDE_PX), side_px)
