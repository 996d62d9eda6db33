"""What may change from picture to picture of one person: pose, light, expression, and the context of a prompt."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from studio.world.people import Rgb

# key -> phrase; captions put "wearing" or "with" before hats, glasses and clothes
HATS: dict[str, str] = {
    "beanie": "a red beanie",
    "cap": "a blue cap",
    "crown": "a golden crown",
    "santa": "a santa hat",
    "cowboy": "a cowboy hat",
    "top_hat": "a black top hat",
    "headphones": "red headphones",
}
GLASSES: dict[str, str] = {"glasses": "black glasses", "sunglasses": "sunglasses"}
CLOTHES: dict[str, str] = {
    "suit": "a suit with a red tie",
    "hoodie": "a green hoodie",
    "striped": "a striped shirt",
    "spacesuit": "a spacesuit",
    "scarf": "a red scarf",
    "turtleneck": "a black turtleneck",
}
PLACES: dict[str, str] = {
    "snow": "in the snow",
    "beach": "on the beach",
    "forest": "in a forest",
    "city": "in a city at night",
    "library": "in a library",
    "sunset": "at sunset",
    "space": "in space",
}
STYLES: dict[str, str] = {
    "sketch": "a pencil sketch",
    "oil": "an oil painting",
    "pixel": "pixel art",
    "bw": "a black and white photo",
    "watercolor": "a watercolor painting",
}
EXPRESSIONS: dict[str, str] = {
    "smiling": "smiling",
    "sad": "looking sad",
    "surprised": "looking surprised",
    "closed": "with eyes closed",
}

NUM_LAYOUTS = 6  # of each place: places one comes back to


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything in a picture that is not the person. Context keys are None (absent, plain) or a key of their table."""

    yaw: float  # degrees, positive turns the face to image right
    pitch: float  # degrees, positive looks down
    roll: float  # degrees, positive is clockwise
    scale: float  # size of the head, 1 = eye distance of a fifth of the side
    dx: float  # shift of the head, fraction of the side
    dy: float
    light_x: float  # light from image left (-1) or right (1)
    light_y: float  # from above (-1)
    warmth: float  # [-1, 1], cold to warm light
    gain: float  # brightness of the light, about 1
    smile: float  # small lift of the mouth corners, about [-0.2, 0.4]
    background: Rgb  # in [0, 1]
    background_low: Rgb  # colour that the plain background fades to
    shirt: Rgb
    seed: int  # layout of the place (clouds, trees, books, brush strokes), 0 .. NUM_LAYOUTS - 1
    expression: str | None = None
    hat: str | None = None
    glasses: str | None = None
    clothes: str | None = None
    place: str | None = None
    style: str | None = None
    amount: float = 1.0  # share of the expression that the face shows, [0, 1]: clips pass through what lies between
    time: float = 0.0  # seconds since the picture as it stands: snow falls on, waves roll on


def _colour(rng: np.random.Generator, saturation: tuple[float, float], value: tuple[float, float]) -> Rgb:
    return colorsys.hsv_to_rgb(float(rng.random()), float(rng.uniform(*saturation)), float(rng.uniform(*value)))


def sample_scene(rng: np.random.Generator, *, context: Literal["plain", "mixed"] = "mixed", **fixed: Any) -> Scene:
    """Draw a scene from `rng`; `fixed` overrides fields and leaves the other draws as they were.

    Plain scenes have no hat, glasses, place, style or special clothes and a neutral face.
    """

    def spread(sigma: float, limit: float) -> float:
        return float(np.clip(rng.normal(0, sigma), -limit, limit))

    def maybe(odds: float, table: dict[str, str]) -> str | None:
        present, key = rng.random() < odds, list(table)[rng.integers(len(table))]
        return key if present and context == "mixed" else None

    # Narrow on purpose: a model this small spends its capacity on who is shown, not on where and how (docs/log.md).
    background = _colour(rng, (0.08, 0.35), (0.55, 0.85))
    fade = float(rng.uniform(0.62, 0.9))
    scene = Scene(
        yaw=spread(4.5, 10), pitch=spread(2.2, 5), roll=spread(1.2, 3),
        scale=1 + spread(0.02, 0.04), dx=spread(0.008, 0.02), dy=spread(0.006, 0.015),
        light_x=spread(0.22, 0.5), light_y=-0.35 + spread(0.08, 0.2),
        warmth=spread(0.22, 0.6), gain=1 + spread(0.03, 0.06), smile=0.1 + spread(0.07, 0.18),
        background=background,
        background_low=(background[0] * fade, background[1] * fade, background[2] * fade),
        shirt=_colour(rng, (0.15, 0.75), (0.3, 0.85)),
        seed=int(rng.integers(NUM_LAYOUTS)),
        expression=maybe(0.35, EXPRESSIONS), hat=maybe(0.35, HATS), glasses=maybe(0.22, GLASSES),
        clothes=maybe(0.35, CLOTHES), place=maybe(0.42, PLACES), style=maybe(0.22, STYLES),
    )  # fmt: skip
    return replace(scene, **fixed)
