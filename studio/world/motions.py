"""Clips of the studio world: what moves in them, in words and frame by frame.

A clip has 16 frames, 8 a second. Its caption is a picture's caption and the name of the motion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import cos, pi, sin
from typing import Any, Literal

import numpy as np

from studio.world.scenes import Scene, sample_scene

NUM_FRAMES, FPS = 16, 8
STILL_SHARE, FREE_SHARE = 0.07, 0.08  # of all clips: nothing named and nothing moves; nothing named, the head wanders
STYLED_SHARE = 0.08  # of all clips: painted, drawn, black and white


def _eased(w: float) -> float:
    """From 0 to 1 with a rest at both ends."""
    t = min(max((w - 0.1) / 0.65, 0.0), 1.0)
    return t * t * (3 - 2 * t)


@dataclass(frozen=True, slots=True, kw_only=True)
class Motion:
    """A motion: its words, what a scene must be for it, and the fields of the scene at a share of the clip."""

    text: str
    needs: dict[str, str | None]  # fields of the first frame's scene
    at: Callable[[float], dict[str, float]]  # of w in [0, 1]


# left and right as one sees the picture
MOTIONS: dict[str, Motion] = {
    "turning": Motion(text="turning the head", needs={}, at=lambda w: {"yaw": -24 * cos(pi * w)}),
    "nodding": Motion(text="nodding", needs={}, at=lambda w: {"pitch": 9 * sin(2 * pi * w)}),
    "tilting": Motion(text="tilting the head", needs={}, at=lambda w: {"roll": -15 * cos(pi * w)}),
    "smiling": Motion(text="smiling slowly", needs={"expression": "smiling"}, at=lambda w: {"amount": _eased(w)}),
    "closing": Motion(
        text="closing the eyes", needs={"expression": "closed", "glasses": None}, at=lambda w: {"amount": _eased(w)}
    ),
    "surprised": Motion(
        text="becoming surprised", needs={"expression": "surprised"}, at=lambda w: {"amount": _eased(w)}
    ),
    "snow": Motion(text="snow falling", needs={"place": "snow"}, at=lambda w: {"time": w * NUM_FRAMES / FPS}),
    "waves": Motion(text="waves rolling", needs={"place": "beach"}, at=lambda w: {"time": w * NUM_FRAMES / FPS}),
    "light": Motion(text="light moving over the face", needs={}, at=lambda w: {"light_x": -2 * cos(pi * w)}),
}


def _wander(rng: np.random.Generator) -> Callable[[float], dict[str, float]]:
    """A head that goes from one random pose to another and a little past it, as poses over time ask for."""
    start, end = ({"yaw": rng.uniform(-28, 28), "pitch": rng.uniform(-9, 9), "roll": rng.uniform(-15, 15)}
                  for _ in range(2))  # fmt: skip

    def at(w: float) -> dict[str, float]:
        t = 0.5 - 0.5 * cos(pi * w * 1.2)
        return {name: float(start[name] + (end[name] - start[name]) * t) for name in start}

    return at


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """The scenes of a clip, and what its caption adds to the first one's."""

    scenes: list[Scene]  # NUM_FRAMES
    motion: str | None  # a key of MOTIONS; None: nothing is named
    text: str  # "" where nothing is named


def play(scene: Scene, motion: str) -> Clip:
    """A motion that begins with what is still in a scene."""
    chosen = MOTIONS[motion]
    start = replace(scene, **chosen.needs)  # type: ignore[arg-type]
    return Clip(scenes=_frames(start, chosen.at), motion=motion, text=chosen.text)


def sample_clip(
    rng: np.random.Generator, *, motion: str | None = None, context: Literal["plain", "mixed"] = "mixed", **fixed: Any
) -> Clip:
    """Draw a clip: of this motion, or one of any motion or of none."""
    style = {} if rng.random() < STYLED_SHARE else {"style": None}
    scene = replace(sample_scene(rng, context=context, **style), expression=None, **fixed)
    if motion is not None:
        return play(scene, motion)
    which = rng.random()
    if which < STILL_SHARE:
        return Clip(scenes=[scene] * NUM_FRAMES, motion=None, text="")
    if which < STILL_SHARE + FREE_SHARE:
        return Clip(scenes=_frames(scene, _wander(rng)), motion=None, text="")
    return play(scene, list(MOTIONS)[int(rng.integers(len(MOTIONS)))])


def _frames(start: Scene, at: Callable[[float], dict[str, float]]) -> list[Scene]:
    return [replace(start, **at(frame / (NUM_FRAMES - 1))) for frame in range(NUM_FRAMES)]  # type: ignore[arg-type]
