"""Photos are searched upright: those that lie on their side or head are turned, and the table says so."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pytest
import skimage.data

from factory.config import PrepareConfig
from factory.faces.align import inside_photo, similarity
from factory.faces.detect import FaceDetector
from factory.faces.upright import UprightScan
from factory.pack import Pack
from factory.records import Face, Origin
from factory.store.rows import encode_png
from factory.store.tables import Store
from pipelines.photos.faces import FindFaces, ReadFaces
from pipelines.photos.sources import PHOTO
from pipelines.prepare import commit
from tests.test_detect import example, photo


@pytest.fixture(scope="module")
def detector(tiny_pack: Pack) -> FaceDetector:
    return FaceDetector(tiny_pack, PrepareConfig())


def turned_photos() -> dict[str, np.ndarray]:
    from studio.demo.people import portrait

    return {
        "astronaut": np.asarray(skimage.data.astronaut()),
        "close-up": example("Tom_Hanks_54745.png"),
        "group": example("t1.jpg"),
        **{f"drawn {number}": np.asarray(portrait(number)) for number in range(4)},
    }


@pytest.mark.parametrize("name", ["astronaut", "close-up", "group", *(f"drawn {number}" for number in range(4))])
def test_photos_that_lie_on_their_side_or_head_are_turned(detector: FaceDetector, name: str) -> None:
    """The detector finds faces upside down, too, and calls their chins eyes: crops would be learned upside down."""
    upright = detector.find(photo(turned_photos()[name]))
    assert upright.origin.rotation == 0
    for quarters in (1, 2, 3):
        found = detector.find(photo(np.rot90(turned_photos()[name], quarters)))  # counter-clockwise
        assert found.origin.rotation == 90 * quarters
        assert len(found.faces) == len(upright.faces)
        for face, same in zip(found.faces, upright.faces, strict=True):
            np.testing.assert_array_equal(face.box, same.box)
            np.testing.assert_array_equal(face.crop, same.crop)


def pasted(size: tuple[int, int], *patches: tuple[np.ndarray, tuple[int, int]]) -> np.ndarray:
    """Pictures on a page of width and height, each with its left upper corner at x y."""
    page = np.full((size[1], size[0], 3), 235, np.uint8)
    for patch, (x, y) in patches:
        page[y : y + len(patch), x : x + patch.shape[1]] = patch
    return page


def off(face: Face, true: np.ndarray) -> float:
    """Mean distance of a face's landmarks to the true ones, in distances of the eyes."""
    return float(np.linalg.norm(face.landmarks - true, axis=1).mean() / np.linalg.norm(true[1] - true[0]))


def test_each_photo_on_a_scanned_page_is_upright_for_itself(detector: FaceDetector) -> None:
    """One lies as the page does, the others on their sides and head: none is learned so, and none is lost."""
    astronaut = np.asarray(skimage.data.astronaut())[:420, 20:440]
    [alone] = detector.find(photo(astronaut)).faces
    turned = [np.rot90(astronaut, -quarters) for quarters in (0, 1, 2, 3)]
    places = [(60, 60), (560, 60), (60, 560), (560, 560)]
    found = detector.find(photo(pasted((1040, 1040), *zip(turned, places, strict=True))))
    assert found.origin.rotation == 0 and len(found.faces) == 4
    points = alone.landmarks
    for place in places:
        assert min(off(face, points + place) for face in found.faces) < 0.12
        points = np.stack([420 - points[:, 1], points[:, 0]], 1)


@pytest.mark.parametrize("degrees", [-60, -30, 30, 45, 60])
def test_the_eyes_of_a_tilted_head_are_where_they_are(detector: FaceDetector, degrees: int) -> None:
    """The detector alone is off by 0.2 distances of the eyes at 30 degrees, and by 0.4 at 45."""
    astronaut = np.asarray(skimage.data.astronaut())
    [upright] = detector.find(photo(astronaut)).faces
    matrix = cv2.getRotationMatrix2D((224, 130), -degrees, 1.6)  # clockwise
    matrix[:, 2] += 300 - np.array([224, 130])
    found = detector.find(photo(cv2.warpAffine(astronaut, matrix, (600, 600), borderValue=(128, 128, 128))))
    points = upright.landmarks @ matrix[:, :2].T + matrix[:, 2]
    for _ in range(found.origin.rotation // 90):
        points = np.stack([600 - points[:, 1], points[:, 0]], 1)
    [face] = found.faces
    assert off(face, points) < 0.17


@lru_cache
def drawn(number: int) -> np.ndarray:
    """A held-out person of the studio, uint8 [700, 700, 3]."""
    from studio.training.dataset import held_out
    from studio.world.render import render
    from studio.world.scenes import sample_scene

    scene = sample_scene(np.random.default_rng([0xDE30, number]), context="plain")
    return np.asarray(render(held_out(number), scene, size=700).image)


@pytest.mark.parametrize("degrees", [45, 120, 135, 225, 300])
@pytest.mark.parametrize("number", [22, 31])
def test_heads_that_lie_between_the_quarters_stand_in_their_crops(
    detector: FaceDetector, number: int, degrees: int
) -> None:
    """Found at 90 and 180 degrees, they were lost at 135, or learned on their heads: the detector sees these, too."""
    [upright] = detector.find(photo(drawn(number))).faces
    matrix = cv2.getRotationMatrix2D((350, 350), degrees, 1.0)  # counter-clockwise
    lying = cv2.warpAffine(drawn(number), matrix, (700, 700), borderMode=cv2.BORDER_REFLECT)
    found = detector.find(photo(lying))
    points = upright.landmarks @ matrix[:, :2].T + matrix[:, 2]
    for _ in range(found.origin.rotation // 90):
        points = np.stack([700 - points[:, 1], points[:, 0]], 1)
    [face] = found.faces
    turn = similarity(face.landmarks, points)
    assert abs(np.degrees(np.arctan2(turn[1, 0], turn[0, 0]))) < 15 and off(face, points) < 0.3


def test_a_childs_face_before_its_mothers_is_one_of_its_own(detector: FaceDetector) -> None:
    mother = cv2.resize(example("Tom_Hanks_54745.png"), (900, 900), interpolation=cv2.INTER_CUBIC)
    [large] = detector.find(photo(mother)).faces
    child = cv2.resize(np.asarray(skimage.data.astronaut())[60:180, 165:285], (150, 150))
    x, y = (large.box[:2] + (0.55, 0.62) * (large.box[2:] - large.box[:2])).astype(int)
    mother[y : y + 150, x : x + 150] = child
    found = detector.find(photo(mother)).faces
    assert [bool(face.box[2] - face.box[0] > 300) for face in found] == [True, False]


def test_small_faces_of_a_huge_photo_are_found_whole_and_once(detector: FaceDetector) -> None:
    """Shrunk to what the detector sees, these would be 6 px; parts of the photo are looked at, which overlap."""
    face = cv2.resize(np.asarray(skimage.data.astronaut())[:400, 20:420], (200, 200), interpolation=cv2.INTER_AREA)
    places = [(x, y) for x in range(100, 12_000, 700) for y in (80, 1500)]
    found = detector.find(photo(pasted((12_200, 1800), *((face, place) for place in places)))).faces
    middles = np.array([(one.box[:2] + one.box[2:]) / 2 for one in found])
    assert len(middles) == len(places)
    assert all(np.abs(middles - place - (100, 60)).max(1).min() < 25 for place in places)


def test_a_sure_face_costs_no_second_look(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("looked at in other rotations")

    monkeypatch.setattr(UprightScan, "_scores", never)
    monkeypatch.setattr(UprightScan, "_likely_turns", never)
    assert detector.find(photo(skimage.data.astronaut())).faces[0].score > 0.83


def test_the_table_keeps_what_a_photo_was_turned_by(tiny_pack: Pack, tmp_path: Path) -> None:
    lying = encode_png(np.ascontiguousarray(np.rot90(np.asarray(skimage.data.astronaut()), 2)))
    row = {"photo_id": "p" * 64, "reject_id": "p" * 64, "name": "ada", "image": lying}
    found = FindFaces(str(tiny_pack.root), PrepareConfig(), 1)(pa.Table.from_pylist([row], PHOTO))
    outcome = ReadFaces(str(tiny_pack.root), PrepareConfig(), "cpu", 1)(found)
    store = Store(tmp_path)
    commit(outcome, store)
    [face] = store.faces()
    assert face.origin == Origin(rotation=180)
    assert face.landmarks[:2, 1].mean() < face.landmarks[3:, 1].mean(), "its eyes are above its mouth"


@pytest.mark.parametrize("margin", [-24, -8, 24])
def test_tight_close_ups_are_used_and_numbers_agree(detector: FaceDetector, margin: int) -> None:
    """Data sets of faces hold little else. Cheeks and chin may be cut, half a face may not."""
    portrait = np.asarray(skimage.data.astronaut())[45:215, 155:295]
    x, y = (34, 28) if margin < 0 else (44, 62)
    tight = portrait[y + margin // 3 : 150, x : 140 - x]
    found = detector.find(photo(np.repeat(np.repeat(tight, 3, 0), 3, 1)))
    if margin < 0:
        assert len(found.faces) == 1
        [face] = found.faces
        assert not inside_photo(face.inside, len(face.crop)).all()
        return
    [(_, refusal)] = found.refused
    there, must = (float(number.strip("%")) for number in refusal.detail.split() if "%" in number)
    assert refusal.reason == "face_cut_off" and there < must == 70
