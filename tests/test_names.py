"""What photos are called, beside what is none."""

from __future__ import annotations

import pytest

from pipelines.photos.names import unique_names


@pytest.mark.parametrize("other", ["CR3", "dng", "MOV", "mp4", "psd", "zip", "pdf", "tga"])
def test_what_is_never_read_takes_no_name(other: str) -> None:
    assert unique_names(["/p/A.JPG", f"/p/A.{other}"]) == ["A", f"A.{other}"]
    assert unique_names([f"/p/raw/A.{other}", "/p/jpg/A.JPG"]) == [f"A.{other}", "A"]
    assert unique_names([f"/p/A.{other}"]) == ["A"]


def test_a_photo_keeps_its_name_when_others_come_that_are_none() -> None:
    photos = ["/p/IMG_1.HEIC", "/p/ada.jpg", "/p/ada-1.jpg", "/p/2/IMG_2.jpg", "/p/3/IMG_2.jpg"]
    others = ["/p/IMG_1.MOV", "/p/ada.mov", "/p/4/ada-1.cr3", "/p/2/IMG_2.mov", "/p/IMG_2.nef", "/p/3/IMG_2.nef"]
    before, after = unique_names(photos), unique_names([*others, *photos])
    assert after[len(others) :] == before
    assert len(set(after)) == len(after)


def test_pictures_of_one_stem_are_told_apart_whatever_else_is_called_so() -> None:
    """darktable calls what it develops by the whole name of the raw file."""
    assert unique_names(["/p/A.CR3", "/p/A.JPG", "/p/A.CR3.jpg"]) == ["p/A.CR3", "A", "A.CR3"]
    assert unique_names(["/p/A.png", "/p/A.jpg", "/p/A.png.jpg"]) == ["A.png", "A.jpg", "A.png.jpg"]
    assert unique_names(["/p/A.png", "/p/A.png.jpg"]) == ["A", "A.png"]
    assert unique_names(["/p/b", "/p/b.jpg:large", "/p/b.jpg_large"]) == ["b", "b.jpg:large", "b.jpg_large"]
