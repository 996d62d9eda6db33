"""What sculpting does, measured on held-out people: likeness of a head's views beside ControlNet pictures of the same
poses, how alike neighbouring views are, and whether the text is followed; and a strip to look at.

    python -m studio.results.heads --people 101-106 --arms reconstruction,ism,uncontrolled,crown,painting
    python -m studio.results.heads --people 101-102 --arms celebrity,textual_inversion,celeb_basis,ours
The second line is the paper's Figure 8: words learned from one photo in three ways, beside celebrities by name. Work is
kept under --out; what is there is not done again, and with --results it is added to the figures that are there.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from factory.config import EvaluateConfig, SculptConfig
from factory.draw.images import ImageGenerator
from factory.draw.sculpt import Sculptor, show
from factory.draw.splat_files import from_ply, to_ply
from factory.draw.splats import View
from factory.faces.align import FFHQ_512, align, similarity
from factory.faces.detect import FaceRecogniser
from factory.faces.pose import HeadPose, draw_skeleton
from factory.faces.prepare import Preparer
from factory.learn.celebs import celeb_prior
from factory.learn.trainer import load_trainer
from factory.measure.clip import ClipScorer
from factory.measure.formulas import cosine
from factory.pack import load_pack
from factory.records import TEXT_ENCODER, Identity, ImageRequest, PoseControl, SculptRequest
from factory.settings import generate_settings, train_settings
from studio.results.bounds import name_words
from studio.results.protocol import BASIS, FREE, PHOTO_PX
from studio.training.build import PACK
from studio.training.dataset import PICTURE_PX, held_out
from studio.training.words import true_words
from studio.world.people import CELEBRITY_NAMES, Person, celebrity
from studio.world.render import render
from studio.world.scenes import sample_scene

YAWS = (-30, -15, 0, 15, 30)  # degrees, of the likeness
NEIGHBOURS = (-30, -20, -10, 0, 10, 20, 30)  # degrees, of the likeness of one view to the next
PROMPT = "a photo of <person>"
_FROM_THE_FRONT = sample_scene(np.random.default_rng(5), context="plain", smile=0.1, **asdict(HeadPose()))
PLAIN = "reconstruction"  # the arm that others are compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """A row of the table."""

    prompt: str = PROMPT
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the SculptConfig
    words: Literal["true", "name", "learned"] = "true"
    method: Mapping[str, Any] = field(default_factory=dict)  # of the MethodConfig, where words are learned
    says: bool = False  # whether its prompt says more than the plain one's


ARMS = {
    PLAIN: Arm(),
    "ism": Arm(changes={"objective": "ism"}),
    "uncontrolled": Arm(changes={"control": False}),
    "crown": Arm(prompt=f"{PROMPT} wearing a golden crown", says=True),
    "painting": Arm(prompt="an oil painting of <person>", says=True),
    "celebrity": Arm(words="name"),
    "textual_inversion": Arm(words="learned", method=FREE.changes),
    "celeb_basis": Arm(words="learned", method=BASIS.changes),
    "ours": Arm(words="learned"),
}
TOLD = ("crown", "painting", "celebrity", "textual_inversion", "celeb_basis", "ours")  # in heads_others.webp
COLUMNS = (
    *("arm", "people", "Face Sim, head", "Face Sim, pictures", "ratio", "neighbours, head", "neighbours, pictures"),
    *("views without a face", "CPU minutes a head", "CLIP-T, head", "CLIP-T of plain heads, same text"),
)


def _person(number: int, arm: Arm) -> Person:
    return celebrity(number % 100) if arm.words == "name" else held_out(number)


def _photo(person: Person) -> tuple[np.ndarray, np.ndarray]:
    """A plain render of a person from the front, and the aligned crop of its face."""
    made = render(person, _FROM_THE_FRONT)
    return made.image, align(made.image, similarity(made.landmarks, FFHQ_512 * (PICTURE_PX / 512)), PICTURE_PX)


class Measuring:
    """The pack's sculptor, pictures and judge."""

    def __init__(self, pack: Path = PACK) -> None:
        self.pack = load_pack(pack)
        self.sculptor, self.pictures = Sculptor(self.pack), ImageGenerator(self.pack)
        self._judge, self._clip = FaceRecogniser(self.pack), ClipScorer(self.pack)

    def _identity(self, number: int, key: str, folder: Path) -> Identity:
        """A held-out person by true words or by words learned from one photo, or a celebrity by name."""
        arm, name = ARMS[key], f"held-out {number}"
        if arm.words == "true":  # what is measured then is the sculpting, not the learning
            [words] = true_words(self.pack, [held_out(number)])
        elif arm.words == "name":
            base, name = self.pictures.base, " ".join(CELEBRITY_NAMES[number % 100])
            [words] = name_words(celeb_prior(self.pack.celebrities, base.tokenizer, base.token_embedding), [name])
        else:
            kept = folder / f"{key}_{number}.npy"
            if not kept.exists():
                np.save(kept, self._learned(number, arm, name))
            words = np.load(kept)
        return Identity(
            identity_id=f"{number:016x}", face_id="", photo_id="", name=name, words={TEXT_ENCODER: words},
            pack=self.pack.name, fingerprint=self.pack.fingerprint(), preset="custom", config="{}", num_steps=0,
            final_loss=0.0, train_s=0.0, created_at="",
        )  # fmt: skip

    def _learned(self, number: int, arm: Arm, name: str) -> np.ndarray:
        buffer = io.BytesIO()
        Image.fromarray(render(held_out(number), _FROM_THE_FRONT, size=PHOTO_PX).image).save(buffer, "PNG")
        face, *_ = Preparer(self.pack).prepare(buffer.getvalue(), name)
        [identity] = load_trainer(self.pack).train([face], train_settings(self.pack, "paper", arm.method))
        return np.asarray(identity.words[TEXT_ENCODER])

    def head(self, number: int, arm: str, folder: Path) -> dict[str, Any]:
        """Sculpts a person, if that has not been done, and measures the head; all of it is kept in `folder`."""
        kept = folder / f"{arm}_{number}.json"
        if kept.exists():
            return dict(json.loads(kept.read_text()))
        of = ARMS[arm]
        photo, crop = _photo(_person(number, of))
        who, config, prompt = self._identity(number, arm, folder), SculptConfig(**of.changes), of.prompt
        wall, cpu = time.monotonic(), time.process_time()
        asked = SculptRequest(identity=who, prompt=prompt, config=config, crop=crop)
        splats = self.sculptor.sculpt(asked, on_step=_say(f"{arm} {number}"))
        wall, cpu = time.monotonic() - wall, time.process_time() - cpu
        (folder / f"{arm}_{number}.ply").write_bytes(to_ply(splats))
        drawn = self._posed(who, prompt, number)
        shown = {yaw: show(splats, [View(yaw=yaw)], PICTURE_PX)[0] for yaw in drawn}
        measured = {
            "arm": arm,
            "person": number,
            "prompt": prompt,
            "num_gaussians": len(splats),
            "wall_s": round(wall, 1),
            "cpu_s": round(cpu, 1),
            "head": self._figures(shown, photo),
            "pictures": self._figures(drawn, photo),
            "clip_t": self._clip_t(prompt, [shown[yaw] for yaw in YAWS]),
        }
        plain = folder / f"{PLAIN}_{number}.ply"
        if of.says and plain.exists():
            views = show(from_ply(plain.read_bytes()), [View(yaw=yaw) for yaw in YAWS], PICTURE_PX)
            measured["plain_clip_t"] = self._clip_t(prompt, list(views))
        strip = [
            np.concatenate([drawn[yaw] for yaw in NEIGHBOURS], 1),
            np.concatenate([shown[yaw] for yaw in NEIGHBOURS], 1),
        ]
        Image.fromarray(np.concatenate(strip)).save(folder / f"{arm}_{number}.png")
        kept.write_text(json.dumps(measured, indent=1))
        return measured

    def _posed(self, who: Identity, prompt: str, seed: int) -> dict[int, np.ndarray]:
        """ControlNet pictures by yaw, all from the same noise."""
        yaws = sorted({*YAWS, *NEIGHBOURS})
        heads = [draw_skeleton([HeadPose(yaw=yaw)], PICTURE_PX, PICTURE_PX) for yaw in yaws]
        config = generate_settings(self.pack)
        requests = [
            ImageRequest(identity=who, prompt=prompt, seed=seed, config=config, pose=PoseControl(skeleton=head))
            for head in heads
        ]
        return dict(zip(yaws, self.pictures.generate(requests), strict=True))

    def _clip_t(self, prompt: str, views: Sequence[np.ndarray]) -> float:
        """Mean cosine of views to the prompt with <person> written out."""
        texts = self._clip.texts([prompt.replace("<person>", EvaluateConfig().class_word)] * len(views))
        return round(float(cosine(self._clip.images(views), texts).mean()), 4)

    def _figures(self, views: Mapping[int, np.ndarray], photo: np.ndarray) -> dict[str, Any]:
        """Face Sim by YAWS, and cosine of neighbours; None where the judge finds no face."""
        own = self._judge.embed(photo, aligned=True)
        faces = {yaw: self._judge.embed(view) for yaw, view in views.items()}
        sims = [_cosine(faces[yaw], own) for yaw in YAWS]
        pairs = [_cosine(faces[a], faces[b]) for a, b in pairwise(NEIGHBOURS)]
        return {"face_sim": sims, "neighbours": pairs}


def _cosine(a: np.ndarray | None, b: np.ndarray | None) -> float | None:
    return None if a is None or b is None else round(float(a @ b), 4)


def _say(what: str) -> Any:
    def step(done: int, of: int) -> None:
        if done % 60 == 0:
            print(f"{what}: {done}/{of}", flush=True)

    return step


def _mean(rows: Sequence[Mapping[str, Any]], who: str, what: str) -> float:
    """Over people; a view without a face is left out."""
    values = [value for row in rows for value in row[who][what] if value is not None]
    return float(np.mean(values)) if values else float("nan")


def _average(rows: Sequence[Mapping[str, Any]], what: str) -> str:
    values = [row[what] for row in rows if what in row]
    return f"{np.mean(values):.3f}" if len(values) == len(rows) else "-"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown, a line an arm."""
    lines = [
        f"| {' | '.join(COLUMNS)} |",
        "|---" * len(COLUMNS) + "|",
    ]
    for arm in ARMS:
        own = [row for row in rows if row["arm"] == arm]
        if not own:
            continue
        head, pictures = _mean(own, "head", "face_sim"), _mean(own, "pictures", "face_sim")
        near = [_mean(own, who, "neighbours") for who in ("head", "pictures")]
        lost = sum(value is None for row in own for value in row["head"]["face_sim"])
        minutes = float(np.mean([row["cpu_s"] for row in own])) / 60
        cells = [arm, str(len(own)), f"{head:.3f}", f"{pictures:.3f}", f"{head / pictures:.3f}"]
        cells += [f"{near[0]:.3f}", f"{near[1]:.3f}", f"{lost} of {5 * len(own)}", f"{minutes:.1f}"]
        cells += [_average(own, "clip_t"), _average(own, "plain_clip_t")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def strip(folder: Path, people: Sequence[int], arm: str = PLAIN) -> np.ndarray:
    """Heads as they turn, a row a person, the photo (of a celebrity, a render) in front: uint8 [H, W, 3]."""
    rows = []
    for number in people:
        splats = from_ply((folder / f"{arm}_{number}.ply").read_bytes())
        views = show(splats, [View(yaw=yaw) for yaw in NEIGHBOURS], PICTURE_PX)
        rows.append(np.concatenate([_photo(_person(number, ARMS[arm]))[0], *views], 1))
    return np.concatenate(rows)


def write(folder: Path, results: Path) -> None:
    """heads.json and heads.md of all that is in `folder` and was there before; heads.webp where it holds six plain
    heads, heads_others.webp where it holds heads of every arm of TOLD, a few rows each."""
    places = [results / "heads.json", *sorted(folder.glob("*_*.json"))]
    found = [json.loads(file.read_text()) for file in places if file.exists()]
    rows = {(row["arm"], row["person"]): row for each in found for row in (each if isinstance(each, list) else [each])}
    order = sorted(rows.values(), key=lambda row: (list(ARMS).index(row["arm"]), row["person"]))
    (results / "heads.json").write_text(json.dumps(order, indent=1) + "\n")
    (results / "heads.md").write_text(table(order))
    people = [number for arm, number in rows if arm == PLAIN and (folder / f"{PLAIN}_{number}.ply").exists()]
    if len(people) >= 6:
        Image.fromarray(strip(folder, people)).save(results / "heads.webp", quality=85)
    others = {arm: [n for of, n in rows if of == arm and (folder / f"{arm}_{n}.ply").exists()] for arm in TOLD}
    if all(others.values()):
        shown = np.concatenate([strip(folder, numbers, arm) for arm, numbers in others.items()])
        Image.fromarray(shown).save(results / "heads_others.webp", quality=85)
    print(table(order))


def main() -> None:
    """The command."""
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--people", default="101-106")
    given.add_argument("--arms", default=",".join(ARMS))
    given.add_argument("--out", type=Path, default=Path("out/heads"))
    given.add_argument("--results", type=Path)
    arguments = given.parse_args()
    torch.set_num_threads(1)
    arguments.out.mkdir(parents=True, exist_ok=True)
    first, _, last = arguments.people.partition("-")
    measuring = Measuring()
    for arm in arguments.arms.split(","):
        for number in range(int(first), int(last or first) + 1):
            print(json.dumps(measuring.head(number, arm, arguments.out)), flush=True)
    if arguments.results is not None:
        write(arguments.out, arguments.results)


if __name__ == "__main__":
    main()
