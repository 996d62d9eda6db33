"""The demo's data set, its measure of likeness, the contact sheet, the report, and what a second run keeps."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.photos import decode_photo
from factory.prompts import PERSON
from factory.provenance.credentials import make_self_signed
from factory.provenance.marks import Marker, read_claim
from factory.provenance.xmp import COMPOSITE_TYPE
from factory.records import FaceMasks
from studio.demo.likeness import Likeness, measure, overall
from studio.demo.people import (
    COLUMNS,
    CORRUPT,
    NEWCOMER,
    NO_FACE,
    PEOPLE,
    REAL_PHOTO,
    portrait,
    write_data_set,
    write_newcomer,
)
from studio.demo.port import free_port
from studio.demo.report import Report, ReportPerson, Stage, html
from studio.demo.run import Log, open_folder, write_report
from studio.demo.sheet import SMALL_PX, SheetRow, contact_sheet, overlay, save_small
from studio.training.dataset import NUM_TRAINED, held_out, person_of


def test_the_data_set_is_what_the_demo_promises(tmp_path: Path) -> None:
    path = tmp_path / "photos.parquet"
    assert write_data_set(path) == len(PEOPLE) + 3 >= 15
    rows = {row["name"]: row["image"] for row in pq.read_table(path).to_pylist()}
    assert set(rows) == {*PEOPLE, REAL_PHOTO, NO_FACE, CORRUPT}
    for name, data in rows.items():
        if name == CORRUPT:
            with pytest.raises(PhotoRejected, match="damaged"):
                decode_photo(data, name=name, config=PrepareConfig())
        else:
            assert min(decode_photo(data, name=name, config=PrepareConfig()).image.shape[:2]) >= 256


def test_somebody_is_left_to_be_added(tmp_path: Path) -> None:
    file = write_newcomer(tmp_path)
    assert file.name == "ada.jpg" and NEWCOMER[1] not in PEOPLE.values()
    assert decode_photo(file.read_bytes(), name="ada", config=PrepareConfig()).image.shape == (384, 384, 3)


def test_the_people_are_held_out_and_all_different() -> None:
    assert len(set(PEOPLE.values())) == len(PEOPLE) >= 12
    vectors = np.stack([held_out(index).vector() for index in PEOPLE.values()])
    assert np.array_equal(person_of(NUM_TRAINED + 3).vector(), held_out(3).vector())
    distances = np.linalg.norm(vectors[:, None] - vectors[None], axis=2)
    assert distances[~np.eye(len(PEOPLE), dtype=bool)].min() > 0.5


def test_another_portrait_of_a_person_is_another_picture() -> None:
    assert np.array_equal(portrait(0), portrait(0))
    assert not np.array_equal(portrait(0), portrait(0, again=True))


def test_contexts_are_prompts_with_the_person_in_them() -> None:
    assert len(COLUMNS) >= 6
    assert all(PERSON in context.prompt for context in COLUMNS)
    assert len({context.slug for context in COLUMNS}) == len(COLUMNS)


def _flat(colour: int) -> np.ndarray:
    return np.full((8, 8, 3), colour, np.uint8)


def _embed(image: np.ndarray) -> np.ndarray | None:
    """A recogniser for one-colour pictures: colour 0 has no face, colours near each other are alike."""
    angle = image[0, 0, 0] / 100
    return None if angle == 0 else np.array([np.cos(angle), np.sin(angle)], np.float32)


def test_likeness_is_the_mean_cosine_to_own_and_other_photos() -> None:
    photos = {"a": _flat(10), "b": _flat(110)}
    pictures = {"a": [_flat(10), _flat(90), _flat(0)], "b": [_flat(110)]}
    rows = measure(photos, pictures, _embed)
    assert rows["a"].own == pytest.approx((1 + np.cos(0.8)) / 2, abs=1e-6)
    assert rows["a"].others == pytest.approx((np.cos(1.0) + np.cos(0.2)) / 2, abs=1e-6)
    assert rows["a"].nearest == 0.5  # the picture of colour 90 is nearer to b
    assert rows["a"].num_measured == 2
    total = overall(list(rows.values()))
    assert total.own == pytest.approx(((1 + np.cos(0.8)) / 2 + 1) / 2, abs=1e-6)


def test_a_person_without_measurable_pictures_is_not_a_zero() -> None:
    rows = measure({"a": _flat(10), "b": _flat(20)}, {"a": [_flat(0)], "b": [_flat(20)]}, _embed)
    assert rows["a"] == Likeness(own=None, others=None, nearest=None, num_measured=0)
    assert overall(list(rows.values())).own == pytest.approx(1.0)


def _row(name: str) -> SheetRow:
    masks = FaceMasks(face=np.eye(8, dtype=bool), hair=np.eye(8, k=1, dtype=bool))
    return SheetRow(
        name=name, notes=["likeness 0.5"], photo=_flat(50), crop=_flat(60), masks=masks, pictures=[_flat(200), None]
    )


def test_the_overlay_colours_face_and_hair_apart() -> None:
    row = _row("a")
    tinted = overlay(row.crop, row.masks).astype(int)
    assert (tinted[0, 0, 0] > tinted[0, 0, 2]) and (tinted[0, 1, 2] > tinted[0, 1, 0])
    assert len(set(tinted[5, 0])) == 1  # the rest is grey


def test_the_sheet_has_a_row_a_person_and_a_cell_a_picture() -> None:
    one, two = (contact_sheet([_row("a")] * n, ["x", "y"], title="t", subtitle="s") for n in (1, 2))
    cell = two.height - one.height
    assert cell > 100 and one.width == two.width
    pixels = np.asarray(two)
    assert (pixels == 200).all(axis=2).sum() == pytest.approx(2 * (cell - 8) ** 2, rel=0.02)


def test_the_sheet_for_a_page_is_a_small_jpeg(tmp_path: Path) -> None:
    sheet = contact_sheet([_row("a")] * 3, ["x"] * 8, title="t", subtitle="s")
    save_small(sheet, tmp_path / "small.jpg")
    with Image.open(tmp_path / "small.jpg") as small:
        assert small.format == "JPEG" and small.width == SMALL_PX
        assert small.height == pytest.approx(sheet.height * SMALL_PX / sheet.width, abs=1)


def test_what_the_demo_writes_says_that_a_model_made_parts_of_it(tmp_path: Path) -> None:
    likeness = Likeness(own=0.5, others=-0.1, nearest=1.0, num_measured=2)
    person = ReportPerson(row=_row("ada"), identity_id="1", likeness=likeness, rendered=True)
    report = Report(
        title="1", people=[person], captions=["x", "y"], prompts=["a <person>"] * 2, rejects=[], stages=[], facts={},
        ceiling=None,
    )  # fmt: skip
    credentials = make_self_signed()
    write_report(report, [], tmp_path, Marker(credentials))
    for name in ("contact_sheet.png", "contact_sheet.jpg"):
        claim = read_claim((tmp_path / name).read_bytes(), credentials)
        assert claim is not None and claim.synthetic and claim.state == "Trusted"
        with Image.open(tmp_path / name) as sheet:
            xmp: Any = sheet.info.get("xmp") or sheet.info["XML:com.adobe.xmp"]
        assert COMPOSITE_TYPE in (xmp.decode() if isinstance(xmp, bytes) else xmp)


class _Tags(HTMLParser):
    """Collects what a page would load."""

    def __init__(self) -> None:
        super().__init__()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]


def test_the_report_is_one_file_and_escapes_what_strangers_wrote() -> None:
    likeness = Likeness(own=0.5, others=-0.1, nearest=1.0, num_measured=2)
    page = html(
        Report(
            title="2 people",
            people=[
                ReportPerson(row=_row("<b>ada</b>"), identity_id="1", likeness=likeness, rendered=True),
                ReportPerson(row=_row("real"), identity_id="2", likeness=replace(likeness, own=0.1), rendered=False),
            ],
            captions=["x", "y"],
            prompts=["a <person>", "b <person>"],
            rejects=[("bad.jpg", "not_an_image", "<script>truncated</script>")],
            stages=[Stage(name="prepare", what="3 files", seconds=2.0, reused=True)],
            facts={"Hardware": "2 cores"},
            ceiling=0.8,
        )
    )
    tags = _Tags()
    tags.feed(page)
    assert len(tags.sources) == 6 and all(source.startswith("data:image/") for source in tags.sources)
    synthetic = [b"trainedAlgorithmicMedia" in base64.b64decode(source.partition(",")[2]) for source in tags.sources]
    assert synthetic == [False, False, True] * 2, "photo, masks, and what was drawn"
    assert "<script>" not in page and "&lt;b&gt;ada" in page
    assert "not_an_image" in page and "done in an earlier run" in page
    shown = re.search(r"<b>([\d.]+)</b><span>likeness of pictures to their own", page)
    assert shown is not None and shown[1] == "0.50"  # the real photo is not in the mean


def test_a_fresh_demo_removes_nothing_but_a_demos_own_folder(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "demo", tmp_path / "photos"
    open_folder(mine, fresh=True)
    (mine / "root").mkdir()
    open_folder(mine, fresh=False)
    assert (mine / "root").exists()
    open_folder(mine, fresh=True)
    assert not (mine / "root").exists()
    theirs.mkdir()
    (theirs / "wedding.jpg").write_bytes(b"precious")
    open_folder(theirs, fresh=False)  # a demo may write there, which does not make it the demo's
    with pytest.raises(ValueError, match="another --out"):
        open_folder(theirs, fresh=True)
    assert (theirs / "wedding.jpg").read_bytes() == b"precious"


def test_a_second_run_keeps_the_times_of_the_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path / "stages.json")
    with log.stage("prepare") as did:
        did.append("15 files")
    assert not log.stages["prepare"].reused
    again = Log(tmp_path / "stages.json")
    with again.stage("prepare"):
        pass
    stage = again.stages["prepare"]
    assert stage.reused and stage.what == "15 files" and stage.seconds == log.stages["prepare"].seconds
    assert "nothing to do" in capsys.readouterr().out


def test_the_port_is_outside_those_of_ray() -> None:
    assert 8000 <= free_port() < 10002
