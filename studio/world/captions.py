"""What a picture shows, in words: one closed, lower-case vocabulary for captions and prompts."""

from __future__ import annotations

import re

import numpy as np

from studio.world.people import EYE_COLOURS, HAIR_COLOURS, SKIN_TONES, Person, nearest_colour
from studio.world.scenes import CLOTHES, EXPRESSIONS, GLASSES, HATS, PLACES, STYLES, Scene

# half of all captions begin with the first; the others are the paper's prompt templates
PREFIXES = (
    "a photo of", "a portrait of", "a photo of", "a rendering of", "a cropped photo of", "the photo of",
    "a close-up photo of", "a bright photo of", "a good photo of", "a nice photo of", "a depiction of", "a picture of",
    "an image of", "a rendition of",
)  # fmt: skip
# what the views show from which an identity is learned (factory/learn/augment.py): a piece of a portrait on black
VIEW_TEMPLATES = (
    "a cropped photo of {} on black", "a cropped portrait of {} on black", "a close-up photo of {} on black",
    "a small photo of {} on black", "a cropped picture of {} on black",
)  # fmt: skip
STYLE_FORMS = ("{style} of {name}", "{name} as {style}", "{style} of {name}", "{name} in the style of {style}",
               "{style} portrait of {name}")  # fmt: skip
HAIR_PHRASES: dict[str, tuple[str, ...]] = {
    "bald": ("a bald head", "no hair"),
    "buzz": ("very short {} hair", "shaved {} hair"),
    "short": ("short {} hair",),
    "side_part": ("parted {} hair", "short parted {} hair"),
    "bob": ("a {} bob", "a {} bob cut"),
    "long": ("long {} hair", "long straight {} hair"),
    "wavy": ("long wavy {} hair", "wavy {} hair"),
    "afro": ("a {} afro", "big {} afro hair"),
    "bun": ("a {} bun", "{} hair in a bun"),
    "curly": ("curly {} hair",),
    "bangs": ("{} hair with bangs", "{} bangs"),
    "mohawk": ("a {} mohawk",),
}
BEARD_PHRASES = {"stubble": "stubble", "moustache": "a moustache", "goatee": "a goatee", "full": "a full beard"}
_PROMPT_WORDS = """
    a an the and or of in on at as with without wearing is to by for from his her their this that one very same , . -
    person man woman people boy girl face head human someone celebrity actor actress
    photo photograph picture image portrait rendering rendition depiction illustration painting drawing sketch art
    pencil oil watercolor watercolour pixel black white style close up close-up cropped bright dark clean dirty small
    large big cool weird nice good low resolution blurry sharp quality high colour color old young my
    red orange yellow green blue purple pink brown grey gray golden gold silver ginger blonde auburn platinum
    hat beanie cap crown santa cowboy top headphones glasses sunglasses clothes suit tie hoodie striped shirt
    spacesuit scarf turtleneck snow beach forest city night library sunset space sea winter books trees stars
    smiling happy sad surprised looking eyes closed open smile neutral laughing plain background
    hair skin beard moustache goatee stubble bald long short curly wavy straight freckles mole moles lips brows
    afro bun bob bangs mohawk eye nose mouth ears age wrinkles pale fair tan
"""


def words(text: str) -> list[str]:
    """Split a caption or prompt the way VOCABULARY counts: runs of letters, and single marks such as ',' and '-'."""
    return re.findall(r"[a-z]+|[^\sa-z]", text.lower())


def _pick(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _hair_colour(person: Person, rng: np.random.Generator) -> str:
    name = nearest_colour(person.hair, HAIR_COLOURS)
    return _pick(rng, ("red", "ginger")) if name == "ginger" else name


def _traits(person: Person, rng: np.random.Generator) -> str:
    """One to three attributes: hair, then skin, beard, eyes or freckles."""
    hair = _pick(rng, HAIR_PHRASES[person.hair_style]).format(_hair_colour(person, rng))
    others = [f"{nearest_colour(person.skin, SKIN_TONES)} skin", f"{nearest_colour(person.iris, EYE_COLOURS)} eyes"]
    if person.beard != "none":
        others += [BEARD_PHRASES[person.beard]] * 2
    if person.freckles > 0.3:
        others.append("freckles")
    chosen = [hair]
    for _ in range(int(rng.integers(0, 3))):
        other = _pick(rng, tuple(others))
        if other not in chosen:
            chosen.append(other)
    return "with " + _join(chosen)


def caption(scene: Scene, name: str, rng: np.random.Generator, *, person: Person | None = None) -> str:
    """Describe a picture of `name` in `scene`: every context attribute, and with `person` now and then their looks."""
    who = name
    if person is not None and rng.random() < 0.5:
        kind = _pick(rng, ("woman" if person.lashes > 0.5 else "man", "person"))
        who += f", a {kind}" if rng.random() < 0.3 and kind not in name.split() else ""
        who += " " + _traits(person, rng)
    details = [EXPRESSIONS[scene.expression]] if scene.expression else []
    worn = [table[key] for table, key in ((HATS, scene.hat), (GLASSES, scene.glasses), (CLOTHES, scene.clothes)) if key]
    if worn:
        details.append("wearing " + _join([worn[i] for i in rng.permutation(len(worn))]))
    if len(details) > 1 and rng.random() < 0.3:
        details.reverse()
    if scene.place:
        details.insert(0 if rng.random() < 0.15 else len(details), PLACES[scene.place])
    rest = " ".join(["", *details])
    if scene.style:
        form = _pick(rng, STYLE_FORMS)
        if form.endswith("{style}"):
            return form.format(style=STYLES[scene.style], name=who + rest)
        return form.format(style=STYLES[scene.style], name=who) + rest
    prefix = PREFIXES[0] if rng.random() < 0.5 else _pick(rng, PREFIXES)
    return f"{prefix} {who}{rest}"


def _vocabulary() -> list[str]:
    texts = [*PREFIXES, *VIEW_TEMPLATES, *BEARD_PHRASES.values(), *HAIR_COLOURS, *SKIN_TONES, *EYE_COLOURS, "close-up"]
    texts += [phrase for phrases in HAIR_PHRASES.values() for phrase in phrases] + list(STYLE_FORMS)
    for table in (HATS, GLASSES, CLOTHES, PLACES, STYLES, EXPRESSIONS):
        texts += table.values()
    found = {word for text in texts for word in words(re.sub(r"\{\w*\}", "", text))}
    return sorted(found | set(_PROMPT_WORDS.split()))


VOCABULARY: list[str] = _vocabulary()
