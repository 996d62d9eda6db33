"""Prompts as front ends write them: what is no word of theirs."""

from __future__ import annotations

import pytest

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
