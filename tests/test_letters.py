"""Names in zips are read in the letters that they were written in, or it is told that these are not known."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from pipelines.photos.letters import paths_of
from pipelines.photos.places import find_places
from tests.sources import photos_of


def paths(encoding: str, *names: str) -> tuple[list[str], str]:
    """What becomes of names that a program of Windows wrote in an encoding of its own."""
    infos = [zipfile.ZipInfo() for _ in names]
    for info, name in zip(infos, names, strict=True):
        info.filename, info.create_system = name.encode(encoding).decode("cp437"), 0
    return paths_of(infos)


@pytest.mark.parametrize(
    ("encoding", "windows", "names"),
    [
        ("gbk", "Chinese", ["王芳.jpg"]),
        ("gbk", "Chinese", ["照片/王芳.jpg", "照片/张敏_1.jpg", "照片/李伟.jpg", "照片/陶喆.jpg", "ada.jpg"]),
        ("gbk", "Chinese", ["阿依古丽·买买提.jpg", "微信图片_20240101.jpg"]),
        ("cp932", "Japanese", ["写真/さくら.jpg", "写真/表示ソフト能.jpg"]),
        ("cp932", "Japanese", ["スクリーンショット 2024.png", "田中太郎.jpg"]),
        ("big5", "traditional Chinese", ["許功蓋.jpg", "王小明.jpg"]),
        ("cp949", "Korean", ["사진/홍길동.jpg", "사진/최유나.jpg"]),
    ],
)
def test_names_of_windows_in_asia(encoding: str, windows: str, names: list[str]) -> None:
    found, told = paths(encoding, *names)
    assert found == names and f"read as those of {windows} Windows" in told


def test_folders_that_windows_parts_by_backslashes() -> None:
    """Which are half of some letters, too."""
    assert paths("gbk", "员工\\赵六.png", "员工\\欧阳娜.png")[0] == ["员工/赵六.png", "员工/欧阳娜.png"]
    assert paths("cp932", "写真\\表示.png", "写真\\ソ能.png")[0] == ["写真/表示.png", "写真/ソ能.png"]


@pytest.mark.parametrize(
    "names",
    [
        ["Größe.jpg", "Zoë.jpg", "Björn.jpg"],
        ["Björn.jpg"],
        ["Åsa Ångström.jpg"],
        ["façade/élève.jpg", "çà.jpg"],
        ["ÄÖÜ.jpg"],
        ["Æsop.jpg", "Ñandú.jpg"],
    ],
)
def test_european_names_stay_as_they_are(names: list[str]) -> None:
    assert paths("cp437", *names) == (names, "")
    assert paths("utf-8", *names) == (names, "")


@pytest.mark.parametrize(
    ("encoding", "names"),
    [
        ("cp866", ["Иван.jpg", "Мария Петрова.jpg"]),
        ("cp1251", ["Иван.jpg", "Мария.jpg"]),
        ("cp737", ["Γιώργος.jpg", "Μαρία.jpg"]),
        ("cp852", ["Łukasz.jpg", "Żółć.jpg"]),
        ("cp874", ["สมชาย.jpg"]),
    ],
)
def test_letters_that_are_not_known_are_told(encoding: str, names: list[str]) -> None:
    found, told = paths(encoding, *names)
    assert found == [name.encode(encoding).decode("cp437") for name in names]
    assert "does not say in which letters" in told and "pack it anew, with names in UTF-8" in told


def test_the_photos_are_there_by_their_names(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("aaaa.jpg", b"first")
        packed.writestr("bbbb.jpg", b"second")
    data = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(data.replace(b"aaaa", "王芳".encode("gbk")))
    assert {photo["name"]: photo["image"] for photo in photos_of(tmp_path)} == {"王芳": b"first", "bbbb": b"second"}
    [told] = find_places(str(tmp_path)).told
    assert told.startswith(f"{tmp_path}/x.zip does not say in which letters")
