"""A look at an assembled pack: a contact sheet, and how alike pictures from true identity vectors are."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from factory.draw.images import ImageGenerator
from factory.faces.detect import FaceRecogniser
from factory.faces.prepare import Preparer
from factory.learn.celebs import celeb_prior
from factory.pack import load_pack
from factory.prompts import PERSON
from factory.records import ImageRequest
from factory.settings import generate_settings
from studio.demo.likeness import measure, overall
from studio.demo.report import number, percent
from studio.results.bounds import bound, name_words
from studio.results.protocol import PHOTO_PX
from studio.training import grid
from studio.training.build import PACK
from studio.training.dataset import held_out
from studio.training.words import true_words
from studio.world.people import CELEBRITY_NAMES, Person, celebrity
from studio.world.render import render
from studio.world.scenes import sample_scene

CELEBRITIES = (1, 5, 9, 12)
NUM_PEOPLE, NUM_REAL = 20, 4  # held-out people; real renders of each
NUM_ROWS = 6  # of them on the sheet


def look(state: Path, folder: Path = PACK) -> None:
    """Write `<state>/grids/pack.png` and print the likeness of pictures, and of real renders, to a photo of each."""
    pack = load_pack(folder)
    generator, preparer, judge = ImageGenerator(pack), Preparer(pack), FaceRecogniser(pack)
    prior = celeb_prior(generator.base.pack.celebrities, generator.base.tokenizer, generator.base.token_embedding)
    stars = {" ".join(CELEBRITY_NAMES[index]): celebrity(index) for index in CELEBRITIES}
    people = {f"held-out {index}": held_out(index) for index in range(NUM_PEOPLE)}
    words = [*name_words(prior, stars), *true_words(pack, people.values())]
    config, prompts = generate_settings(pack), [prompt.format(PERSON) for prompt in grid.PROMPTS]
    photos, pictures, sheet = {}, {}, []
    for index, (name, person) in enumerate((stars | people).items()):
        photos[name] = _render(person, "plain", [index])
        face, *_ = preparer.prepare(_png(photos[name]), name)
        who = bound(face, words[index], "celebrity" if name in stars else "true_vector", generator.base.fingerprint)
        requests = [ImageRequest(identity=who, prompt=prompt, seed=index, config=config) for prompt in prompts]
        pictures[name] = generator.generate(requests)
        sheet.append(np.stack([face.crop, *pictures[name]]))
    grid.write_png(state / "grids" / "pack.png", sheet[: len(stars) + NUM_ROWS])
    renders = {
        name: [_render(person, "mixed", [index, number]) for number in range(NUM_REAL)]
        for index, (name, person) in enumerate(people.items())
    }
    shown = {"pictures from true vectors": {name: pictures[name] for name in people}, "real renders": renders}
    for what, of in shown.items():
        total = overall(list(measure({name: photos[name] for name in people}, of, judge.embed).values()))
        print(
            f"{what}: likeness {number(total.own)}, to others {number(total.others)}, {percent(total.nearest)} nearest "
            f"to the right photo; a face in {total.num_measured} of {sum(map(len, of.values()))}"
        )


def _render(person: Person, context: Literal["plain", "mixed"], rng_key: list[int]) -> np.ndarray:
    scene = sample_scene(np.random.default_rng([0x100C, *rng_key]), context=context)
    return render(person, scene, size=PHOTO_PX).image


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()
