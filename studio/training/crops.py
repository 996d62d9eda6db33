"""Face crops for the trainings, cut as the factory cuts them, and what detectors and cameras do to a face."""

from __future__ import annotations

import cv2
import numpy as np
from PIL import Image

from factory.faces.align import FFHQ_512, align, similarity
from factory.faces.detect import ARCFACE_112
from factory.faces.encode import cut_box
from studio.training.dataset import NUM_CELEBRITIES, NUM_TRAINED, PICTURE_PX, Dataset

FFHQ_PX = FFHQ_512 * (PICTURE_PX / 512)  # the template at the pack's resolution
CROP_BOX = (64 / 512, 70 / 512, 440 / 512, 446 / 512)  # of the aligned face, input of the FR-ViT; as in pack.toml
LANDMARK_NOISE_PX = 0.8  # std, at 128 px


def vit_view(image: np.ndarray, landmarks: np.ndarray, side_px: int) -> np.ndarray:
    """What the FR-ViT sees of a picture, uint8 [side_px, side_px, 3]: cut by factory/faces, shrunk like there."""
    crop = align(image, similarity(landmarks, FFHQ_PX), PICTURE_PX)
    shown = Image.fromarray(cut_box(crop, CROP_BOX)).resize((side_px, side_px), Image.Resampling.BILINEAR)
    return np.array(shown)


def judge_view(image: np.ndarray, landmarks: np.ndarray, side_px: int) -> np.ndarray:
    """What the judge sees of a picture, uint8 [side_px, side_px, 3], as `FaceRecogniser` cuts it."""
    return align(image, similarity(landmarks, ARCFACE_112 * (side_px / 112)), side_px)


def face_grid(landmarks: np.ndarray, side_px: int) -> np.ndarray:
    """Where `vit_view` looks: float32 [side_px, side_px, 2] for torch's `grid_sample`."""
    left, top, right, bottom = (round(edge * PICTURE_PX) for edge in CROP_BOX)
    middles = (np.arange(side_px) + 0.5) / side_px
    x, y = np.meshgrid(left + middles * (right - left) - 0.5, top + middles * (bottom - top) - 0.5)
    back = cv2.invertAffineTransform(similarity(landmarks, FFHQ_PX))
    points = np.stack([x, y], axis=-1) @ back[:, :2].T + back[:, 2]
    grid: np.ndarray = ((points + 0.5) / PICTURE_PX * 2 - 1).astype(np.float32)
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
    anonymous = np.arange(NUM_CELEBRITIES, NUM_TRAINED)
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
    return (judge_view if judge else vit_view)(image, points, side_px)
