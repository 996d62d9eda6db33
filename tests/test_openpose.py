"""OpenPose bodies: what is drawn of known points, and what the estimator makes of a photo."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factory.draw.images import ImageGenerator
from factory.errors import PackError
from factory.faces.openpose import COLOURS, LIMBS, NUM_POINTS, BodyEstimator, draw_bodies
from factory.pack import Pack, load_pack
from factory.records import ImageRequest, PoseControl
from factory.supply.verify import verify_pack
from tests import make_estimator as fake
from tests.test_engine import request

BLUE, RED = np.zeros((128, 192, 3), np.uint8), np.zeros((128, 192, 3), np.uint8)
BLUE[..., 2], RED[..., 0] = 255, 255


@pytest.fixture
def damaged(tiny_pack_posed: Pack, tmp_path: Path) -> Pack:
    """A copy that a test may damage."""
    return load_pack(shutil.copytree(tiny_pack_posed.root, tmp_path / "copy"))


def standing(x: float, side: int = 512) -> np.ndarray:
    """A person seen from the front, [18, 3]: its right is on the left of the picture."""
    places = [(0, 0.2), (0, 0.3), (-0.08, 0.3), (-0.1, 0.42), (-0.1, 0.54), (0.08, 0.3), (0.1, 0.42), (0.1, 0.54)]
    places += [(-0.05, 0.55), (-0.05, 0.7), (-0.05, 0.85), (0.05, 0.55), (0.05, 0.7), (0.05, 0.85)]
    places += [(-0.02, 0.18), (0.02, 0.18), (-0.04, 0.19), (0.04, 0.19)]
    points = np.add(places, (x, 0)) * side
    return np.concatenate([points, np.ones((NUM_POINTS, 1))], axis=1).astype(np.float32)


def test_points_and_limbs_have_openposes_colours() -> None:
    body = standing(0.5)
    drawn = draw_bodies(body[None], 512, 512)
    assert drawn.shape == (512, 512, 3) and drawn.dtype == np.uint8
    for (x, y, _), colour in zip(body, COLOURS, strict=True):
        assert tuple(drawn[int(y), int(x)]) == colour
    # ControlNet's: the right shoulder's limb is red, the left thigh's sky blue, the neck's blue
    for limb, colour in (((1, 2), (153, 0, 0)), ((11, 12), (0, 102, 153)), ((1, 0), (0, 0, 153))):
        x, y = (body[limb[0], :2] + body[limb[1], :2]) / 2
        assert tuple(drawn[int(y), int(x)]) == colour == tuple(int(0.6 * c) for c in COLOURS[LIMBS.index(limb)])
    across = drawn[round(0.36 * 512)].any(1).sum()  # both upper arms and both sides of the trunk
    assert 4 * 8 <= across <= 4 * 10
    assert (draw_bodies(np.zeros((0, 18, 3)), 96, 64) == 0).all()


def test_lines_grow_with_the_picture_and_people_stand_beside_each_other() -> None:
    small, large = (draw_bodies(standing(0.5, side)[None], side, side).any(2).mean() for side in (256, 1024))
    assert small == pytest.approx(large, rel=0.25)
    both = draw_bodies(np.stack([standing(0.25), standing(0.75)]), 512, 512)
    alone = np.maximum(*(draw_bodies(standing(x)[None], 512, 512) for x in (0.25, 0.75)))
    assert (both == alone).all()


def test_what_is_hardly_seen_is_left_out() -> None:
    body = standing(0.5)
    body[4, 2] = 0.2  # the right wrist
    drawn = draw_bodies(body[None], 512, 512)
    colours = {tuple(colour) for colour in drawn.reshape(-1, 3)}
    assert COLOURS[4] not in colours and tuple(int(0.6 * c) for c in COLOURS[3]) not in colours
    assert COLOURS[3] in colours


def test_a_person_of_a_photo_is_found_where_it_is(tiny_pack_posed: Pack) -> None:
    """In a photo three times as wide as the detector's input; the swapped channels of either network show nobody."""
    (body,) = BodyEstimator(tiny_pack_posed).bodies(BLUE)
    shrink = fake.SIDE / 192
    x0, y0, x1, y1 = np.array(fake.BOX) / shrink
    zoom = min(fake.WIDTH / (x1 - x0), fake.HEIGHT / (y1 - y0)) / 1.25
    places = (fake.POINTS / 2 - (fake.WIDTH / 2, fake.HEIGHT / 2)) / zoom + ((x0 + x1) / 2, (y0 + y1) / 2)
    coco = {0: 0, 2: 6, 4: 10, 5: 5, 7: 9, 8: 12, 10: 16, 11: 11, 13: 15, 14: 2, 15: 1, 16: 4, 17: 3}
    np.testing.assert_allclose(body[list(coco), :2], places[list(coco.values())], atol=1e-3)
    np.testing.assert_allclose(body[1, :2], (places[5] + places[6]) / 2, atol=1e-3)
    assert (body[:, 2] > 0.3).all()


def test_a_skeleton_is_of_the_pictures_size_with_the_photo_in_its_middle(tiny_pack_posed: Pack) -> None:
    estimator = BodyEstimator(tiny_pack_posed)
    body = estimator.bodies(BLUE)
    assert (estimator.skeleton(BLUE) == draw_bodies(body, 192, 128)).all()
    body[:, :, :2] = body[:, :, :2] / 2 + (0, 16)
    assert (estimator.skeleton(BLUE, (96, 96)) == draw_bodies(body, 96, 96)).all()


def test_a_photo_without_people_is_refused(tiny_pack_posed: Pack) -> None:
    estimator = BodyEstimator(tiny_pack_posed)
    with pytest.raises(ValueError, match=r"no person is found in this photo of 192x128 px"):
        estimator.skeleton(RED)


def test_a_skeleton_taken_over_guides_the_picture(tiny_pack_posed: Pack) -> None:
    generator = ImageGenerator(tiny_pack_posed)
    photo = np.zeros((64, 64, 3), np.uint8)
    photo[..., 2] = 255
    skeleton = BodyEstimator(tiny_pack_posed).skeleton(photo)
    plain: ImageRequest = request(generator.base, 1, num_inference_steps=2)
    drawn = generator.generate([plain, replace(plain, pose=PoseControl(skeleton=skeleton))])
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() > 0


def test_a_pack_without_an_estimator_says_where_to_see_one(tiny_pack: Pack) -> None:
    with pytest.raises(PackError, match=r"takes over no body poses; see \[control\.pose\.estimator\] of packs/sd21"):
        BodyEstimator(tiny_pack)


def test_the_estimator_is_a_part_like_others(damaged: Pack) -> None:
    assert verify_pack(damaged) == [] and "control.pose.estimator" in damaged.parts()
    file = damaged.root / "control" / "estimator" / fake.POSE_FILE
    file.write_bytes(b"not what it was")
    (problem,) = verify_pack(damaged)
    assert problem.part == "control.pose.estimator" and problem.level == "error" and "is damaged" in problem.message
    shutil.copy(file.with_name(fake.DET_FILE), file)
    (problem,) = verify_pack(damaged)
    assert "is no RTMPose network" in problem.message
    file.unlink()
    (problem,) = verify_pack(damaged)
    assert problem.level == "warning" and fake.POSE_FILE in problem.message
    with pytest.raises(PackError, match=rf"has no {fake.POSE_FILE} in .*; restore it"):
        BodyEstimator(damaged)
