"""What more photos of a person are good for: held-out people learned from 1, 2 and 4 photos, Face Sim of their pictures
to a photo that was not used.

    python -m studio.results.photos --people 120-125
Photos are plain portraits of one person: pose, mood, light, clothes and background differ; or, with `--scenes mixed`,
photographs as they come, with hats, glasses, sunglasses, moods and places. Those that are not used are plain. The
photos of a smaller number are among those of a larger one, noises and prompts are the same, so the differences are
paired by person.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Literal

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
Scenes = Literal["plain", "mixed"]
_SCENES: Final = 0x50_40  # of the random streams that photos are drawn by


def photo(number: int, which: int, scenes: Scenes = "plain") -> np.ndarray:
    """One of a held-out person's portraits, uint8 [H, W, 3]; from 0, those that nobody is learned from from 100."""
    scene = sample_scene(np.random.default_rng([_SCENES, number, which]), context=scenes, style=None)
    return render(held_out(number), scene, size=PHOTO_PX).image


def faces_of(preparer: Preparer, number: int, scenes: Scenes) -> list[PreparedFace]:
    """Of the first photos that show a usable face, as many as are needed."""
    faces: list[PreparedFace] = []
    for which in range(2 * max(NUMBERS)):
        buffer = io.BytesIO()
        Image.fromarray(photo(number, which, scenes)).save(buffer, "PNG")
        found = preparer.read(buffer.getvalue(), f"person {number}").faces
        faces += found[:1]
        if len(faces) == max(NUMBERS):
            return faces
    raise ValueError(f"held-out person {number} has too few portraits with a face; leave them out of --people")


def measure(numbers: Sequence[int], scenes: Scenes, keep: Callable[[dict[str, Any]], None]) -> None:
    """Keeps a row a person and number of photos, as they come: mean Face Sim over pictures and unused photos; a picture
    in which the judge finds no face counts 0."""
    pack = load_pack(PACK)
    preparer, judge, trainer = Preparer(pack), FaceRecogniser(pack), load_trainer(pack)
    generator = ImageGenerator(pack)
    for number in numbers:
        faces = faces_of(preparer, number, scenes)
        identities = trainer.train([of_one_person(faces[:num]) for num in NUMBERS], train_settings(pack, "paper"))
        assert len(identities) == len(NUMBERS)  # nobody diverged
        unused = [judge.embed(photo(number, 100 + which)) for which in range(_UNUSED)]
        wanted = np.stack([one for one in unused if one is not None])
        for num, identity in zip(NUMBERS, identities, strict=True):
            made = [judge.embed(picture) for picture in generator.generate(_requests(generator, identity))]
            sims = [0.0 if one is None else float((wanted @ one).mean()) for one in made]
            lost = sum(one is None for one in made)
            keep({"person": number, "photos": num, "face_sim": float(np.mean(sims)), "lost": lost})


def _requests(generator: ImageGenerator, identity: Identity) -> list[ImageRequest]:
    config = generate_settings(generator.base.pack)
    asked = [(prompt, seed) for prompt in PROMPTS for seed in range(SEEDS)]
    return [ImageRequest(identity=identity, prompt=prompt, seed=seed, config=config) for prompt, seed in asked]


def table(rows: Sequence[dict[str, Any]], scenes: Scenes) -> str:
    """Markdown: means over people, and differences to one photo, each with the 95 % interval over people."""
    by_num = {num: np.array([row["face_sim"] for row in rows if row["photos"] == num]) for num in NUMBERS}
    lost = {num: sum(row["lost"] for row in rows if row["photos"] == num) for num in NUMBERS}
    lines = ["| photos | Face Sim to an unused photo | more than with one | pictures without a face |"]
    lines.append("|---|---|---|---|")
    for num, sims in by_num.items():
        more = "" if num == 1 else _told(sims - by_num[1], "+.3f")
        lines.append(f"| {num} | {_told(sims, '.3f')} | {more} | {lost[num]} of {len(sims) * len(PROMPTS) * SEEDS} |")
    people = f"{len(by_num[1])} held-out people, {len(PROMPTS)} prompts, {SEEDS} pictures each"
    of = {"plain": "plain portraits", "mixed": "photographs as they come (hats, glasses, sunglasses, moods, places)"}
    head = f"{people}, learned from {of[scenes]}; 95 % intervals over people (bootstrap)."
    return f"# Photos of one person\n\n{head}\n\n" + "\n".join(lines) + "\n"


def _told(values: np.ndarray, how: str) -> str:
    found = bootstrap(lambda which: values[which].mean(-1), len(values))
    return f"{values.mean():{how}} [{found.low:{how}}, {found.high:{how}}]"


def main() -> None:
    """Measures, and writes photos.json and photos.md (photos_mixed); who is in it already is not measured again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", default="120-125", help="held-out people, FIRST-LAST")
    parser.add_argument("--scenes", choices=("plain", "mixed"), default="plain", help="of the photos")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    options = parser.parse_args()
    first, last = map(int, options.people.split("-"))
    name = "photos" if options.scenes == "plain" else "photos_mixed"
    file = options.results / f"{name}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    num = Counter(row["person"] for row in rows)
    rows = [row for row in rows if num[row["person"]] == len(NUMBERS)]

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        file.write_text(json.dumps(rows, indent=1) + "\n")
        print(row, flush=True)

    new = [number for number in range(first, last + 1) if num[number] < len(NUMBERS)]
    measure(new, options.scenes, keep)
    (options.results / f"{name}.md").write_text(table(rows, options.scenes))
    print(table(rows, options.scenes))


if __name__ == "__main__":
    main()
