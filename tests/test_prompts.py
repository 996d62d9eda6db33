"""Prompts as front ends write them: what is no word of theirs."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from cli.options import read_prompts
from factory.prompts import asked_in_vain, networks, texts_by_person, with_person, words_of


@pytest.mark.parametrize(
    ("prompt", "words", "kinds"),
    [
        ("<lora:add_detail:0.8> ada", " ada", ["lora"]),
        ("ada<LyCO:film:0.5:0.2><locon:x><lora:a:1>", "ada", ["lyco", "locon", "lora"]),
        ("a BREAK b, BREAK", "a  b, ", ["BREAK"]),
        ("a break, BREAKFAST and OUTBREAK", "a break, BREAKFAST and OUTBREAK", []),
        ("<person:BREAK> and < person > <lora>", "<person:BREAK> and < person > <lora>", []),
        ("3 < 4 <lora:", "3 < 4 <lora:", []),
    ],
)
def test_what_is_asked_for_beside_the_words(prompt: str, words: str, kinds: list[str]) -> None:
    assert words_of(prompt) == words and asked_in_vain(prompt) == kinds


def test_networks_have_names() -> None:
    assert networks("<lora:a:1>, <hypernet: b :0.3> BREAK <lora:a:0.2>") == {"a": "lora", "b": "hypernet"}


def test_a_person_stands_in_words_alone() -> None:
    assert with_person("<lora:film:1> in the snow BREAK") == "<person> in the snow"
    said = texts_by_person("<person> in red <lora:a:1>and <person:BREAK> at sea")
    assert said == {None: "<person> in red at sea", "BREAK": "<person> at sea"}


def test_a_file_of_prompts_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    for data, told in (
        ("eins\nzwö\n".encode("cp1252"), "UTF-8: in line 2 is the byte 0xf6; save it as UTF-8"),
        ("one\ntwo".encode("utf-16-le"), "UTF-8: in line 1 is a zero byte, as in UTF-16"),
        (b"\xff\xfeo\0n", "UTF-16: in line 1"),
    ):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=f"prompts.txt is no text in {told}"):
            read_prompts(file)
    for empty in ("", " \r\n\t\r\n", "\ufeff", "# a comment\n"):
        file.write_text(empty, encoding="utf-8")
        for more in ([], ["--prompt", "a photo"]):
            result = CliRunner().invoke(app, ["generate", "--root", str(tmp_path), "--prompts", str(file), *more])
            said = "".join(char for char in result.stderr if char.isprintable() and char not in "│ ")
            assert result.exit_code == 2 and f"thereisnopromptin{file}" in said, result.stderr
