"""What more photos of a person are good for: held-out people learned from 1, 2 and 4 photos, Face Sim of their pictures
to a photo that was not used.

    python -m studio.results.photos --people 120-125
Photos are plain portraits of one person: pose, mood, light, clothes and background differ. The photos of a smaller
number are among those of a larger one, noises and prompts are the same, so the differences are paired by person.
"""

from __future__ import annotations

import argparse
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
from PIL import Image

from factory.draw.images import ImageGenerator
from factory.faces.detect import FaceRecogniser
from factory.faces.people import of_one_person
from factory.faces.prepare import Preparer
from factory.learn.trainer import load_trainer
from factory.measure.formulas import bootstrap
from factory.pack import load_pack
from factory.records import Identity, ImageRequest, PreparedFace
from factory.settings import generate_settings, train_settings
from studio.results.protocol import PHOTO_PX
from studio.training.build import PACK
from studio.training.dataset import held_out
from studio.world.render import render
from studio.world.scenes import sample_scene

NUMBERS: Final = (1, 2, 4)  # of photos
PROMPTS: Final = ("a photo of <person>", "a photo of <person> in the snow", "a photo of <person> wearing black glasses")
SEEDS: Final = 2  # pictures of each prompt
_UNUSED: Final = 3  # photos that nobody was learned from, of each person
_SCENES: Final = 0x50_40  # of the random streams that photos are drawn by


def photo(number: int, which: int) -> np.ndarray:
    """One of a held-out person's portraits, uint8 [H, W, 3]; from 0, those that nobody is learned from from 100."""
    scene = sample_scene(np.random.default_rng([_SCENES, number, which]), context="plain")
    return render(held_out(number), scene, size=PHOTO_PX).image


def faces_of(preparer: Preparer, number: int) -> list[PreparedFace]:
    """Of the first photos that show a usable face, as many as are needed."""
    faces: list[PreparedFace] = []
    for which in range(2 * max(NUMBERS)):
        buffer = io.BytesIO()
        Image.fromarray(photo(number, which)).save(buffer, "PNG")
        found = preparer.read(buffer.getvalue(), f"person {number}").faces
        faces += found[:1]
        if len(faces) == max(NUMBERS):
            return faces
    raise ValueError(f"held-out person {number} has too few portraits with a face; leave them out of --people")


def measure(numbers: Sequence[int]) -> list[dict[str, Any]]:
    """A row a person and number of photos: mean Face Sim over pictures and unused photos; a picture in which the judge
    finds no face counts 0."""
    pack = load_pack(PACK)
    preparer, judge = Preparer(pack), FaceRecogniser(pack)
    faces = {number: faces_of(preparer, number) for number in numbers}
    groups = [(number, num) for number in numbers for num in NUMBERS]
    learning = [of_one_person(faces[number][:num]) for number, num in groups]
    identities = load_trainer(pack).train(learning, train_settings(pack, "paper"))
    assert len(identities) == len(groups)  # nobody diverged
    generator = ImageGenerator(pack)
    rows = []
    for (number, num), identity in zip(groups, identities, strict=True):
        unused = [judge.embed(photo(number, 100 + which)) for which in range(_UNUSED)]
        wanted = np.stack([one for one in unused if one is not None])
        made = [judge.embed(picture) for picture in generator.generate(_requests(generator, identity))]
        sims = [0.0 if one is None else float((wanted @ one).mean()) for one in made]
        rows.append({"person": number, "photos": num, "face_sim": float(np.mean(sims)), "lost": made.count(None)})
        print(rows[-1], flush=True)
    return rows


def _requests(generator: ImageGenerator, identity: Identity) -> list[ImageRequest]:
    config = generate_settings(generator.base.pack)
    asked = [(prompt, seed) for prompt in PROMPTS for seed in range(SEEDS)]
    return [ImageRequest(identity=identity, prompt=prompt, seed=seed, config=config) for prompt, seed in asked]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown: means over people, and differences to one photo, each with the 95 % interval over people."""
    by_num = {num: np.array([row["face_sim"] for row in rows if row["photos"] == num]) for num in NUMBERS}
    lost = {num: sum(row["lost"] for row in rows if row["photos"] == num) for num in NUMBERS}
    lines = ["| photos | Face Sim to an unused photo | more than with one | pictures without a face |"]
    lines.append("|---|---|---|---|")
    for num, sims in by_num.items():
        more = "" if num == 1 else _told(sims - by_num[1], "+.3f")
        lines.append(f"| {num} | {_told(sims, '.3f')} | {more} | {lost[num]} of {len(sims) * len(PROMPTS) * SEEDS} |")
    people = f"{len(by_num[1])} held-out people, {len(PROMPTS)} prompts, {SEEDS} pictures each"
    head = f"{people}; 95 % intervals over people (bootstrap)."
    return f"# Photos of one person\n\n{head}\n\n" + "\n".join(lines) + "\n"


def _told(values: np.ndarray, how: str) -> str:
    found = bootstrap(lambda which: values[which].mean(-1), len(values))
    return f"{values.mean():{how}} [{found.low:{how}}, {found.high:{how}}]"


def main() -> None:
    """Measures, and writes photos.json and photos.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", default="120-125", help="held-out people, FIRST-LAST")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    first, last = map(int, options.people.split("-"))
    rows = measure(range(first, last + 1))
    (options.results / "photos.json").write_text(json.dumps(rows, indent=1) + "\n")
    (options.results / "photos.md").write_text(table(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
