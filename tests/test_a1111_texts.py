"""Texts of AUTOMATIC1111's API: names in prompts, and infotexts."""

from __future__ import annotations

import json
import re
from typing import Any

from serve.a1111.infotext import infotext, parse
from serve.a1111.prompts import plain, with_people


def test_names_stand_for_people_where_they_are_whole_words() -> None:
    names = {"ada", "Grace Hopper", "Grace", "x-ray"}

    def known(texts: Any) -> dict[str, str]:
        return {text: text for text in names & set(texts)}

    assert with_people("photo of ada, snow", known) == "photo of <person:ada>, snow"
    assert with_people("Grace Hopper and Grace", known) == "<person:Grace Hopper> and <person:Grace>"
    assert with_people("adamant x-ray canada", known) == "adamant <person:x-ray> canada"
    assert with_people("a photo of ada's hat, and Grace. ada", known) == (
        "a photo of <person:ada>'s hat, and <person:Grace>. <person:ada>"
    )
    names |= {"a"}
    assert with_people("a photo of ada", known) == "a photo of <person:ada>"
    assert with_people("<person:bob> with ada", known) == "<person:bob> with <person:ada>"
    assert plain("((ada)) (snow:1.3) [fog] \\(really\\)") == "ada snow fog (really)"


# As its own code writes the pattern in which a setting is found (modules/infotext_utils.py, 1.10)
THEIRS = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def test_an_infotext_is_read_by_its_own_pattern() -> None:
    text = infotext(
        "ada: a, b\nsecond line", 'no "x"', {"Steps": 20, "Sampler": "Euler", "Model": "a, b: c", "Seed": 1}
    )
    settings = dict(THEIRS.findall(text.split("\n")[-1]))
    assert settings == {"Steps": "20", "Sampler": "Euler", "Model": '"a, b: c"', "Seed": "1"}
    assert json.loads(settings["Model"]) == "a, b: c"
    read = parse(text)
    assert read["Prompt"] == "ada: a, b\nsecond line" and read["Negative prompt"] == 'no "x"'
    assert read["Model"] == "a, b: c" and parse("") == {}
    assert parse("only a prompt: with a colon") == {"Prompt": "only a prompt: with a colon", "Negative prompt": ""}
