"""What sculpting does, measured on held-out people: likeness of a head's views beside ControlNet pictures of the same
poses, and how alike neighbouring views are; and a strip to look at.

    python -m studio.results.heads --people 101-106 --arms reconstruction,ism,uncontrolled,crown
Work is kept under --out; what is there is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from factory.config import SculptConfig
from factory.draw.images import ImageGenerator
from factory.draw.sculpt import Sculptor, show
from factory.draw.splat_files import from_ply, to_ply
from factory.draw.splats import View
from factory.faces.align import FFHQ_512, align, similarity
from factory.faces.detect import FaceRecogniser
from factory.faces.pose import HeadPose, draw_skeleton
from factory.pack import Pack, load_pack
from factory.records import TEXT_ENCODER, Identity, ImageRequest, PoseControl, SculptRequest
from factory.settings import generate_settings
from studio.training.build import PACK
from studio.training.dataset import PICTURE_PX, held_out
from studio.training.words import true_words
from studio.world.render import render
from studio.world.scenes import sample_scene

YAWS = (-30, -15, 0, 15, 30)  # degrees, of the likeness
NEIGHBOURS = (-30, -20, -10, 0, 10, 20, 30)  # degrees, of the likeness of one view to the next
PROMPT = "a photo of <person>"
ARMS: dict[str, tuple[str, dict[str, Any]]] = {  # prompt, and what is set otherwise
    "reconstruction": (PROMPT, {}),
    "ism": (PROMPT, {"objective": "ism"}),
    "uncontrolled": (PROMPT, {"control": False}),
    "crown": (f"{PROMPT} wearing a golden crown", {}),
}

COLUMNS = (
    *("arm", "people", "Face Sim, head", "Face Sim, pictures", "ratio", "neighbours, head", "neighbours, pictures"),
    *("views without a face", "CPU minutes a head"),
)


def _photo(number: int) -> tuple[np.ndarray, np.ndarray]:
    """A plain render of a person from the front, and the aligned crop of its face."""
    scene = sample_scene(np.random.default_rng(5), context="plain", smile=0.1, **asdict(HeadPose()))
    made = render(held_out(number), scene)
    return made.image, align(made.image, similarity(made.landmarks, FFHQ_512 * (PICTURE_PX / 512)), PICTURE_PX)


def _identity(number: int, pack: Pack) -> Identity:
    """A held-out person by their true words: what is measured is the sculpting, not the learning."""
    [words] = true_words(pack, [held_out(number)])
    return Identity(
        identity_id=f"{number:016x}", face_id="", photo_id="", name=f"held-out {number}", words={TEXT_ENCODER: words},
        pack=pack.name, fingerprint=pack.fingerprint(), preset="custom", config="{}", num_steps=0, final_loss=0.0,
        train_s=0.0, created_at="",
    )  # fmt: skip


class Measuring:
    """The pack's sculptor, pictures and judge."""

    def __init__(self, pack: Path = PACK) -> None:
        self.pack = load_pack(pack)
        self.sculptor, self.pictures = Sculptor(self.pack), ImageGenerator(self.pack)
        self._judge = FaceRecogniser(self.pack)

    def head(self, number: int, arm: str, folder: Path) -> dict[str, Any]:
        """Sculpts a person, if that has not been done, and measures the head; all of it is kept in `folder`."""
        kept = folder / f"{arm}_{number}.json"
        if kept.exists():
            return dict(json.loads(kept.read_text()))
        prompt, changes = ARMS[arm]
        photo, crop = _photo(number)
        who, config = _identity(number, self.pack), SculptConfig(**changes)
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
        }
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
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def strip(folder: Path, people: Sequence[int], arm: str = "reconstruction") -> np.ndarray:
    """Heads as they turn, a row a person, the photo in front: uint8 [H, W, 3]."""
    rows = []
    for number in people:
        splats = from_ply((folder / f"{arm}_{number}.ply").read_bytes())
        views = show(splats, [View(yaw=yaw) for yaw in NEIGHBOURS], PICTURE_PX)
        rows.append(np.concatenate([_photo(number)[0], *views], 1))
    return np.concatenate(rows)


def write(folder: Path, results: Path) -> None:
    """heads.json, heads.md and heads.webp of all that is in `folder`."""
    rows = [json.loads(file.read_text()) for file in sorted(folder.glob("*_*.json"))]
    (results / "heads.json").write_text(json.dumps(rows, indent=1) + "\n")
    (results / "heads.md").write_text(table(rows))
    people = [row["person"] for row in rows if row["arm"] == "reconstruction"]
    Image.fromarray(strip(folder, people)).save(results / "heads.webp", quality=85)
    print(table(rows))


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
