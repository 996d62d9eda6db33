"""What becomes of each field that OpenAI's client (openai-python 3.54) can send, in one table.

tests/test_contract.py holds it against the client's own types: a field that a later client adds fails that test.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from factory.prompts import asked_in_vain


@dataclass(frozen=True, slots=True, kw_only=True)
class Fates:
    """The fields of one method of the client. `refused` says what to do instead; null never is."""

    honoured: tuple[str, ...]
    without_effect: dict[str, str] = field(default_factory=dict)  # and why
    refused: dict[str, str] = field(default_factory=dict)

    def in_vain(self, given: Mapping[str, Any]) -> list[str]:
        """Those of the fields without effect that ask for what is not done: they are told as unknown ones are."""
        asked = {name: given[name] for name in self.without_effect if given.get(name) is not None}
        return [name for name, value in asked.items() if not _asks_nothing(name, value)]


_ALIKE: Final = (
    *("prompt", "n", "size", "response_format", "output_format", "output_compression", "background"),
    *("stream", "partial_images", "frame_count", "frame_duration_ms"),
)
_WITHOUT_EFFECT: Final = {
    "quality": "num_inference_steps says how many steps a picture takes",
    "complexity": "there is no planning before a picture",
    "user": "nobody is followed up by it",
    "safety_identifier": "as `user`",
}
# Values of them that ask for nothing else than what is done; None: whichever it is, no picture could differ by it.
_NOTHING: Final[dict[str, tuple[str, ...] | None]] = {
    "quality": ("auto", "standard"),
    "input_fidelity": ("low",),
    "user": None,
    "safety_identifier": None,
}
_REFUSED: Final = {"svg": "pictures are drawn as pixels: leave it out, and ask for png, jpeg, webp or gif"}
IMAGES_GENERATE: Final = Fates(
    honoured=(*_ALIKE, "model"),
    without_effect={
        **_WITHOUT_EFFECT,
        "style": "of DALL-E alone; the prompt says the style",
        "moderation": "nothing is moderated",
    },
    refused=_REFUSED,
)
IMAGES_EDIT: Final = Fates(
    honoured=(*_ALIKE, "image"),
    without_effect={
        **_WITHOUT_EFFECT,
        "model": "the photo says who is drawn",
        "input_fidelity": "what is learned of a face does not depend on it",
    },
    refused={
        **_REFUSED,
        "mask": "who is on the photo is drawn anew, as the prompt says, not painted into it: leave it out",
        "markup": "nothing is drawn into the photo: say in the prompt what is to be seen",
    },
)

FILES_CREATE: Final = Fates(honoured=("file", "purpose", "expires_after"))  # of all purposes batch alone
FILES_LIST: Final = Fates(honoured=("after", "limit", "order", "purpose"))
BATCHES_CREATE: Final = Fates(  # of all endpoints /v1/images/generations alone
    honoured=("completion_window", "endpoint", "input_file_id", "metadata", "output_expires_after")
)
BATCHES_LIST: Final = Fates(honoured=("after", "limit"))


def ignoring(names: Iterable[str]) -> dict[str, str]:
    """The header that names dropped fields, percent-encoded, so many as 1,000 characters hold; none for none."""
    text = ", ".join(quote(name, safe="._") for name in names)
    if len(text) > 1000:
        text = f"{text[:1000].rpartition(', ')[0]}, ..."
    return {"x-ignored-fields": text} if text else {}


def beside_words(prompt: str, negative_prompt: str | None) -> list[str]:
    """What prompts ask for beside their words, as fields: "prompt.lora"."""
    texts = {"prompt": prompt, "negative_prompt": negative_prompt or ""}
    return [f"{name}.{kind}" for name, text in texts.items() for kind in asked_in_vain(text)]


def _asks_nothing(name: str, value: Any) -> bool:
    values = _NOTHING.get(name, ())
    return values is None or (isinstance(value, str) and value.strip().lower() in values)
