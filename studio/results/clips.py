"""What clips of people as the method learned them are worth: likeness frame by frame, how frames hang together, and
whether the motion asked for is the one that is seen.

Everything stands beside pictures of the same prompts drawn one by one, and rendered clips of the same people. The
figures are kept in docs/results as clips.json and clips.md, with a strip of frames, clips.webp.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from factory.draw.clips import decode_mp4
from factory.draw.compose import compose_clip
from factory.faces.detect import FaceRecogniser
from factory.ids import image_id, video_id
from factory.measure.clip import ClipScorer
from factory.measure.formulas import Interval, bootstrap, cosine, mean_of
from factory.pack import Pack
from factory.prompts import PERSON
from factory.records import Identity, ImageRequest
from factory.settings import animate_settings, evaluate_settings, generate_settings
from factory.store.queries import clips, pictures
from factory.store.rows import image_from_row
from factory.store.tables import Store
from studio.results.charts import picture_grid
from studio.results.findings import Bar
from studio.results.motion_ruler import MotionRuler, Parsed, flicker, rendered
from studio.training.dataset import held_out
from studio.world.motions import MOTIONS
from studio.world.people import Person

CLIP_SEED = 0
SINGLE_SEEDS = (1, 2, 3, 4)  # pictures of the same prompt, each for itself
REFERENCES = range(60, 68)  # held-out people whose rendered clips are the ruler's; none of them is measured
_PLACES = {"snow": " in the snow", "waves": " on the beach"}
_BACKGROUND_MOVES = ("snow", "waves")
_SHOWN = 8  # frames on the strip
_WEBP: dict[str, Any] = {"quality": 85, "method": 6}


def prompt_of(motion: str) -> str:
    """The prompt that asks for a motion."""
    return f"a photo of {PERSON}{_PLACES.get(motion, '')} {MOTIONS[motion].text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A person in a motion. Likeness is the judge's cosine, NaN where a face was not found."""

    motion: str
    seen: str  # by the ruler
    seen_real: str  # in the rendered clip: the ruler's own error
    face_sim: list[float]  # of each frame to the photo
    face_sim_single: list[float]  # of pictures of the same prompt
    near: float  # mean likeness of neighbouring frames
    near_real: float  # the same of the rendered clip
    near_single: float  # of any two of the single pictures
    ends: float  # likeness of the first and last frame
    ends_real: float
    clip_t: float
    clip_t_single: float
    flicker: float  # levels of 255 of a background that should be still; NaN where it should move
    flicker_real: float


class ClipMeasurer:
    """The pack's judge and CLIP, and the ruler of motions."""

    def __init__(self, pack: Pack, references: Sequence[Person] | None = None) -> None:
        self._clip = ClipScorer(pack)
        self._judge = FaceRecogniser(pack, num_threads=os.cpu_count() or 1)
        self.ruler = MotionRuler(
            pack, [held_out(number) for number in REFERENCES] if references is None else references
        )
        self._word = evaluate_settings(pack).class_word

    def measure(
        self, motion: str, frames: np.ndarray, singles: Sequence[np.ndarray], real: np.ndarray, photo: np.ndarray
    ) -> Cell:
        """Clips uint8 [F, S, S, 3], drawn and rendered; single pictures; the judge's embedding of the photo [E]."""
        drawn_FE, single_NE, real_FE = (self._embedded(images, photo) for images in (frames, singles, real))
        [text] = self._clip.texts([prompt_of(motion).replace(PERSON, self._word)])
        follows, follows_single = (cosine(self._clip.images(list(images)), text) for images in (frames, singles))
        parsed, parsed_real = self.ruler.parse(frames), self.ruler.parse(real)
        return Cell(
            motion=motion,
            seen=self.ruler.name(parsed),
            seen_real=self.ruler.name(parsed_real),
            face_sim=(drawn_FE @ photo).tolist(),
            face_sim_single=(single_NE @ photo).tolist(),
            near=_alike(drawn_FE, pairwise(range(len(drawn_FE)))),
            near_real=_alike(real_FE, pairwise(range(len(real_FE)))),
            near_single=_alike(single_NE, combinations(range(len(single_NE)), 2)),
            ends=_alike(drawn_FE, [(0, -1)]),
            ends_real=_alike(real_FE, [(0, -1)]),
            clip_t=float(follows.mean()),
            clip_t_single=float(follows_single.mean()),
            flicker=_still(motion, parsed),
            flicker_real=_still(motion, parsed_real),
        )

    def _embedded(self, images: Sequence[np.ndarray] | np.ndarray, photo: np.ndarray) -> np.ndarray:
        nobody = np.full(len(photo), np.nan, np.float32)
        return np.stack([nobody if face is None else face for face in map(self._judge.embed, images)])


def _alike(faces_NE: np.ndarray, pairs: Any) -> float:
    return float(mean_of(np.array([faces_NE[a] @ faces_NE[b] for a, b in pairs])))


def _still(motion: str, clip: Parsed) -> float:
    return float("nan") if motion in _BACKGROUND_MOVES else flicker(clip)


def cells(
    store: Store,
    pack: Pack,
    cast: Mapping[str, tuple[Identity, Person, np.ndarray]],
    motions: Sequence[str],
    measurer: ClipMeasurer,
) -> tuple[list[list[Cell]], dict[str, np.ndarray]]:
    """Every person in every motion, from the tables `videos` and `images`; and the clips of the strip, a row a motion.

    `cast`: by name the learned identity, the person, and the judge's embedding of the photo.
    """
    measured, strip = [], {}
    for number, (name, (who, person, photo)) in enumerate(cast.items()):
        own = []
        for place, motion in enumerate(motions):
            frames, singles = _clip(store, pack, who, motion), _singles(store, pack, who, motion)
            real = rendered(person, motion, [0xC11D, number], frames.shape[1])
            own.append(measurer.measure(motion, frames, singles, real, photo))
            if place % len(cast) == number:
                strip[f"{name}, {motion}"] = frames
        measured.append(own)
        print(f"clips: {name} measured", flush=True)
    order = {motion: place for place, motion in enumerate(motions)}
    return measured, dict(sorted(strip.items(), key=lambda row: order[row[0].rsplit(", ", 1)[1]]))


def _clip(store: Store, pack: Pack, who: Identity, motion: str) -> np.ndarray:
    config = animate_settings(pack)
    asked = compose_clip(prompt_of(motion), CLIP_SEED, config, pack=pack, own=who, find=lambda _: who)
    [row] = clips(store, [video_id(asked, pack.clip_fingerprint())], ["video_id", "video"])
    return decode_mp4(row["video"])


def _singles(store: Store, pack: Pack, who: Identity, motion: str) -> list[np.ndarray]:
    config, model = generate_settings(pack), pack.model_fingerprint()
    asked = [ImageRequest(identity=who, prompt=prompt_of(motion), seed=seed, config=config) for seed in SINGLE_SEEDS]
    return [image_from_row(row).image for row in pictures(store, [image_id(one, model) for one in asked]).to_pylist()]


def figures(rows: Sequence[Sequence[Cell]]) -> dict[str, Interval]:
    """Figures over people, a row of cells each, with their intervals."""

    def per_person(value: Any) -> np.ndarray:
        return np.array([mean_of(np.array([value(cell) for cell in own], np.float64)) for own in rows])

    def mean(value: Any) -> Interval:
        values = per_person(value)
        return bootstrap(lambda who: mean_of(values[who]), len(values))

    def ratio(top: Any, bottom: Any) -> Interval:
        a, b = per_person(top), per_person(bottom)
        return bootstrap(lambda who: mean_of(a[who]) / mean_of(b[who]), len(a))

    def placed(cell: Cell) -> tuple[float, float]:
        return cell.near - cell.near_single, cell.near_real - cell.near_single

    def worst(cell: Cell) -> float:
        """Of a clip, its worst frame against its mean; a frame without a face is like nobody."""
        return float(np.nan_to_num(np.array(cell.face_sim), nan=0.0).min() / mean_of(np.array(cell.face_sim)))

    return {
        "face_sim": mean(lambda cell: mean_of(np.array(cell.face_sim))),
        "face_sim_single": mean(lambda cell: mean_of(np.array(cell.face_sim_single))),
        "face_sim_ratio": ratio(
            lambda cell: mean_of(np.array(cell.face_sim)), lambda cell: mean_of(np.array(cell.face_sim_single))
        ),
        "worst": mean(worst),
        "found": mean(lambda cell: np.isfinite(cell.face_sim).mean()),
        "near": mean(lambda cell: cell.near),
        "near_real": mean(lambda cell: cell.near_real),
        "near_single": mean(lambda cell: cell.near_single),
        "near_placed": ratio(lambda cell: placed(cell)[0], lambda cell: placed(cell)[1]),
        "ends": mean(lambda cell: cell.ends),
        "ends_real": mean(lambda cell: cell.ends_real),
        "clip_t_ratio": ratio(lambda cell: cell.clip_t, lambda cell: cell.clip_t_single),
        "flicker": mean(lambda cell: cell.flicker),
        "flicker_real": mean(lambda cell: cell.flicker_real),
        "seen": mean(lambda cell: cell.seen == cell.motion),
        "seen_real": mean(lambda cell: cell.seen_real == cell.motion),
    }


def bars(measured: Mapping[str, Interval]) -> list[Bar]:
    """Those figures that have a bar."""
    asked = {
        "face_sim_ratio": ("frames / single pictures of the same prompt, Face Sim", 0.95),
        "worst": ("worst frame / mean of its clip, Face Sim", 0.9),
        "near_placed": ("neighbouring frames: 1 as in rendered clips, 0 as pictures drawn one by one", 0.8),
        "seen": ("the motion seen is the one asked for", 0.8),
    }
    return [Bar(what=what, bar=bar, measured=measured[name]) for name, (what, bar) in asked.items()]


def page(rows: Sequence[Sequence[Cell]]) -> str:
    """clips.md."""
    at, num = figures(rows), len(rows)
    told = {name: f"{cell.value:.3f} [{cell.low:.3f}, {cell.high:.3f}]" for name, cell in at.items()}
    lines = [
        "# Clips",
        "",
        f"Made by `identity-factory evaluate --only-clips`: {num} held-out people, learned from one photo each, "
        f"{len(rows[0])} motions, a clip each of {len(rows[0][0].face_sim)} frames. In brackets: 95 % interval over "
        "people.",
        "",
        "| what | bar | measured |  |",
        "| --- | --- | --- | --- |",
    ]
    for bar in bars(at):
        cell = f"{bar.measured.value:.3f} [{bar.measured.low:.3f}, {bar.measured.high:.3f}]"
        lines.append(f"| {bar.what} | >= {bar.bar:g} | {cell} | {bar.verdict} |")
    lines += [
        "",
        f"Face Sim of frames {told['face_sim']}, of single pictures {told['face_sim_single']}; a face in "
        f"{at['found'].value:.1%} of the frames. Likeness of neighbouring frames {told['near']}, in rendered clips "
        f"{told['near_real']}, of single pictures {told['near_single']}; of first and last frame {told['ends']}, in "
        f"rendered clips {told['ends_real']}. CLIP-T against single pictures {told['clip_t_ratio']}. A still "
        f"background changes by {told['flicker']} levels of 255 from frame to frame, in rendered clips "
        f"{told['flicker_real']} (moving light changes it, too).",
        "",
        f"The motion seen is that of the nearest rendered clip of {len(REFERENCES)} other people, or that of a clip at "
        f"rest. On rendered clips of the measured people this ruler is itself right in {told['seen_real']}: no clip "
        "can be expected to do better.",
        "",
        "| motion | seen as asked | of rendered clips | seen instead | Face Sim |",
        "| --- | --- | --- | --- | --- |",
    ]
    for own in zip(*rows, strict=True):
        motion = own[0].motion
        right, right_real = (sum(getattr(cell, name) == motion for cell in own) for name in ("seen", "seen_real"))
        others = Counter(cell.seen for cell in own if cell.seen != motion).most_common()
        instead = ", ".join(f"{name} {times}" for name, times in others) or "-"
        likeness = float(mean_of(np.array([cell.face_sim for cell in own]).ravel()))
        lines.append(
            f"| {MOTIONS[motion].text} | {right} of {num} | {right_real} of {num} | {instead} | {likeness:.3f} |"
        )
    return "\n".join([*lines, "", "![every second frame of a clip of each motion](clips.webp)"]) + "\n"


def write(rows: Sequence[Sequence[Cell]], strip: Mapping[str, np.ndarray], folder: Path) -> None:
    """clips.json, clips.md and clips.webp."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = {
        "figures": {name: asdict(cell) for name, cell in figures(rows).items()},
        "cells": [[asdict(cell) for cell in own] for own in rows],
    }
    text = json.dumps(numbers, indent=1).replace("NaN", "null")
    (folder / "clips.json").write_text(text + "\n", encoding="utf-8")
    (folder / "clips.md").write_text(page(rows), encoding="utf-8")
    shown = {name: list(frames[:: max(1, len(frames) // _SHOWN)][:_SHOWN]) for name, frames in strip.items()}
    step = len(next(iter(strip.values()))) // _SHOWN
    captions = [f"frame {number * max(1, step) + 1}" for number in range(_SHOWN)]
    picture_grid(shown, captions, title="Clips", subtitle="learned from one photo; one seed, nothing picked").save(
        folder / "clips.webp", **_WEBP
    )
