"""Names and persons in a list beside photos, as Hugging Face's ImageFolder has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipelines.photos.places import find_places
from tests.sources import photos_of, write


def called(src: Path, **how: Any) -> dict[str, tuple[str, str | None]]:
    """Name and person, by file."""
    places = find_places(str(src), **how).table.to_pylist()
    return {place["uri"].decode().removeprefix(f"{src}/"): (place["stem"], place["folder"]) for place in places}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("metadata.csv", "file_name,name,person,text\n1.jpg,Ada one,Ada,a\n2.jpg,Ada two,Ada,b\nin/3.jpg,,Bob,c\n"),
        (
            "Metadata.csv",
            "\ufeffFile_Name;name;person\r\n1.JPG;Ada one;Ada\r\n2.jpg;Ada two;Ada\r\nin\\3.jpg;nan;Bob\r\n",
        ),
        (
            "metadata.jsonl",
            '{"file_name": "1.jpg", "name": "Ada one", "person": "Ada"}\n\n{"file_name": "./2.jpg", "name": "Ada two", '
            '"person": "Ada"}\n{"file_name": "in/3.jpg", "person": "Bob", "name": null}\n',
        ),
    ],
)
def test_names_and_persons_are_those_of_the_list(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, "1.jpg", "2.jpg", "in/3.jpg", "4.jpg")
    (tmp_path / name).write_text(text, newline="")
    expected = {
        "1.jpg": ("Ada one", "Ada"),
        "2.jpg": ("Ada two", "Ada"),
        "in/3.jpg": ("3", "Bob"),
        "4.jpg": ("4", None),
    }
    assert called(tmp_path) == expected
    assert find_places(str(tmp_path)).told == [f"{tmp_path / name}: names of 2 photos, persons of 3"]
    assert {(photo["name"], photo["person"]) for photo in photos_of(tmp_path)} == set(expected.values())


def test_names_of_several_photos_and_lists_in_folders(tmp_path: Path) -> None:
    write(tmp_path, "a/1.jpg", "a/2.jpg", "b/1.jpg", "b/x.jpg", "Bob.jpg")
    (tmp_path / "a/metadata.csv").write_text("file_name,name\n1.jpg,Ada\n2.jpg,Ada\n")
    (tmp_path / "b/metadata.csv").write_text("file_name,name,person\n1.jpg,Bob,Robert\nx.jpg,Cy,\n")
    assert called(tmp_path, person_from="folder") == {
        "a/1.jpg": ("Ada/a/1", "a"),
        "a/2.jpg": ("Ada/2", "a"),
        "b/1.jpg": ("Bob/b/1", "Robert"),
        "b/x.jpg": ("Cy", "b"),
        "Bob.jpg": ("Bob", None),
    }


def test_what_tells_no_names_or_cannot_be_understood(tmp_path: Path) -> None:
    write(tmp_path, "1.jpg")
    for text, told in (
        ("file_name,text\n1.jpg,a photo\n", ""),
        ("file_name,name\n1.jpg,Ada,too many\n", "metadata.csv is not read: line 2 has more cells"),
        (
            "file_name,name,consent\n1.jpg,Ada,form\n",
            "metadata.csv is not read: a list of who agreed to what is called",
        ),
        ("path,name\n1.jpg,Ada\n", "metadata.csv tells whose photos these are, which is read as Parquet alone"),
    ):
        (tmp_path / "metadata.csv").write_text(text)
        sentences = find_places(str(tmp_path)).told
        assert any(told in sentence for sentence in sentences) if told else not sentences
