"""A portrait, its exact label map and landmarks from a person and a scene."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from studio.world import clothes, face, hair, head, places, styles, wear
from studio.world.people import Person
from studio.world.scenes import Scene
from studio.world.shapes import blank

COVERING_HATS = ("beanie", "cap", "santa", "cowboy", "top_hat")


@dataclass(frozen=True, slots=True, kw_only=True)
class Render:
    """One picture of the studio world."""

    image: np.ndarray  # uint8 [S, S, 3] RGB
    labels: np.ndarray  # uint8 [S, S], 19 CelebAMask-HQ classes in BiSeNet's order; l_ and r_ are image sides
    landmarks: np.ndarray  # float32 [5, 2] x y in pixels: left eye (image left), right eye, nose tip, mouth corners


def render(person: Person, scene: Scene, *, size: int = 128) -> Render:
    """Draw `person` in `scene` at `size` x `size` pixels; deterministic, and the same picture at any size."""
    cv2.setNumThreads(1)  # many renderers run side by side, one a core
    canvas = blank(scene, size)
    shape = head.measure(person, scene)
    brim = shape.brim if scene.hat in COVERING_HATS else None
    canvas.rgb[:] = places.backdrop(canvas)
    strands = hair.Hair(person, shape, canvas, brim)
    strands.paint_back()
    clothes.dress(canvas, person, shape)
    head.paint_ears(canvas, person, shape)
    skull = head.paint_head(canvas, person, shape, strands.shadow())
    face.paint_features(canvas, person, shape, skull)
    strands.paint_front()
    wear.paint_glasses(canvas, shape)
    wear.paint_hat(canvas, person, shape)
    picture = places.atmosphere(canvas)
    image = styles.apply(scene.style, np.clip(picture, 0, 1), canvas.labels, scene.seed)
    points = [canvas.project(x, y, lift) for x, y, lift in shape.landmarks()]
    return Render(
        image=np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8),
        labels=canvas.labels,
        landmarks=np.asarray(points, np.float32),
    )
