"""Alignment on drawn landmarks: where they land, what is sampled, what lies outside the photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from factory.faces.align import FFHQ_512, align, inside_photo, nearer_to, photo_corners, similarity, visible_share


def known(scale: float, degrees: float, shift: tuple[float, float]) -> np.ndarray:
    cos, sin = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    return np.array([[cos, -sin, shift[0]], [sin, cos, shift[1]]])


def applied(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2])


def test_a_similarity_is_recovered_exactly() -> None:
    matrix = known(0.3, 40, (12, -7))
    points = np.random.default_rng(0).uniform(0, 900, (5, 2))
    np.testing.assert_allclose(similarity(points, applied(matrix, points)), matrix, atol=1e-9)


def test_noisy_points_give_the_least_squares_fit_and_no_mirroring() -> None:
    rng = np.random.default_rng(1)
    points = rng.uniform(0, 100, (5, 2))
    target = points * (-1, 1) + rng.normal(0, 2, (5, 2))  # a mirror image: the best similarity still does not mirror
    matrix = similarity(points, target)
    assert np.linalg.det(matrix[:, :2]) > 0

    def error(m: np.ndarray) -> float:
        return float(((applied(m, points) - target) ** 2).sum())

    for _ in range(200):
        a, b, x, y = rng.normal(0, 0.05, 4)
        assert error(matrix + np.array([[a, -b, x], [b, a, y]])) >= error(matrix)


@pytest.mark.parametrize("scale", [0.1, 0.3, 0.9, 1.0, 2.7])
@pytest.mark.parametrize("degrees", [0, 25])
def test_landmarks_land_on_the_template(scale: float, degrees: float) -> None:
    """Blobs drawn at the landmarks of a photo have their centroids at the template's places, to a fifth of a pixel."""
    side = 128
    template = FFHQ_512 * side / 512
    to_photo = known(1 / scale, degrees, (90 / scale, 40 / scale))
    points = applied(to_photo, template)
    width, height = (points.max(0) + 60 / scale).astype(int)
    photo = np.zeros((height, width, 3), np.uint8)
    for px, py in points:
        bell_x = np.exp(-((np.arange(width) - px) ** 2) / (2 * (3 / scale) ** 2))
        bell_y = np.exp(-((np.arange(height) - py) ** 2) / (2 * (3 / scale) ** 2))
        photo = np.maximum(photo, (255 * np.outer(bell_y, bell_x)).astype(np.uint8)[..., None])
    crop = align(photo, similarity(points, template), side).astype(float)[..., 0]
    assert crop.shape == (side, side)
    for tx, ty in template:
        x0, y0 = round(tx) - 8, round(ty) - 8
        part = crop[y0 : y0 + 17, x0 : x0 + 17]
        part = np.where(part > 40, part, 0)
        rows, columns = np.mgrid[:17, :17]
        centre = (x0 + (part * columns).sum() / part.sum(), y0 + (part * rows).sum() / part.sum())
        np.testing.assert_allclose(centre, (tx, ty), atol=0.2)


def test_shrinking_averages_instead_of_picking_pixels() -> None:
    checks = np.indices((1024, 1024)).sum(0) % 2 * 255
    photo = np.repeat(checks[..., None], 3, 2).astype(np.uint8)
    crop = align(photo, known(0.11, 10, (40, 5)), 64)[16:48, 16:48].astype(float)
    assert abs(crop.mean() - 127.5) < 2 and crop.std() < 8


def test_outside_the_photo_its_edge_is_repeated() -> None:
    photo = np.zeros((50, 50, 3), np.uint8)
    photo[:, :25], photo[:, 25:] = (200, 10, 10), (10, 10, 200)
    crop = align(photo, known(1.0, 0, (32, 7)), 64)
    assert (crop[:, :20] == (200, 10, 10)).all() and (crop[:, 62:] == (10, 10, 200)).all()


def test_what_of_a_crop_shows_the_photo() -> None:
    for matrix in (known(1.0, 0, (10, 7)), known(0.7, 30, (40, 5)), known(20, 200, (30, 30))):
        photo = np.full((50, 60, 3), 200, np.uint8)
        inside = inside_photo(photo_corners(matrix, photo.shape), 64)
        padded = cv2.warpAffine(photo, matrix, (64, 64), flags=cv2.INTER_NEAREST)[..., 0] == 200
        assert (inside == padded).mean() > 0.97 and inside.any() and not inside.all()
    assert inside_photo(photo_corners(known(1, 0, (-5, -5)), (90, 90)), 64).all()


def test_a_crop_is_parted_between_faces_by_their_sizes() -> None:
    own, turned = np.array([10.0, 10, 30, 30]), known(1.0, 90, (50, 5))
    assert nearer_to(own, [], turned, 64).all()
    for matrix in (known(1.0, 0, (0, 0)), turned):
        part = nearer_to(own, [np.array([40.0, 15, 50, 25])], matrix, 64)  # half as large, 25 px to the right
        across = [matrix[:, :2] @ (x, 20) + matrix[:, 2] for x in (5, 20, 36, 37.4, 44)]
        assert [bool(part[round(y), round(x)]) for x, y in across] == [True, True, True, False, False]


def test_visible_share() -> None:
    box, shape = np.array([10.0, 10.0, 50.0, 50.0]), (100, 200, 3)
    assert visible_share(known(1, 0, (0, 0)), box, shape) == pytest.approx(1)
    assert visible_share(known(1, 0, (30, 0)), box, shape) == pytest.approx(0.5)  # photo x = crop x - 30
    assert visible_share(known(1, 0, (30, 30)), box, shape) == pytest.approx(0.25)
    assert visible_share(known(0.1, 0, (0, 0)), box, shape) == pytest.approx(0)  # touches the photo's far corner
    assert visible_share(known(1, 0, (500, 0)), box, shape) == 0
