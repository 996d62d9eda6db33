"""Who exists in the studio world: identity parameters, how people are drawn, and the celebrities."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache

import numpy as np

Rgb = tuple[float, float, float]

HAIR_STYLES = ("bald", "buzz", "short", "side_part", "bob", "long", "wavy", "afro", "bun", "curly", "bangs", "mohawk")
BEARDS = ("none", "stubble", "moustache", "goatee", "full")
NUM_CELEBRITIES = 320

HAIR_COLOURS: dict[str, Rgb] = {
    "black": (0.07, 0.06, 0.07),
    "dark brown": (0.21, 0.12, 0.08),
    "brown": (0.40, 0.24, 0.13),
    "auburn": (0.47, 0.13, 0.08),
    "ginger": (0.80, 0.36, 0.09),
    "blonde": (0.89, 0.71, 0.34),
    "platinum": (0.95, 0.90, 0.76),
    "grey": (0.52, 0.53, 0.56),
    "white": (0.93, 0.94, 0.97),
    "pink": (0.95, 0.40, 0.64),
    "blue": (0.16, 0.35, 0.85),
    "green": (0.16, 0.62, 0.32),
    "purple": (0.48, 0.22, 0.70),
}
HAIR_ODDS = (0.17, 0.12, 0.12, 0.07, 0.11, 0.11, 0.05, 0.06, 0.06, 0.04, 0.03, 0.03, 0.03)
SKIN_TONES: dict[str, Rgb] = {
    "pale": (0.99, 0.87, 0.80),
    "fair": (0.95, 0.76, 0.64),
    "tan": (0.83, 0.61, 0.44),
    "brown": (0.61, 0.40, 0.27),
    "dark": (0.40, 0.25, 0.18),
}
EYE_COLOURS: dict[str, Rgb] = {
    "dark": (0.16, 0.09, 0.06),
    "brown": (0.42, 0.23, 0.09),
    "amber": (0.68, 0.44, 0.10),
    "green": (0.26, 0.55, 0.28),
    "blue": (0.20, 0.45, 0.85),
    "grey": (0.55, 0.62, 0.68),
}
LIP_COLOURS: tuple[Rgb, ...] = ((0.78, 0.12, 0.16), (0.85, 0.25, 0.45), (0.50, 0.10, 0.25), (0.86, 0.38, 0.26))
SHADOW_COLOURS: tuple[Rgb, ...] = ((0.20, 0.35, 0.75), (0.50, 0.20, 0.60), (0.15, 0.50, 0.45), (0.35, 0.18, 0.12))


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """One identity. Floats are in [0, 1] (0 = least, 1 = most) unless their comment says otherwise."""

    face_width: float
    face_length: float
    jaw: float  # pointed to square
    chin: float  # round to long and knobbly
    cheeks: float
    forehead: float  # height of the hairline
    eye_size: float
    eye_open: float
    eye_spacing: float
    eye_tilt: float  # outer corners down to up
    lashes: float  # below 0.5 reads as a man, above as a woman
    brow_thickness: float
    brow_angle: float  # worried to stern
    brow_arch: float
    brow_height: float
    brow_dark: float  # as light as the hair to much darker
    nose_length: float
    nose_width: float
    nose_bridge: float
    nose_tip: float
    mouth_width: float
    lip_upper: float
    lip_lower: float
    mouth_height: float
    mouth_curve: float
    makeup: float  # strength of the lip colour
    ear_size: float
    ear_out: float
    neck_width: float
    shoulders: float
    age: float
    freckles: float
    blush: float
    eye_shadow: float
    hair_volume: float
    hair_length: float
    hair_part: float  # image left to image right
    skin: Rgb
    hair: Rgb
    iris: Rgb
    lips: Rgb
    shadow: Rgb  # eye shadow colour
    hair_style: str  # one of HAIR_STYLES
    beard: str  # one of BEARDS
    moles: tuple[tuple[float, float, float], ...]  # two of (present 0 or 1, x in [-1, 1], y in [-1, 1]) on the face

    def vector(self) -> np.ndarray:
        """Identity vector, float32 [IDENTITY_DIM]: numbers about in [-1, 1], one-hots for hair style and beard."""
        numbers: list[float] = []
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("hair_style", "beard", "moles"):
                continue
            numbers += [2 * v - 1 for v in (value if isinstance(value, tuple) else (value,))]
        for present, x, y in self.moles:
            numbers += [present, present * x, present * y]
        numbers += [float(self.hair_style == style) for style in HAIR_STYLES]
        numbers += [float(self.beard == beard) for beard in BEARDS]
        return np.asarray(numbers, np.float32)


def _jitter(rng: np.random.Generator, colour: Rgb, amount: float) -> Rgb:
    gain = 1 + rng.uniform(-amount, amount)
    r, g, b = (float(np.clip(c * gain + rng.uniform(-amount, amount) * 0.15, 0.03, 1.0)) for c in colour)
    return r, g, b


def _skin(rng: np.random.Generator) -> Rgb:
    anchors = np.asarray(list(SKIN_TONES.values()))
    at = rng.uniform(0, len(anchors) - 1)
    colour = np.array([np.interp(at, np.arange(len(anchors)), anchors[:, k]) for k in range(3)])
    warm = rng.uniform(-1, 1)  # rosy to olive
    r, g, b = np.clip(colour * (1 - 0.02 * warm, 1 + 0.045 * warm, 1 - 0.06 * warm), 0, 1)
    return float(r), float(g), float(b)


def sample_person(rng: np.random.Generator) -> Person:
    """Draw a person; every field comes from `rng`. Ranges favour their ends, so that people differ at a glance."""
    names = [f.name for f in fields(Person) if f.type == "float"]
    shape = {name: float(rng.beta(0.75, 0.75)) for name in names}
    woman = bool(rng.random() < 0.5)
    shape["lashes"] = 0.65 + 0.35 * shape["lashes"] if woman else 0.35 * shape["lashes"]
    shape["makeup"] = shape["makeup"] if woman else 0.2 * shape["makeup"]
    shape["eye_shadow"] = shape["eye_shadow"] * (rng.random() < 0.45) if woman else 0.0
    shape["jaw"] = 0.75 * shape["jaw"] if woman else 0.2 + 0.8 * shape["jaw"]
    shape["freckles"] = shape["freckles"] * (rng.random() < 0.3)
    shape["age"] = shape["age"] ** 1.5
    # bald, buzz, short, side_part, bob, long, wavy, afro, bun, curly, bangs, mohawk
    odds = (0.02, 0.03, 0.07, 0.06, 0.14, 0.13, 0.13, 0.08, 0.11, 0.09, 0.12, 0.02) if woman else (
        0.15, 0.14, 0.19, 0.16, 0.02, 0.05, 0.05, 0.09, 0.02, 0.06, 0.01, 0.06)
    style = HAIR_STYLES[int(rng.choice(len(HAIR_STYLES), p=odds))]
    colour_odds = np.asarray(HAIR_ODDS) * (1 + 4 * shape["age"] * np.isin(list(HAIR_COLOURS), ("grey", "white")))
    hair = list(HAIR_COLOURS.values())[int(rng.choice(len(HAIR_COLOURS), p=colour_odds / colour_odds.sum()))]
    beard = BEARDS[int(rng.choice(5, p=(0.38, 0.14, 0.15, 0.13, 0.20)))]
    moles = tuple(
        (float(rng.random() < odds), float(rng.choice((-1, 1)) * rng.uniform(0.45, 1)), float(rng.uniform(-1, 1)))
        for odds in (0.4, 0.2)
    )
    return Person(
        **{name: float(value) for name, value in shape.items()},
        skin=_skin(rng),
        hair=_jitter(rng, hair, 0.12),
        iris=_jitter(rng, list(EYE_COLOURS.values())[rng.integers(len(EYE_COLOURS))], 0.12),
        lips=_jitter(rng, LIP_COLOURS[rng.integers(len(LIP_COLOURS))], 0.1),
        shadow=_jitter(rng, SHADOW_COLOURS[rng.integers(len(SHADOW_COLOURS))], 0.1),
        hair_style=style,
        beard="none" if woman else beard,
        moles=moles,
    )


def nearest_colour(colour: Rgb, palette: dict[str, Rgb]) -> str:
    """Name of the palette entry closest to an RGB colour in [0, 1]."""
    return min(palette, key=lambda name: sum((a - b) ** 2 for a, b in zip(colour, palette[name], strict=True)))


@cache
def _celebrity(index: int) -> Person:
    return sample_person(np.random.default_rng([0xCE1EB, index]))


def celebrity(index: int) -> Person:
    """Celebrity `index` of CELEBRITY_NAMES; their seeds are apart from those of `default_rng(n)`."""
    if not 0 <= index < NUM_CELEBRITIES:
        raise ValueError(f"celebrity index {index} is outside 0..{NUM_CELEBRITIES - 1}")
    return _celebrity(index)


def _names() -> list[tuple[str, str]]:
    rng = np.random.default_rng(640)
    onsets, vowels = "b br d dr f g gl h j k kr l m n p r s t tr v vr z zl".split(), "a e i o u ai ei".split()
    ends = {0: ["la", "ri", "no", "ve", "mi", "zo", "ka"], 1: ["ndor", "vik", "lsen", "rgo", "mbek", "zhov", "ntar"]}
    seen: set[str] = set()

    def word(kind: int) -> str:
        while True:
            syllables = [onsets[rng.integers(len(onsets))] + vowels[rng.integers(len(vowels))] for _ in range(2)]
            made = "".join(syllables) + ends[kind][rng.integers(7)]
            if made not in seen and len(made) >= 6:
                seen.add(made)
                return made

    return [(word(0), word(1)) for _ in range(NUM_CELEBRITIES)]


CELEBRITY_NAMES: list[tuple[str, str]] = _names()
IDENTITY_DIM: int = len(sample_person(np.random.default_rng(0)).vector())
