"""Poses and two people in one picture, of people as the method learned them: drawn by the engine, measured by the pack.

Where a head is, is measured with the pack's detector, beside its own error on real renders of the same people in the
same poses: it was made for photographs, and that error is larger than what it measures. The finer ruler of
`python -m studio pose_results` is a network trained on renders and no part of the pack.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from factory.draw.compose import compose
from factory.draw.images import ImageGenerator
from factory.faces.detect import FaceRecogniser
from factory.faces.pose import HeadPose, draw_skeleton
from factory.measure.clip import ClipScorer
from factory.measure.formulas import Interval, bootstrap, cosine, mean_of, nearest_share
from factory.prompts import PERSON
from factory.records import Identity, ImageRequest
from factory.settings import evaluate_settings, generate_settings
from studio.results.charts import picture_grid
from studio.results.findings import Bar
from studio.results.poses import CONTEXTS, POSES, apart, detected, detector, real_render
from studio.results.protocol import people_of
from studio.results.work import Cast, Work

HEADING = "## Poses and two people"
PAIR_PROMPTS = (f"a photo of {PERSON} and <person:other>", f"{PERSON} and <person:other> on the beach")
_WEBP: dict[str, Any] = {"quality": 85, "method": 6}
_ON_THE_SHEET = 4  # people, and pairs

Figures = Mapping[str, Interval]


@dataclass(frozen=True, slots=True)
class _Drawn:
    """Pictures uint8 [H, W, 3], one person or pair after the other."""

    posed: list[np.ndarray]  # of people x contexts x poses
    free: list[np.ndarray]  # of people x contexts
    pairs: list[np.ndarray]  # of pairs x prompts x seeds: the first person left, the second one right


def figures(work: Work, cast: Cast, gallery: np.ndarray) -> tuple[Figures, bool]:
    """What is measured, each with its interval over people or pairs, and whether that was done just now.

    `gallery` is the judge's embedding of each person's photo, [P, E]. Kept in the work's folder with the sheet of
    pictures, scenes.webp.
    """
    kept, key = work.folder / "scenes.json", _key(work, cast)
    if kept.exists() and (known := json.loads(kept.read_text()))["key"] == key:
        return {name: Interval(**cell) for name, cell in known["figures"].items()}, False
    drawn = _draw(work, cast)
    made = _posed(work, cast, drawn, gallery) | _pairs(work, cast, drawn, gallery)
    _sheet(cast, drawn, work).save(work.folder / "scenes.webp", **_WEBP)
    kept.write_text(json.dumps({"key": key, "figures": {name: asdict(cell) for name, cell in made.items()}}, indent=1))
    return made, True


def bars(measured: Figures) -> list[Bar]:
    """Those figures that have a bar."""
    asked = {
        "front_to_free": ("a frontal pose asked for / none, Face Sim", 0.95),
        "nearest": ("all poses: nearest of all people is the right one", 0.85),
        "clip_t_to_free": ("all poses / none asked for, CLIP-T", 0.95),
        "pair_nearest": ("two people: nearest of all people is the right one, in each half", 0.85),
        "pair_to_free": ("two people / pictures of one, Face Sim", 0.85),
    }
    return [Bar(what=what, bar=bar, measured=measured[name]) for name, (what, bar) in asked.items()]


def sentences(measured: Figures) -> str:
    """What has no bar, in words."""
    at = {name: f"{cell.value:.2f} [{cell.low:.2f}, {cell.high:.2f}]" for name, cell in measured.items()}
    return (
        f"Where eyes, nose and mouth should be in the pose asked for, the pack's detector finds them {at['px']} px of "
        f"128 away (median of a person's pictures); on real renders of the same people in these poses it is itself "
        f"{at['px_real']} px off, so that this is what it can tell; between picture and render it sees "
        f"{at['px_between']} px. Without a pose asked for, {measured['nearest_free'].value:.0%} are nearest to the "
        f"right person. In pictures of two, likeness to the right one is {at['pair_own']}, to the other one "
        f"{at['pair_other']}."
    )


def _key(work: Work, cast: Cast) -> str:
    parts = [work.pack.model_fingerprint(), generate_settings(work.pack).model_dump_json(), work.plan.name]
    return hashlib.sha256("\n".join([*parts, *cast.ids(["paper"])]).encode()).hexdigest()[:16]


def _contexts(work: Work) -> Sequence[tuple[str, dict[str, str]]]:
    return CONTEXTS[:1] if work.plan.name == "quick" else CONTEXTS[:2]


def _couples(cast: Cast) -> list[tuple[int, int]]:
    """Everybody once, with a neighbour."""
    return [(k, k + 1) for k in range(0, len(cast.faces) - 1, 2)]


def _draw(work: Work, cast: Cast) -> _Drawn:
    people, pack, config = cast.identities["paper"], work.pack, generate_settings(work.pack)

    def one(who: Identity, prompt: str, seed: int, pose: HeadPose | None) -> ImageRequest:
        poses = [] if pose is None else [pose]
        return compose(prompt, seed, config, pack=pack, own=who, find=lambda _: who, poses=poses)

    def two(a: Identity, b: Identity, prompt: str, seed: int) -> ImageRequest:
        return compose(prompt, seed, config, pack=pack, own=a, find=lambda _: b)

    numbered = [(seed, who, prompt) for (seed, who), (prompt, _) in product(enumerate(people), _contexts(work))]
    posed = [one(who, prompt, seed, pose) for seed, who, prompt in numbered for pose in POSES]
    free = [one(who, prompt, seed, None) for seed, who, prompt in numbered]
    pairs = [
        two(people[a], people[b], prompt, seed)
        for (a, b), prompt, seed in product(_couples(cast), PAIR_PROMPTS, work.plan.seeds[:2])
    ]
    pictures = ImageGenerator(pack, max_batch=16).generate([*posed, *free, *pairs])
    end = len(posed) + len(free)
    return _Drawn(pictures[: len(posed)], pictures[len(posed) : end], pictures[end:])


def _posed(work: Work, cast: Cast, drawn: _Drawn, gallery: np.ndarray) -> dict[str, Interval]:
    num, contexts = len(cast.faces), _contexts(work)
    people = people_of(work.plan)
    truth = [
        real_render(people[face.name], pose, context)
        for face, (_, context), pose in product(cast.faces, contexts, POSES)
    ]
    scan = detector(work.pack)
    points = np.stack([marks for _, marks in truth])
    seen, seen_real = (
        np.stack([detected(scan, image) for image in images]) for images in (drawn.posed, [image for image, _ in truth])
    )
    found_NE, free_NE = (_embedded(work, images, gallery) for images in (drawn.posed, drawn.free))
    likeness_PCK = _own(found_NE, gallery, num).reshape(num, len(contexts), len(POSES))
    clip = ClipScorer(work.pack)
    word = evaluate_settings(work.pack).class_word
    texts = clip.texts([prompt.replace(PERSON, word) for prompt, _ in contexts] * num)
    follows = cosine(clip.images(drawn.posed), texts.repeat(len(POSES), axis=0)).reshape(num, -1).mean(1)
    follows_free = cosine(clip.images(drawn.free), texts).reshape(num, -1).mean(1)
    free = mean_of(_own(free_NE, gallery, num))
    pixels = {"px": (seen, points), "px_real": (seen_real, points), "px_between": (seen, seen_real)}
    medians = {name: np.nanmedian(apart(*both).reshape(num, -1), axis=1) for name, both in pixels.items()}
    return {name: _mean(values) for name, values in medians.items()} | {
        "front_to_free": _ratio(mean_of(likeness_PCK[..., 0]), free),
        "nearest": _mean(_nearest(found_NE, gallery, num)),
        "nearest_free": _mean(_nearest(free_NE, gallery, num)),
        "clip_t_to_free": _ratio(follows, follows_free),
        "face_sim": _mean(mean_of(likeness_PCK.reshape(num, -1))),
        "face_sim_free": _mean(free),
    }


def _pairs(work: Work, cast: Cast, drawn: _Drawn, gallery: np.ndarray) -> dict[str, Interval]:
    couples = _couples(cast)
    half = drawn.pairs[0].shape[1] // 2
    found_NE = _embedded(work, [side for picture in drawn.pairs for side in _halves(picture, half)], gallery)
    found_KM2E = found_NE.reshape(len(couples), -1, 2, gallery.shape[1])
    free_NE = _embedded(work, drawn.free, gallery)
    alone = mean_of(_own(free_NE, gallery, len(cast.faces)))
    own, other, nearest, single = [], [], [], []
    for found_M2E, couple in zip(found_KM2E, couples, strict=True):
        sides = [(found_M2E[:, side], couple[side], couple[1 - side]) for side in (0, 1)]
        own.append(mean_of(np.concatenate([faces @ gallery[right] for faces, right, _ in sides])))
        other.append(mean_of(np.concatenate([faces @ gallery[wrong] for faces, _, wrong in sides])))
        nearest.append(np.mean([nearest_share(faces, gallery, right) for faces, right, _ in sides]))
        single.append(alone[list(couple)].mean())
    return {
        "pair_nearest": _mean(np.array(nearest)),
        "pair_own": _mean(np.array(own)),
        "pair_other": _mean(np.array(other)),
        "pair_to_free": _ratio(np.array(own), np.array(single)),
    }


def _halves(picture: np.ndarray, half: int) -> list[np.ndarray]:
    return [np.ascontiguousarray(side) for side in (picture[:, :half], picture[:, half:])]


def _embedded(work: Work, images: Sequence[np.ndarray], gallery: np.ndarray) -> np.ndarray:
    """The judge's embedding of each picture's largest face, [N, E]; NaN where there is none."""
    judge = FaceRecogniser(work.pack, num_threads=os.cpu_count() or 1)
    nobody = np.full(gallery.shape[1], np.nan, np.float32)
    found = [judge.embed(image) for image in images]
    return np.stack([nobody if face is None else face for face in found])


def _own(faces_NE: np.ndarray, gallery: np.ndarray, num: int) -> np.ndarray:
    """Likeness of each person's pictures to the own photo, [P, N / P]."""
    own: np.ndarray = np.einsum("pne,pe->pn", faces_NE.reshape(num, -1, gallery.shape[1]), gallery)
    return own


def _nearest(faces_NE: np.ndarray, gallery: np.ndarray, num: int) -> np.ndarray:
    by_person = np.split(faces_NE, num)
    return np.array([nearest_share(faces, gallery, own) for own, faces in enumerate(by_person)])


def _mean(values: np.ndarray) -> Interval:
    return bootstrap(lambda who: mean_of(values[who]), len(values))


def _ratio(top: np.ndarray, bottom: np.ndarray) -> Interval:
    return bootstrap(lambda who: mean_of(top[who]) / mean_of(bottom[who]), len(top))


def _sheet(cast: Cast, drawn: _Drawn, work: Work) -> Image.Image:
    """A few people in every pose, the skeletons above; and pictures of two, each in two cells."""
    contexts, side = len(_contexts(work)), work.pack.resolution
    shown = cast.faces[:_ON_THE_SHEET]
    rows: dict[str, Sequence[np.ndarray]] = {
        "asked for": [draw_skeleton([pose], side, side) for pose in POSES] + [np.full((side, side, 3), 255, np.uint8)]
    }
    for number, face in enumerate(shown):
        first = number * contexts * len(POSES)
        rows[face.name] = [*drawn.posed[first : first + len(POSES)], drawn.free[number * contexts]]
    each = len(drawn.pairs) // max(1, len(_couples(cast)))
    for number, (a, b) in enumerate(_couples(cast)[:_ON_THE_SHEET]):
        pictures = drawn.pairs[number * each :][: min(each, 4)]
        rows[f"{cast.faces[a].name}, {cast.faces[b].name}"] = [
            cell for picture in pictures for cell in _halves(picture, picture.shape[1] // 2)
        ]
    captions = [*map(_caption, POSES), "no pose asked for"]
    return picture_grid(
        rows, captions, title="Poses and pictures of two people", subtitle="learned from one photo; nothing picked"
    )


def _caption(pose: HeadPose) -> str:
    told = [f"{name} {value:g}" for name, value in asdict(pose).items() if value != getattr(HeadPose(), name)]
    return "front" if not told else told[0] if len(told) == 1 else f"{told[0]}, shifted"


def copy_sheet(work: Work, folder: Path) -> None:
    """scenes.webp, beside the page."""
    (folder / "scenes.webp").write_bytes((work.folder / "scenes.webp").read_bytes())
