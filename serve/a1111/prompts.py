"""Prompts as A1111's users write them -> ours: a person's name stands for them as an embedding's does."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from itertools import islice
from typing import Final

from factory.prompts import words_of

_WORDS: Final = 5  # of a name, at most
_READ: Final = 300  # words of a prompt in which names are looked for: no text encoder here reads as many
_TAG: Final = re.compile(r"(<[^<>]*>)")
_WORD: Final = re.compile(r"[^\s,;()\[\]{}<>]+")
_WHOLE: Final = re.compile(r"[^\s,;{}<>]+")  # a word of a name that has brackets: "Ada (2)"
_WEIGHT: Final = re.compile(r":\s*[0-9.]+\s*(?=[)\]])")
_CLOSING: Final = ".!?:\"'\u2019"
_LETTER: Final = re.compile("[A-Za-z]?")
_BRACKET: Final = re.compile(r"(?<!\\)[()\[\]]")


# Of A1111's own and of its common extensions: choices, wildcards, composition
_SYNTAX: Final = re.compile(r"\{[^{}]{0,1000}\|[^{}]{0,1000}\}|__[\w/-]{1,100}__|\b(?:AND|BREAK)\b")


def has_syntax(prompt: str) -> bool:
    """Whether a prompt has signs that are no words and not followed here: {a|b}, __a__ and AND, which are drawn as if
    they were words, and BREAK, which is left out."""
    return _SYNTAX.search(prompt) is not None


def has_emphasis(prompt: str) -> bool:
    """Whether a prompt has marks of emphasis."""
    return plain(prompt) != words_of(prompt)


def plain(prompt: str) -> str:
    """The words of a prompt without marks of emphasis, (word:1.2), ((word)), [word], which are not followed here; tags
    such as <person:Ada (2)> stay as they are."""
    parts = _TAG.split(words_of(prompt))
    parts[::2] = [re.sub(r"\\([()\[\]])", r"\1", _BRACKET.sub("", _WEIGHT.sub("", text))) for text in parts[::2]]
    return "".join(parts)


def with_people(prompt: str, known: Callable[[Collection[str]], Mapping[str, str]]) -> str:
    """A plain prompt in which names of people are <person:NAME>. `known` says which of these texts stand for whose
    name; of two that overlap, the longer and then the first one is meant. Brackets are first looked at as parts of
    names, then as marks of emphasis."""

    def known_with_brackets(texts: Collection[str]) -> Mapping[str, str]:
        found = {text for text in texts if _BRACKET.search(text)}
        return known(found) if found else {}

    return _named(plain(_named(prompt, known_with_brackets, _WHOLE)), known, _WORD)


def _named(prompt: str, known: Callable[[Collection[str]], Mapping[str, str]], word: re.Pattern[str]) -> str:
    parts = _TAG.split(prompt)  # every second one is a tag, such as <person:ada>
    spans, left = dict[int, list[tuple[int, int]]](), _READ
    for number, text in enumerate(parts[::2]):
        words = [match.span() for match in islice(word.finditer(text), left)]
        left -= len(words)
        spans[2 * number] = _spans(text, words)
    names = known({parts[number][start:end] for number, places in spans.items() for start, end in places})
    for number, places in spans.items():
        text = parts[number]
        taken: list[tuple[int, int]] = []
        for start, end in sorted(places, key=lambda place: (place[0] - place[1], place[0])):
            if text[start:end] in names and all(end <= first or start >= last for first, last in taken):
                taken.append((start, end))
        for start, end in sorted(taken, reverse=True):
            text = f"{text[:start]}<person:{names[text[start:end]]}>{text[end:]}"
        parts[number] = text
    return "".join(parts)


def _bare(text: str) -> str:
    """A text without what ends a sentence and makes a genitive; not by a pattern, whose cost is the square of its
    length."""
    ended = text.rstrip(_CLOSING)
    return ended[:-2] if ended.endswith(("'s", "\u2019s")) else ended


def _spans(text: str, words: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Where up to so many neighbouring words begin and end, with and without what ends a sentence behind them; `words`
    is where each of them does. A letter by itself is nobody: whoever is called after a file a.jpg would be in every
    prompt with an article."""
    ends = range(1, _WORDS + 1)
    whole = [
        (words[at][0], words[at + num - 1][1]) for at in range(len(words)) for num in ends if at + num <= len(words)
    ]
    bare = [(start, start + len(_bare(text[start:end]))) for start, end in whole]
    return [(start, end) for start, end in dict.fromkeys([*whole, *bare]) if not _LETTER.fullmatch(text[start:end])]
