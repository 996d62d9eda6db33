"""Archives that are damaged, cut short or in parts: told in plain words, with the remedy, and the rest of them read."""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

from factory.errors import SourceError
from pipelines.photos.archives import further_parts
from pipelines.photos.places import find_places
from tests.sources import photos_of, tarred, write

_OF_PYTHON = re.compile("zip file|magic|directory|CRC|Error|decompress|disk|codec")  # words that tell a user nothing


def zipped(*names: str, how: int = zipfile.ZIP_STORED) -> bytes:
    """A zip whose members each hold bytes of their own."""
    file = BytesIO()
    with zipfile.ZipFile(file, "w", how) as archive:
        for number, name in enumerate(names):
            archive.writestr(name, np.random.default_rng(number).integers(0, 9, 4000, np.uint8).tobytes())
    return file.getvalue()


def told(folder: Path, name: str, data: bytes) -> dict[str, str]:
    """What is told of an archive of these bytes, and of its members, by their names; empty: it is read."""
    folder.mkdir()
    (folder / name).write_bytes(data)
    found = {photo["name"]: photo["detail"] or "" for photo in photos_of(folder)}
    assert not any(map(_OF_PYTHON.search, found.values())), found
    return found


def test_a_zip_in_parts_is_told_once(tmp_path: Path) -> None:
    whole, folder = zipped("a.jpg", "b.jpg"), write(tmp_path / "p", "in.z01", "in.z02")
    end = bytearray(whole[-22:])
    end[4:8] = struct.pack("<HH", 2, 2)  # this is the third disk
    (folder / "in.zip").write_bytes(whole[-150:-22] + end)
    [photo] = photos_of(folder)
    assert "`zip -s 0 in.zip --out whole.zip`" in photo["detail"] and "zip -s" in photo["detail"]
    assert find_places(str(folder)).left_out == {"further part of an archive": 2}
    large = struct.pack("<4sLQL", b"PK\6\7", 2, 0, 3) + end[:4] + b"\xff\xff" + end[6:]
    assert "whole.zip" in told(tmp_path / "large", "in.zip", whole[:-22] + large)["in"]


def test_of_the_parts_of_an_archive_one_is_told() -> None:
    files = ["p/a.7z.001", "p/a.7z.002", "p/b.part1.rar", "p/b.part2.rar", "p/c.r00", "p/c.r01", "p/c.rar", "p/d.z01",
             "q/a.7z.001", "q/d.zip", "q/e.tar.gz.partaa", "q/e.tar.gz.partab", "q/f.jpg"]  # fmt: skip
    further = {"p/a.7z.002", "p/b.part2.rar", "p/c.r00", "p/c.r01", "q/e.tar.gz.partab"}
    assert further_parts(sorted(files)) == further


def test_a_zip_without_its_end_or_list_is_told(tmp_path: Path) -> None:
    whole = zipped("a.jpg", "b.jpg")
    assert "cut short: the list of its members" in told(tmp_path / "cut", "x.zip", whole[:3000])["x"]
    for name, data in {
        "list": whole.replace(b"PK\1\2", b"PK\1\3"),
        "names": whole.replace(b"b.jpg", b"\xffb\xff\xffg").replace(b"\x14\x03\x14\0\0\0", b"\x14\x03\x14\0\0\x08"),
    }.items():
        assert "list of its members, at its end, is damaged" in told(tmp_path / name, "x.zip", data)["x"], name


def test_a_zip_without_its_beginning_is_read_as_far_as_it_is_there(tmp_path: Path) -> None:
    found = told(tmp_path / "x", "x.zip", zipped("a.jpg", "b.jpg", "c.jpg")[5000:])
    assert found.pop("c") == "" and set(found) == {"a", "b"}
    assert all(why.startswith("damaged in the archive: ") for why in found.values())


def test_members_that_a_zip_tells_of_and_does_not_list_are_told(tmp_path: Path) -> None:
    whole = bytearray(zipped("a.jpg", "b.jpg"))
    whole[-12:-10] = struct.pack("<H", 3)
    assert "its end tells of 3 members, its list of 2" in told(tmp_path / "x", "x.zip", bytes(whole))["x"]


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("where", ["header", "begin", "middle"])
def test_a_damaged_member_of_a_zip_loses_no_other(tmp_path: Path, how: int, where: str) -> None:
    data = bytearray(zipped("a.jpg", "b.jpg", "c.jpg", how=how))
    [info] = [info for info in zipfile.ZipFile(BytesIO(data)).infolist() if info.filename == "b.jpg"]
    start = info.header_offset + {"header": 2, "begin": 35, "middle": 35 + info.compress_size // 2}[where]
    data[start : start + 8] = bytes(byte ^ 0xFF for byte in data[start : start + 8])
    found = told(tmp_path / "x", "x.zip", bytes(data))
    assert found.pop("b").startswith("damaged in the archive: ") and found == {"a": "", "c": ""}


def test_a_tar_whose_end_is_not_marked_may_lack_others(tmp_path: Path) -> None:
    """As whoever writes one and is killed leaves it, or a copy that breaks off between two members."""
    whole = tarred("a.jpg", "b.jpg", "c.jpg")
    assert told(tmp_path / "whole", "x.tar", whole) == dict.fromkeys("abc", "")
    found = told(tmp_path / "between", "x.tar", whole[: 2 * 3584])
    assert "behind its member 2: its end is not marked" in found.pop("x") and found == dict.fromkeys("ab", "")


def test_a_tar_that_is_damaged_at_its_beginning_is_not_told_to_be_unpacked(tmp_path: Path) -> None:
    damaged = tarred("a.jpg").replace(b"a.jpg\0", b"?.jpg\0", 1)
    assert "unpack" not in (said := told(tmp_path / "x", "x.tar", damaged)["x"]) and "no readable archive" in said


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_links_in_a_tar_are_what_they_lead_to(tmp_path: Path, form: int) -> None:
    """As in folders of people whose photos lie in one other; nothing outside of the archive is read."""
    src = write(tmp_path / "people", "Ada/1.jpg", "zz/orig.jpg", "zz/cyd.jpg", "Bob/none", "Cyd/none")
    (src / "Ada/2.jpg").hardlink_to(src / "Ada/1.jpg")
    (src / "Bob/1.jpg").hardlink_to(src / "zz/orig.jpg")
    for link, target in (
        ("Cyd/1.jpg", "../zz/cyd.jpg"),
        ("Cyd/2.jpg", "1.jpg"),
        ("Cyd/out.jpg", "/etc/hostname"),
        ("Cyd/up.jpg", "../../../../etc/hostname"),
        ("Cyd/round.jpg", "round.jpg"),
    ):
        (src / link).symlink_to(target)
    with tarfile.open(tmp_path / "p.tar", "w", format=form) as archive:
        for folder in ("zz", "Ada", "Bob", "Cyd"):  # links stand before and behind their files
            archive.add(src / folder, f"./people/{folder}")
    places = find_places(str(tmp_path / "p.tar"), person_from="folder")
    photos = {row["member"].decode(): row for row in places.table.to_pylist()}
    found = {photo["uri"].partition("#")[2]: photo for photo in photos_of(tmp_path / "p.tar")}
    bytes_of = {name.removeprefix("./people/"): photo["image"] for name, photo in found.items()}
    assert bytes_of.pop("Bob/none") == b"Bob/none" and bytes_of.pop("Cyd/none") == b"Cyd/none"
    assert bytes_of == {
        "zz/orig.jpg": b"zz/orig.jpg",
        "Bob/1.jpg": b"zz/orig.jpg",
        "zz/cyd.jpg": b"zz/cyd.jpg",
        "Cyd/1.jpg": b"zz/cyd.jpg",
        "Cyd/2.jpg": b"zz/cyd.jpg",
        "Ada/1.jpg": b"Ada/1.jpg",
        "Ada/2.jpg": b"Ada/1.jpg",
    }
    assert photos["./people/Cyd/2.jpg"]["folder"] == "people/Cyd"
    assert places.left_out == {"link in an archive": 3}
    [told] = places.told
    assert "p.tar has links that are not followed: ./people/Cyd/" in told and told.count("Cyd/") == 3


@pytest.mark.parametrize(
    ("name", "command"),
    [("lfw.tgz", "tar xf lfw.tgz"), ("of all.tar.bz2", "tar xf 'of all.tar.bz2'"), ("ada.jpg.gz", "gunzip ada.jpg.gz")],
)
def test_a_source_that_is_an_archive_which_is_not_read_is_told_at_once(tmp_path: Path, name: str, command: str) -> None:
    (tmp_path / name).write_bytes(b"\x1f\x8b\b")
    for source in (tmp_path / name, tmp_path):
        with pytest.raises(SourceError, match=re.escape(f"{name}: archives of this kind are not read")) as told:
            find_places(str(source))
        assert f"unpack it (`{command}`)" in str(told.value)
    (tmp_path / "bob.jpg").write_bytes(b"\xff\xd8\xff")
    assert find_places(str(tmp_path)).num_photos == 2, "beside photos it is one that cannot be read"
