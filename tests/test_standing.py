"""A source that goes away as a whole ends the job; a photo that cannot be read is a row."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pytest

from factory.errors import SourceError
from pipelines.photos import standing
from pipelines.photos.places import find_places
from pipelines.photos.sources import hash_contents, read_photos
from pipelines.photos.standing import check_sources


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "share" / "photos"
    folder.mkdir(parents=True)
    for name in "ab":
        (folder / f"{name}.jpg").write_bytes(name.encode())
    return folder


def test_a_photo_that_is_gone_alone_is_a_row(folder: Path) -> None:
    places = find_places(str(folder))
    (folder / "a.jpg").unlink()
    contents = pa.concat_tables(hash_contents(places.table, sources=places.sources))
    assert contents["photo_id"].null_count == 1
    photos = pa.concat_tables(read_photos(contents, max_bytes=99, sources=places.sources)).to_pylist()
    assert [photo["reason"] for photo in photos] == ["unreadable", None]


@pytest.mark.parametrize("left", ["nothing", "the mount's point"])
def test_a_folder_that_is_gone_ends_both_passes(folder: Path, left: str) -> None:
    places = find_places(str(folder))
    contents = pa.concat_tables(hash_contents(places.table, sources=places.sources))
    shutil.rmtree(folder)
    if left != "nothing":
        folder.mkdir()
    for reading in (
        lambda: list(hash_contents(places.table, sources=places.sources)),
        lambda: list(read_photos(contents, max_bytes=99, sources=places.sources)),
    ):
        with pytest.raises(SourceError, match=r"share/photos (is not there|holds nothing) on .* any more: mount it"):
            reading()


def test_a_single_file_counts_as_a_source(tmp_path: Path) -> None:
    file = tmp_path / "a.zip"
    file.write_bytes(b"x")
    check_sources([str(file)])
    file.unlink()
    with pytest.raises(SourceError, match=r"a\.zip is not there"):
        check_sources([str(file)])


def test_a_store_is_asked_again_before_it_is_called_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OSError("busy"), None, *[OSError("the session is over")] * 3])

    def asked(_: list[str], **_by: object) -> None:
        if answer := next(answers):
            raise answer

    monkeypatch.setattr(standing, "check_stores", asked)
    monkeypatch.setattr(standing, "_WAIT_S", 0.0)
    standing._asked.cache_clear()
    check_sources(["s3://photos/in"])
    with pytest.raises(OSError, match="the session is over"):
        standing._asked("s3://photos/in", -1)
    with pytest.raises(StopIteration):
        next(answers)
