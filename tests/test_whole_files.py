"""Files for users are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from factory.errors import OutputError
from factory.files import write_whole, written_whole
from factory.store.export import export_identities
from pipelines.jobs.journal import explained
from tests.test_export import people


def test_what_is_written_is_there_and_nothing_beside_it(tmp_path: Path) -> None:
    for data in (b"first", b"second"):
        write_whole(tmp_path / "a.png", data)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", b"second")]


@pytest.mark.parametrize("name", ["a" * 251 + ".png", "ä" * 125 + ".png"])
def test_a_name_may_be_as_long_as_the_disk_takes(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"whole")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(name, b"whole")]
    with pytest.raises(OutputError, match=r"\.png cannot be written: File name too long"):
        write_whole(tmp_path / f"bcdefg{name}", b"whole")
    assert len(list(tmp_path.iterdir())) == 1


def test_of_a_full_disk_no_half_file_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(b"before")
    with (
        pytest.raises(OutputError, match=r"/a\.png cannot be written: No space left on device") as told,
        written_whole(tmp_path / "a.png") as part,
    ):
        part.write_bytes(b"ha")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(KeyboardInterrupt), written_whole(tmp_path / "a.png") as part:
        part.write_bytes(b"ha")
        raise KeyboardInterrupt
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", b"before")]
    assert explained(told.value, "/root") is None, "it is not the root that is full"


def test_what_cannot_be_read_meanwhile_is_not_the_file_s_fault(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone", "source.lance"), OSError("the S3 server does not answer")):
        with pytest.raises(OSError) as told, written_whole(tmp_path / "a.png") as part:
            part.write_bytes(b"ha")
            raise error
        assert told.value is error
    with pytest.raises(OutputError, match=r"/no/a\.png cannot be written: No such file"):
        write_whole(tmp_path / "no" / "a.png", b"x")
    no_folder = r"/no/a\.parquet cannot be written: [^.]*/no/a\.parquet'"
    with pytest.raises(OutputError, match=no_folder), written_whole(tmp_path / "no" / "a.parquet") as part:
        pafs.LocalFileSystem().open_output_stream(str(part))
    assert list(tmp_path.iterdir()) == []


def test_two_who_write_one_file_do_not_mix(tmp_path: Path) -> None:
    with written_whole(tmp_path / "a.png") as first, written_whole(tmp_path / "a.png") as second:
        first.write_bytes(b"first")
        second.write_bytes(b"second")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("a.png", b"first")]


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting takes root")
def test_an_export_onto_a_disk_of_one_page(tmp_path: Path) -> None:
    if os.system(f"mount -t tmpfs -o size=4k tmpfs {tmp_path} 2>/dev/null"):
        pytest.skip("nothing may be mounted here")
    try:
        with pytest.raises(OutputError, match=r"\.pt cannot be written"):
            export_identities(people(512)[:3], tmp_path, "a1111")
        assert [file.name for file in tmp_path.iterdir() if file.stat().st_size == 0 or file.suffix != ".pt"] == []
    finally:
        os.system(f"umount {tmp_path}")


def test_what_is_no_file_of_its_own_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "real.png").write_bytes(b"old")
    (tmp_path / "link.png").symlink_to("real.png")
    write_whole(tmp_path / "link.png", b"new")
    assert (tmp_path / "link.png").is_symlink() and (tmp_path / "real.png").read_bytes() == b"new"
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_whole(tmp_path / "pipe", b"through")
    assert os.read(reader, 100) == b"through" and not (tmp_path / "pipe").is_file()
    os.close(reader)
