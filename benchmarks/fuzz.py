"""Damaged files of every format through the preparation: bytes flipped, files cut, headers exchanged.

    python -m benchmarks.fuzz --files 300 --out out/bench/fuzz

Each file is prepared as a server prepares an upload, in a child process (`factory.faces.isolated`). It must come out as
faces or as a reject with a reason; a child that dies, hangs, or an error of another kind is a fault, and the exit
status is 1 then. What this cannot see is a picture that is damaged and still decodes: formats without checksums have
them.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
import skimage.data
from PIL import Image

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.isolated import IsolatedPreparer
from factory.faces.photos import decode_photo

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "JPEG2000", "AVIF", "PPM")
LIMIT_S: Final = 60.0  # of one file
_HEADER: Final = 64  # bytes that are exchanged


def originals() -> dict[str, bytes]:
    """A portrait in every format that this Pillow writes."""
    portrait = Image.fromarray(np.asarray(skimage.data.astronaut())[:256, 96:352])
    files = {}
    for kind in FORMATS:
        buffer = io.BytesIO()
        portrait.save(buffer, kind)
        files[kind] = buffer.getvalue()
    return files


def damaged(files: dict[str, bytes], seed: int) -> tuple[str, bytes]:
    """What was done to which format, and the file; the same for a seed."""
    chance = random.Random(seed)
    kind = FORMATS[seed % len(FORMATS)]
    data = bytearray(files[kind])
    how = chance.choice(["flipped", "header flipped", "cut", "header exchanged", "middle lost"])
    if how == "flipped":
        for _ in range(chance.choice([1, 8, 64])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    elif how == "header flipped":
        for _ in range(chance.choice([1, 4])):
            data[chance.randrange(min(len(data), 256))] = chance.randrange(256)
    elif how == "cut":
        del data[chance.randrange(len(data)) :]
    elif how == "header exchanged":
        data[:_HEADER] = files[chance.choice(FORMATS)][:_HEADER]
    else:
        start = chance.randrange(len(data))
        del data[start : start + chance.randrange(1, 2000)]
    return f"{kind} {how}", bytes(data)


def prepare_all(num_files: int) -> tuple[Counter[str], list[str]]:
    """What became of the files (outcome -> number), and the faults."""
    isolated, files = IsolatedPreparer("studio", PrepareConfig()), originals()
    for kind, data in files.items():
        decode_photo(data, name=kind, config=PrepareConfig())  # whole, it is a photo
    outcomes: Counter[str] = Counter()
    faults = []
    for seed in range(num_files):
        what, data = damaged(files, seed)
        try:
            outcomes["faces"] += bool(isolated.prepare(data, f"{seed}", limit_s=LIMIT_S))
        except PhotoRejected as refused:
            outcomes[refused.reason] += 1
            if refused.reason == "crashed_worker" or not refused.detail:
                faults.append(f"{seed} {what}: {refused}")
        except Exception as error:  # noqa: BLE001 (that there is none is what is measured)
            faults.append(f"{seed} {what}: {type(error).__name__}: {error}")
    return outcomes, faults


def main() -> int:
    """Runs the files, prints and keeps the table; 1 if there was a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=300)
    parser.add_argument("--out", type=Path, help="a .json is written there")
    arguments = parser.parse_args()
    outcomes, faults = prepare_all(arguments.files)
    for outcome, num in outcomes.most_common():
        print(f"{num:5} {outcome}")
    print(f"{len(faults)} faults of {arguments.files} files", *faults, sep="\n  ")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.with_suffix(".json").write_text(
            json.dumps({"files": arguments.files, "outcomes": dict(outcomes), "faults": faults}, indent=2) + "\n"
        )
    return 1 if faults or sum(outcomes.values()) != arguments.files else 0


if __name__ == "__main__":
    sys.exit(main())
