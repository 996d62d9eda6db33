"""Photos are searched upright: those that lie on their side or head are turned, and the table says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import skimage.data

from factory.config import PrepareConfig
from factory.faces.align import inside_photo
from factory.faces.detect import FaceDetector
from factory.faces.scan import Scan
from factory.pack import Pack
from factory.records import Origin
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


def test_a_sure_face_costs_no_second_look(detector: FaceDetector, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("looked at in other rotations")

    monkeypatch.setattr(Scan, "_better_turns", never)
    monkeypatch.setattr(Scan, "_likely_turns", never)
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
