"""How good a photo is, before anything is learned of it."""

from __future__ import annotations

from dataclasses import replace
from html import escape
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage.data

from factory.config import PrepareConfig
from factory.faces.pose import HeadPose, landmarks
from factory.faces.quality import head_turn, photo_quality, sharpness
from factory.faces.read import FaceReader
from factory.pack import Pack
from factory.records import Face, FaceMasks, FoundFaces
from factory.scores import FAULTS, PhotoQuality
from factory.store.quality import crops_of, photo_qualities
from factory.store.rows import face_from_row, face_row, identity_row
from factory.store.tables import Store
from pipelines.photos.samples import _accepted
from tests.make_faces import noise_face
from tests.serving import person

SIDE = 128
ASTRONAUT = np.asarray(skimage.data.astronaut())[60:188, 160:288]  # her face, 128 px
FRONT = landmarks(HeadPose()) * SIDE
WHOLE = FaceMasks(face=np.ones((SIDE, SIDE), bool), hair=np.zeros((SIDE, SIDE), bool))
LARGE = np.array([0, 0, 90, 110], np.float32)  # px


def quality(
    crop: np.ndarray = ASTRONAUT,
    masks: FaceMasks = WHOLE,
    points: np.ndarray = FRONT,
    box: np.ndarray = LARGE,
) -> PhotoQuality:
    return photo_quality(crop, masks, points, box)


def test_a_good_photo_has_nothing_against_it() -> None:
    good = quality()
    assert good.faults == [] and good.score > 0.9
    assert all(0.9 < part <= 1 for part in (good.sharpness, good.size, good.frontal, good.visible))


@pytest.mark.parametrize(
    ("part", "spoiled"),
    [
        ("sharpness", {"crop": cv2.GaussianBlur(ASTRONAUT, (0, 0), 3.0)}),
        ("size", {"box": LARGE * 0.3}),
        ("exposure", {"crop": ASTRONAUT // 8}),
        ("exposure", {"crop": (ASTRONAUT * np.where(np.arange(SIDE) < SIDE / 2, 1, 0.15)[:, None]).astype(np.uint8)}),
        ("exposure", {"crop": np.clip(ASTRONAUT.astype(int) + 235, 0, 255).astype(np.uint8)}),
        ("visible", {"masks": replace(WHOLE, face=WHOLE.face & (np.arange(SIDE)[:, None] < 78))}),
        ("frontal", {"points": np.array([[40, 60], [70, 60], [30, 78], [42, 92], [64, 92]], float)}),
    ],
)
def test_what_is_wrong_is_its_worst_part(part: str, spoiled: dict[str, np.ndarray]) -> None:
    found = quality(**spoiled)  # type: ignore[arg-type]
    assert found.faults[0] == FAULTS[part] and found.score == getattr(found, part) < 0.4


@pytest.mark.parametrize("round_it", [False, True])
@pytest.mark.parametrize("box", [(0.2, 0.2, 0.79, 0.93), (0.17, 0.15, 0.82, 0.95), (0.05, 0.05, 0.95, 0.99)])
def test_a_face_that_was_blurred_alone_is_blurred(box: tuple[float, ...], round_it: bool) -> None:
    """As anonymising tools do it: the edges of what they blurred are sharp, and so is what lies around."""
    x0, y0, x1, y1 = (round(share * SIDE) for share in box)
    inside = np.zeros((SIDE, SIDE), np.uint8)
    if round_it:
        middle, half = ((x0 + x1) // 2, (y0 + y1) // 2), ((x1 - x0) // 2, (y1 - y0) // 2)
        cv2.ellipse(inside, middle, half, 0, 0, 360, 1, -1)
    else:
        inside[y0:y1, x0:x1] = 1
    crop = np.where(inside[..., None], cv2.GaussianBlur(ASTRONAUT, (0, 0), 7.0), ASTRONAUT)
    assert sharpness(crop, 90) < PrepareConfig().min_sharpness < 0.2 < sharpness(ASTRONAUT, 90)


def test_dark_skin_in_good_light_is_no_dark_photo() -> None:
    """Half as much light comes back from it: its highlights are what tells it from a photo in the dark."""
    assert quality(crop=(ASTRONAUT * 0.5).astype(np.uint8)).exposure > 0.9 > 0.5 > quality(crop=ASTRONAUT // 8).exposure


@pytest.mark.parametrize(("yaw", "pitch", "roll"), [(0, 0, 0), (20, 0, 0), (-30, 0, 10), (0, 10, 0), (0, -10, -15)])
def test_turning_is_seen_in_the_landmarks_and_tilting_does_not_count(yaw: float, pitch: float, roll: float) -> None:
    turned = head_turn(landmarks(HeadPose(yaw=yaw, pitch=pitch, roll=roll)) * 300 + 40)
    np.testing.assert_allclose(turned, (yaw, pitch), atol=2.5)


def test_degenerate_landmarks_are_no_error() -> None:
    assert 0 <= quality(points=np.zeros((5, 2))).frontal <= 1
    assert quality(masks=replace(WHOLE, face=WHOLE.hair)).exposure == 0


def test_prepared_faces_carry_it_into_the_table_and_back(tiny_pack: Pack, tmp_path: Path) -> None:
    face = noise_face(0, tiny_pack)
    found = Face(
        face_id="p-0", face_index=0, box=LARGE, landmarks=FRONT.astype(np.float32), score=1.0, crop=face.crop,
        inside=np.array([[-1, -1], [999, -1], [999, 999], [-1, 999]], np.float32),
    )  # fmt: skip
    photo = FoundFaces(photo_id="p", name="ada", faces=[found], refused=[])
    [read] = FaceReader(tiny_pack, PrepareConfig(min_mask_fraction=0.0)).read([photo])
    [prepared] = read.faces
    store = Store(tmp_path)
    store.upsert("faces", [face_row(prepared), face_row(face)])
    rows = {row["face_id"]: row for row in store.read("faces").to_pylist()}
    assert rows["p-0"]["quality"] == pytest.approx(prepared.quality and prepared.quality.score)
    kept, older = face_from_row(rows["p-0"]).quality, face_from_row(rows[face.face_id]).quality
    assert older is None and kept is not None and kept.faults == (prepared.quality and prepared.quality.faults)
    assert f"photo {kept.score:.2f}, {kept.faults[0]}" in _accepted(rows["p-0"]).html
    assert _accepted(rows[face.face_id]).html.endswith(f">{escape(face.name)}</figure>"), "of an older one nothing"


def test_identities_are_told_with_their_photo(tiny_pack: Pack, tmp_path: Path) -> None:
    store, parts = Store(tmp_path), PhotoQuality(sharpness=1.0, size=0.25, frontal=1.0, visible=1.0, exposure=1.0)
    ada, bob = person(1, "ada", "f"), person(2, "bob", "f")
    store.upsert("identities", [identity_row(ada), identity_row(bob)])
    measured = replace(noise_face(1, tiny_pack), face_id=ada.face_id, photo_id=ada.photo_id, quality=parts, pack="tiny")
    store.upsert("faces", [face_row(measured)])
    found = photo_qualities(store, [ada.identity_id, bob.identity_id])
    assert found == {ada.identity_id: {"score": 0.25, **dict.fromkeys(("sharpness", "frontal", "visible"), 1.0),
                                       "size": 0.25, "exposure": 1.0, "faults": ["small"]}}  # fmt: skip
    # of several photos the best one counts, wherever it is among them
    ids = sorted(f"{number:064x}-0" for number in (2, 3, 4))
    scores = (None, replace(parts, size=0.75), parts)
    several = [
        replace(noise_face(number, tiny_pack), face_id=an_id, photo_id=an_id[:-2], quality=score, pack="tiny")
        for number, (an_id, score) in enumerate(zip(ids, scores, strict=True))
    ]
    store.upsert("faces", [face_row(one) for one in several])
    zoe = replace(person(9, "zoe", "f"), face_id=ids[0], more_faces=ids[1:], pack="tiny")
    store.upsert("identities", [identity_row(zoe)])
    assert photo_qualities(store, [zoe.identity_id])[zoe.identity_id]["score"] == 0.75
    crops = crops_of(store, [zoe, ada, bob])
    assert set(crops) == {zoe.identity_id, ada.identity_id} and (crops[zoe.identity_id] == several[1].crop).all()
