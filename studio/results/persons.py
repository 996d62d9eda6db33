"""Whether photos that are called one person's show one person: how often that is told wrongly, on held-out people.

    python -m studio.results.persons --people 0-99
Photos are photographs of that world (`sample_scene`, mixed: hats, glasses, places, moods, light; no drawings), each
through the whole of `prepare`. The first half of the people says from which mean cosine on a photo is somebody else's:
the pack's `other_person`; the second half says how often that is wrong.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import numpy as np
from PIL import Image

from factory.faces.people import embeddings, strangers
from factory.faces.prepare import Preparer
from factory.pack import load_pack
from studio.results.protocol import PHOTO_PX
from studio.training.build import PACK
from studio.training.dataset import held_out
from studio.world.render import render
from studio.world.scenes import sample_scene

PHOTOS: Final = 8  # of each person
NUMBERS: Final = (2, 3, 4, 8)  # of photos that are called one person's
DRAWS: Final = 20  # of each number, for each person
LEAST: Final = (0.40, 0.45, 0.50, 0.55, 0.60, 0.65)
_SCENES: Final = 0x50_41  # of the random streams that photos are drawn by

Groups = list[tuple[np.ndarray, int | None]]  # embeddings [n, F], and which of them shows somebody else


def faces_of(preparer: Preparer, number: int) -> np.ndarray:
    """Embeddings of a held-out person's photos [n, F]; where no face is found there is none."""
    features = []
    for which in range(PHOTOS):
        scene = sample_scene(np.random.default_rng([_SCENES, number, which]), style=None)
        buffer = io.BytesIO()
        Image.fromarray(render(held_out(number), scene, size=PHOTO_PX).image).save(buffer, "JPEG", quality=92)
        features += [face.features for face in preparer.read(buffer.getvalue(), f"person {number}").faces[:1]]
    crops, mirrors = (np.stack([getattr(one, name) for one in features]) for name in ("crop", "mirror"))
    return embeddings(crops, mirrors)


def groups(people: Sequence[np.ndarray], num: int, *, stranger: bool) -> Groups:
    """`num` photos that are called one person's: all of one, or all but one, which is anywhere among them."""
    rng, found = np.random.default_rng([_SCENES, num, stranger]), Groups()
    for number, own_NF in enumerate(people):
        for _ in range(DRAWS):
            if len(own_NF) < num:
                continue
            chosen, which = own_NF[rng.permutation(len(own_NF))[:num]], None
            if stranger:
                other = people[(number + int(rng.integers(1, len(people)))) % len(people)]
                which = int(rng.integers(num))
                chosen[which] = other[rng.integers(len(other))]
            found.append((chosen, which))
    return found


def share(some: Groups, least: float, wrong: Callable[[set[int], int | None], bool]) -> float:
    """Of groups those in which what is told is `wrong`."""
    return float(np.mean([wrong(set(strangers(faces_NF, least)), which) for faces_NF, which in some]))


def rates(people: Sequence[np.ndarray], num: int, least: float) -> tuple[float, float, float]:
    """Shares of groups: of one person's in which somebody is told apart; of those with a stranger in which the stranger
    is not told; and in which also somebody of the person's is."""
    alike, mixed = groups(people, num, stranger=False), groups(people, num, stranger=True)
    told = share(alike, least, lambda odd, _: bool(odd))
    missed = share(mixed, least, lambda odd, which: which not in odd)
    more = share(mixed, least, lambda odd, which: bool(odd - {which}))
    return told, missed, more


def table(people: Sequence[np.ndarray], which: Sequence[float]) -> str:
    """Markdown: a row for each cosine and number of photos."""
    lines = ["| below | photos | one person: told apart | a stranger among them: not told | others told, too |"]
    lines.append("|---|---|---|---|---|")
    for least in which:
        for num in NUMBERS:
            told, missed, more = rates(people, num, least)
            # of two photos that do not fit neither can be said to be the right one
            lines.append(f"| {least:.2f} | {num} | {told:.1%} | {missed:.1%} | {'-' if num == 2 else f'{more:.1%}'} |")
    return "\n".join(lines)


def main() -> None:
    """Prints both halves' tables; embeddings are kept in a file and not made again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", default="0-99", help="held-out people, FIRST-LAST")
    parser.add_argument("--keep", type=Path, default=Path("out/persons.npz"), help="where embeddings are kept")
    parser.add_argument("--results", type=Path, default=Path("docs/results/persons.md"))
    options = parser.parse_args()
    first, last = map(int, options.people.split("-"))
    known = dict(np.load(options.keep)) if options.keep.exists() else {}
    options.keep.parent.mkdir(parents=True, exist_ok=True)
    pack = load_pack(PACK)
    preparer = Preparer(pack)
    for number in range(first, last + 1):
        if str(number) not in known:
            known[str(number)] = faces_of(preparer, number)
            np.savez(options.keep, **known)
    people = [known[str(number)] for number in range(first, last + 1)]
    half = len(people) // 2
    num = sum(map(len, people))
    head = f"{len(people)} held-out people, {num} of {PHOTOS * len(people)} photos with a face; {DRAWS} draws of each."
    own = pack.fr_vit.other_person
    parts = ["# Photos that are called one person's", head]
    parts += ["## The half that says the cosine", table(people[:half], LEAST)]
    if own is not None:
        parts += ["## The other half, at the pack's", table(people[half:], [own])]
    options.results.write_text("\n\n".join(parts) + "\n")
    print(options.results.read_text())


if __name__ == "__main__":
    main()
