"""Faces as they lie in photos."""

from __future__ import annotations

import re

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from benchmarks.cases.desk import Desk, Got, short, told
from benchmarks.cases.images import TOLERANCE
from factory.errors import PhotoRejected


def f01(desk: Desk) -> Got:
    """Photos upside down and on their side, without EXIF: an upright crop, or a refusal that says so."""
    wrong = []
    for degrees in (180, 90, 270):
        for side in (512, 300):
            outcome = desk.prepare(desk.encoded(desk.portrait.resize((side, side)).rotate(degrees)))
            refused = isinstance(outcome, PhotoRejected)
            told_so = refused and ("rotat" in str(outcome) or "upside" in str(outcome))
            if not told_so and (isinstance(outcome, PhotoRejected) or desk.unlike(outcome[0].crop) > TOLERANCE):
                wrong.append(f"{degrees} deg, {side} px: {told(outcome)}")
    return Got(not wrong, f"{len(wrong)} of 6 wrong: {'; '.join(wrong)}" if wrong else "6 upright crops")


def f03(desk: Desk) -> Got:
    """50 and 200 faces in a photo: all."""
    found = {}
    for columns, rows, side in ((10, 5, 200), (20, 10, 120)):
        crowd, small = Image.new("RGB", (columns * side, rows * side)), desk.portrait.resize((side, side))
        for number in range(columns * rows):
            crowd.paste(small, (number % columns * side, number // columns * side))
        outcome = desk.prepare(desk.encoded(crowd))
        found[columns * rows] = 0 if isinstance(outcome, PhotoRejected) else len(outcome)
    return Got(all(have == want for want, have in found.items()), f"{found}")


def f04(desk: Desk) -> Got:
    """Tight close-ups: most are used, the others refused with numbers that agree."""
    left, top, size = 122, 25, 288  # of the face as FFHQ crops it, in the portrait's px
    used, wrong = 0, []
    for margin in range(-24, 26, 2):
        edges = np.array([280 + margin, 280 + margin, 760 - margin, 860 - margin]) / 1024 * size
        box = tuple(np.round(edges + np.array([left, top, left, top])).astype(int).tolist())
        outcome = desk.prepare(desk.encoded(desk.portrait.crop(box).resize((360, 435))))
        used += not isinstance(outcome, PhotoRejected)
        numbers = re.findall(r"(\d+(?:\.\d+)?)%", outcome.detail) if isinstance(outcome, PhotoRejected) else []
        if len(numbers) == 2 and float(numbers[0]) >= float(numbers[1]):
            wrong.append(str(outcome))
    return Got(not wrong and used >= 15, f"{used} of 25 used; {short(wrong[0], 80) if wrong else 'numbers agree'}")


def f06(desk: Desk) -> Got:
    """Sunglasses, mask, a bar over the eyes, dark, overexposed, grey, 70 px: found."""
    pixels = np.asarray(desk.portrait)
    eyes, mouth = (slice(150, 185), slice(200, 330)), (slice(205, 260), slice(215, 310))
    made = {
        "sunglasses": _painted(pixels, eyes, (25, 25, 30)),
        "mask": _painted(pixels, mouth, (160, 200, 220)),
        "bar": _painted(pixels, (slice(155, 180), slice(150, 380)), (0, 0, 0)),
        "dark": Image.fromarray((pixels * 0.2).astype(np.uint8)),
        "overexposed": Image.fromarray(np.clip(pixels * 2.2, 0, 255).astype(np.uint8)),
        "grey": desk.portrait.convert("L"),
        "70 px": desk.portrait.resize((160, 160)),
    }
    outcomes = {name: desk.prepare(desk.encoded(image), min_sharpness=0) for name, image in made.items()}
    lost = {name: told(outcome) for name, outcome in outcomes.items() if isinstance(outcome, PhotoRejected)}
    return Got(not lost, short(str(lost)) if lost else f"{len(made)} found")


def f09(desk: Desk) -> Got:
    """One portrait as PNG, JPEGs, smaller, mirrored, in a collage: told that it is one person."""
    folder, portrait = desk.folder("f09"), desk.portrait
    (folder / "a.png").write_bytes(desk.encoded(format="PNG"))
    (folder / "b.jpg").write_bytes(desk.encoded(quality=92))
    (folder / "c.jpg").write_bytes(desk.encoded(quality=60))
    (folder / "d.jpg").write_bytes(desk.encoded(portrait.resize((300, 300))))
    (folder / "e.jpg").write_bytes(desk.encoded(ImageOps.mirror(portrait)))
    (folder / "f.jpg").write_bytes(desk.encoded(portrait.filter(ImageFilter.GaussianBlur(1))))
    collage = Image.new("RGB", (1024, 512))
    for left in (0, 512):
        collage.paste(portrait, (left, 0))
    (folder / "g.jpg").write_bytes(desk.encoded(collage))
    ran, store = desk.prepared(folder)
    counts = [re.findall(rf"{what} +(\d+)", ran.output) for what in ("near-duplicates", "same person")]
    again = sum(int(num) for found in counts for num in found)
    listed = desk.cli("identities", "people", "--root", store.root).output.splitlines()[1:]
    told = f"{store.count('faces')} faces, {again} told to be another's, {len(listed)} listed"
    return Got(again == len(listed) == store.count("faces") - 1 == 7, told)


def _painted(pixels: np.ndarray, where: tuple[slice, slice], colour: tuple[int, int, int]) -> Image.Image:
    painted = pixels.copy()
    painted[where] = colour
    return Image.fromarray(painted)


CASES = (f01, f03, f04, f06, f09)
