"""The evaluation's protocol: which people, prompts, seeds and ways to learn. evaluation.py carries it out."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import Field

from factory.config import Config, Preset
from studio.training.dataset import held_out
from studio.world.people import CELEBRITY_NAMES, Person, celebrity
from studio.world.render import render
from studio.world.scenes import sample_scene

Setting = bool | float | str
PHOTO_PX = 384  # of the photo an identity is learned from
FIRST_EVALUATED = 100  # of studio.training.dataset.held_out; lower numbers were looked at while settings were chosen


class Context(Config):
    """A prompt, and the same thing as a scene, so that a real render of it can be measured beside."""

    caption: str  # above a column
    prompt: str  # with <person>
    scene: dict[str, str]  # fields of studio.world.scenes.Scene


class Arm(Config):
    """One way to learn an identity: a row of a table."""

    key: str
    label: str
    preset: Preset = "paper"
    changes: dict[str, Setting] = Field(default_factory=dict)  # fields of MethodConfig
    paper: tuple[float, ...] | None = None  # the paper's CLIP-I, CLIP-T, Face Sim, Face Div, Trusted Div, FID


class Plan(Config):
    """Everything that is run. People x contexts x seeds pictures of each arm."""

    name: Literal["full", "quick"]
    num_people: int  # held-out people; as many celebrities are measured, and as many more are FID's reference
    contexts: tuple[Context, ...]
    seeds: tuple[int, ...]
    table_1: tuple[Arm, ...]  # the method first
    table_2: tuple[Arm, ...]
    sweep: tuple[tuple[float, Arm], ...]  # alpha and its arm
    num_steps: int | None = None  # None: the pack's

    @property
    def prompts(self) -> list[str]:
        """In the order of the contexts."""
        return [context.prompt for context in self.contexts]

    def arms(self) -> dict[str, Arm]:
        """Every arm once, by key."""
        return {arm.key: arm for arm in (*self.table_1, *self.table_2, *(arm for _, arm in self.sweep))}

    @property
    def with_ablations(self) -> tuple[Arm, ...]:
        """The rows of Table 2: the method, then what is taken from it."""
        return (self.table_1[0], *self.table_2)


def _context(caption: str, prompt: str, **scene: str) -> Context:
    return Context(caption=caption, prompt=prompt, scene=scene)


CONTEXTS = (
    _context("a photo", "a photo of <person>"),
    _context("black glasses", "a photo of <person> wearing black glasses", glasses="glasses"),
    _context("in the snow", "a photo of <person> in the snow", place="snow"),
    _context("pencil sketch", "a pencil sketch of <person>", style="sketch"),
    _context("red beanie", "a photo of <person> wearing a red beanie", hat="beanie"),
    _context("golden crown", "a photo of <person> wearing a golden crown", hat="crown"),
    _context("on the beach", "a photo of <person> on the beach", place="beach"),
    _context("spacesuit, space", "a photo of <person> wearing a spacesuit in space", clothes="spacesuit",
             place="space"),
    _context("suit, library", "a photo of <person> wearing a suit with a red tie in a library", clothes="suit",
             place="library"),
    _context("smiling", "a photo of <person> smiling", expression="smiling"),
)  # fmt: skip

PAPER = Arm(key="paper", label="StableIdentity, paper", paper=(65.91, 29.03, 37.12, 35.46, 15.01, 24.92))
RELEASE = Arm(key="release", label="StableIdentity, release", preset="release")
FREE = Arm(
    key="free",
    label="Textual Inversion",
    changes={"words": "free", "loss": "noise"},
    paper=(61.30, 28.23, 31.30, 37.03, 10.75, 28.64),
)
BASIS = Arm(
    key="basis",
    label="Celeb-Basis",
    changes={"words": "basis", "loss": "noise"},
    paper=(63.69, 27.84, 25.55, 37.85, 13.41, 33.72),
)
_NONE = float("nan")
CLIP_FEATURES = Arm(
    key="clip", label="CLIP encoder", changes={"features": "clip"}, paper=(_NONE, 28.03, 35.73, _NONE, 14.81, 25.66)
)
NO_ADAIN = Arm(
    key="no_adain", label="without AdaIN", changes={"adain": False}, paper=(_NONE, 24.81, 47.81, _NONE, 13.73, 48.73)
)
NO_MASK = Arm(
    key="no_mask", label="without mask", changes={"mask": False}, paper=(_NONE, 28.15, 34.98, _NONE, 14.47, 25.12)
)
ONLY_NOISE = Arm(
    key="noise", label="only L_noise", changes={"loss": "noise"}, paper=(_NONE, 28.81, 36.55, _NONE, 14.97, 25.76)
)
ONLY_REC = Arm(
    key="rec", label="only L_rec", changes={"loss": "reconstruction"}, paper=(_NONE, 27.35, 30.69, _NONE, 13.89, 40.54)
)


def _alpha(alpha: float) -> tuple[float, Arm]:
    return alpha, Arm(key=f"alpha_{alpha:g}", label=f"alpha {alpha:g}", changes={"phase_boundary": alpha})


# The ends are arms already: alpha 0 leaves only L_noise, and alpha 1 only L_rec (but for one timestep of T).
SWEEP = ((0.0, ONLY_NOISE), *map(_alpha, (0.2, 0.4, 0.6, 0.8)), (1.0, ONLY_REC))

FULL = Plan(
    name="full",
    num_people=16,
    contexts=CONTEXTS,
    seeds=(0, 1, 2),
    table_1=(PAPER, RELEASE, FREE, BASIS),
    table_2=(CLIP_FEATURES, NO_ADAIN, NO_MASK, ONLY_NOISE, ONLY_REC),
    sweep=SWEEP,
)
QUICK = Plan(
    name="quick",
    num_people=4,
    contexts=CONTEXTS[:4],
    seeds=(0,),
    table_1=(PAPER, FREE),
    table_2=(NO_ADAIN, ONLY_REC),
    sweep=(),
    num_steps=60,
)


def people_of(plan: Plan) -> dict[str, Person]:
    """The held-out people by name."""
    numbers = range(FIRST_EVALUATED, FIRST_EVALUATED + plan.num_people)
    return {f"held-out {number}": held_out(number) for number in numbers}


def celebrities_of(plan: Plan) -> tuple[dict[str, Person], dict[str, Person]]:
    """Celebrities by name: those that are measured, and the other ones that FID compares with."""
    everybody = {" ".join(CELEBRITY_NAMES[i]): celebrity(i) for i in range(2 * plan.num_people)}
    names = list(everybody)
    half = plan.num_people
    return {name: everybody[name] for name in names[:half]}, {name: everybody[name] for name in names[half:]}


def write_portraits(path: Path, people: dict[str, Person]) -> None:
    """One plain portrait a person as Parquet (columns `image` JPEG bytes, `name`), the same at every call."""
    photos = []
    for number, person in enumerate(people.values()):
        scene = sample_scene(np.random.default_rng([0xE7A2, number]), context="plain")
        buffer = io.BytesIO()
        Image.fromarray(render(person, scene, size=PHOTO_PX).image).save(buffer, format="JPEG", quality=95)
        photos.append(buffer.getvalue())
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")  # what is there is complete, also after an interruption
    pq.write_table(pa.table({"image": pa.array(photos, pa.binary()), "name": pa.array(list(people))}), partial)
    partial.replace(path)


def draw_context(person: Person, context: Context, rng_key: Sequence[int], size: int) -> np.ndarray:
    """A real render of a person in a context, uint8 [size, size, 3] RGB; pose and light come from `rng_key`."""
    scene = sample_scene(np.random.default_rng([0xE7A3, *rng_key]), context="plain", **context.scene)
    return render(person, scene, size=size).image
