"""Prompts with a place for an identity. Light to import: no model reads them here."""

from __future__ import annotations

PERSON = "<person>"  # stands for the identity in a prompt


def _templates() -> tuple[str, ...]:
    """The ImageNet / textual-inversion family: 57 templates, as many as the release has distinct ones."""
    photo = [f"a photo of {what}" for what in ("a", "the", "my", "one", "a nice", "the nice")]
    photo += [f"a photo of {what}" for what in ("a clean", "the clean", "a dirty", "a cool", "the cool")]
    photo += [f"a photo of {what}" for what in ("a small", "the small", "the weird", "the large")]
    photo += ["the photo of a", "a dark photo of the", "a bright photo of the", "a rendering of a"]
    for view in ("a cropped photo of", "a close-up photo of", "a good photo of", "a rendition of"):
        photo += [f"{view} a", f"{view} the"]
    art = [
        f"{kind} of {what}"
        for kind in ("an illustration", "a depiction")
        for what in (
            *("a", "the", "my", "one", "a clean", "the clean", "a dirty", "a nice"),
            *("the nice", "a cool", "the cool", "a small", "the small", "the weird", "the large"),
        )
    ]
    return tuple(f"{text} {PERSON}" for text in photo + art)


TEMPLATES = _templates()


def with_person(prompt: str) -> str:
    """`prompt` with the identity in it: a prompt without `<person>` gets it in front, as in the paper."""
    prompt = prompt.strip()
    if PERSON in prompt:
        return prompt
    return f"{PERSON} {prompt}".strip()
