"""Renders the data set: memory-mapped arrays that several processes fill and every training reads."""

from __future__ import annotations

import multiprocessing as mp
import time
from pathlib import Path
from typing import Any

import numpy as np

from studio.world.people import CELEBRITY_NAMES, IDENTITY_DIM, Person, celebrity, sample_person
from studio.world.scenes import Scene, sample_scene

PICTURE_PX = 128  # side of the pictures that are trained on
CHUNK = 200  # pictures a process renders before it marks them as done
PLACEHOLDER = ("vone", "vtwo")  # stand for the two words of a person in every stored caption

NUM_CELEBRITIES = len(CELEBRITY_NAMES)
NUM_ANONYMOUS = 15_000
NUM_HELD_OUT = 200  # never trained on: evaluation and demo
IMAGES_PER = {"held_out": 8, "celebrity": 20, "anonymous": 4}
NUM_PEOPLE = NUM_CELEBRITIES + NUM_ANONYMOUS + NUM_HELD_OUT
NUM_TRAINED = NUM_CELEBRITIES + NUM_ANONYMOUS  # people; the held-out ones are numbered from here on
PLAIN_SHARE = 0.35
MAX_WORDS = 30  # of a caption, so that it fits the text tower with its start and end tokens


def person_of(index: int) -> Person:
    """Person by number: celebrities, then anonymous people, then held-out people."""
    if index < NUM_CELEBRITIES:
        return celebrity(index)
    if index < NUM_TRAINED:
        return sample_person(np.random.default_rng([0xA11, index]))
    return held_out(index - NUM_TRAINED)


def held_out(index: int) -> Person:
    """One of the people no model of the pack was trained on."""
    return sample_person(np.random.default_rng([0xE7A1, index]))


def plan() -> np.ndarray:
    """Person of every picture, int32 [N]: held-out people first, then everybody else in a fixed random order."""
    order = np.random.default_rng(7).permutation(NUM_TRAINED)
    counts = np.where(order < NUM_CELEBRITIES, IMAGES_PER["celebrity"], IMAGES_PER["anonymous"])
    held = np.repeat(np.arange(NUM_TRAINED, NUM_PEOPLE), IMAGES_PER["held_out"])
    return np.concatenate([held, np.repeat(order, counts)]).astype(np.int32)


def scene_of(item: int) -> tuple[Scene, bool]:
    """Scene of a picture, and whether it is a plain one."""
    rng = np.random.default_rng([0xDA7A, item])
    plain = bool(rng.random() < PLAIN_SHARE)
    return sample_scene(rng, context="plain" if plain else "mixed"), plain


def _fields(num: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    return {
        "images": (np.uint8, (num, PICTURE_PX, PICTURE_PX, 3)),  # RGB
        "labels": (np.uint8, (num, PICTURE_PX, PICTURE_PX)),  # 19 classes
        "landmarks": (np.float32, (num, 5, 2)),  # x y in pixels
        "plain": (np.bool_, (num,)),  # no context, neutral face
        "done": (np.bool_, (num,)),
    }


class Dataset:
    """The rendered pictures of a state folder; `writable` creates what is missing."""

    def __init__(self, state: Path, *, writable: bool = False) -> None:
        folder = state / "data"
        self.persons = plan()  # int32 [N]
        arrays: dict[str, np.ndarray] = {}
        folder.mkdir(parents=True, exist_ok=True)
        for name, (dtype, shape) in _fields(len(self.persons)).items():
            path = folder / f"{name}.npy"
            if not path.exists() and writable:
                np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
            arrays[name] = np.load(path, mmap_mode="r+" if writable else "r")
        self.images, self.labels, self.landmarks = arrays["images"], arrays["labels"], arrays["landmarks"]
        self.plain, self.done = arrays["plain"], arrays["done"]
        vectors = folder / "vectors.npy"
        if not vectors.exists():
            np.save(vectors, np.stack([person_of(i).vector() for i in range(NUM_PEOPLE)]))
        self.vectors = np.load(vectors)  # float32 [people, P]
        if self.vectors.shape != (NUM_PEOPLE, IDENTITY_DIM):
            raise ValueError(f"{vectors} belongs to another version of the world: start a fresh --state folder")

    def ready(self, *, held_out: bool = False) -> np.ndarray:
        """Numbers of the pictures that are rendered by now, of training people or of held-out people."""
        return np.flatnonzero(np.asarray(self.done) & ((self.persons >= NUM_TRAINED) == held_out))

    def wait(self, enough: int) -> np.ndarray:
        """`ready()` once it has at least `enough` pictures, or all of them."""
        total = int((self.persons < NUM_TRAINED).sum())
        while len(self.ready()) < min(enough, total):
            time.sleep(5)
        return self.ready()


def _render_items(state: Path, chunks: list[int]) -> None:
    from studio.world.render import render

    data = Dataset(state, writable=True)
    for chunk in chunks:
        items = range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(data.persons)))
        for item in items:
            scene, plain = scene_of(item)
            picture = render(person_of(int(data.persons[item])), scene, size=PICTURE_PX)
            data.images[item], data.labels[item], data.landmarks[item] = (
                picture.image,
                picture.labels,
                picture.landmarks,
            )
            data.plain[item] = plain
        data.done[items.start : items.stop] = True


def build(state: Path, *, processes: int = 2) -> None:
    """Render what is missing with `processes` processes; prints rate and time left."""
    data = Dataset(state, writable=True)
    num_chunks = -(-len(data.persons) // CHUNK)
    missing = [c for c in range(num_chunks) if not data.done[c * CHUNK : (c + 1) * CHUNK].all()]
    context = mp.get_context("spawn")
    workers = [context.Process(target=_render_items, args=(state, missing[k::processes])) for k in range(processes)]
    for worker in workers:
        worker.start()
    start, before = time.monotonic(), int(data.done.sum())
    while any(worker.is_alive() for worker in workers):
        time.sleep(5)
        count = int(data.done.sum())
        rate = (count - before) / (time.monotonic() - start)
        left = (len(data.persons) - count) / rate / 60 if rate else float("nan")
        print(f"dataset: {count} of {len(data.persons)}, {rate:.1f}/s, {left:.1f} min left", flush=True)
    for worker in workers:
        worker.join()
        if worker.exitcode:
            raise RuntimeError(f"a renderer ended with code {worker.exitcode}; run the same command again to go on")


def captions(state: Path) -> list[str]:
    """Caption of every picture; one in twelve speaks of "a person" in place of a name. Written once, then read."""
    from studio.world.captions import caption, words

    path = state / "data" / "captions.txt"
    if not path.exists():
        texts = []
        for item, index in enumerate(plan()):
            rng, (scene, _) = np.random.default_rng([0xCA9, item]), scene_of(item)
            name = " ".join(PLACEHOLDER) if rng.random() > 1 / 12 else "a person"
            text = caption(scene, name, rng, person=person_of(int(index)))
            while len(words(text)) > MAX_WORDS:
                text = caption(scene, name, rng)
            texts.append(text)
        partial = path.with_suffix(".partial")
        partial.write_text("\n".join(texts))
        partial.replace(path)
    return path.read_text().split("\n")
