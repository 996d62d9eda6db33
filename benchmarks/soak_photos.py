"""A data set of rendered photos for the soak: some bad in twelve ways, some the same bytes under another name."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter

from studio.demo.people import portrait

_ROWS = 256  # of a row group
_PORTRAITS = 64  # rendered; each photo is one of them with a mark of its own, so that all bytes differ


def _jpeg(image: Image.Image, quality: int = 90) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _on_grey(image: Image.Image, side: int, at: tuple[int, int]) -> Image.Image:
    page = Image.new("RGB", (640, 640), "grey")
    page.paste(image.resize((side, side), Image.Resampling.LANCZOS), at)
    return page


def _huge() -> bytes:
    """A PNG whose header claims more pixels than the limit; nothing behind it."""
    buffer = io.BytesIO()
    Image.new("L", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = (60_000).to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")  # else it is refused for its checksum
    return bytes(data)


# way -> (the reasons it may be refused for, the file from a portrait and a number that makes its bytes its own)
BAD: dict[str, tuple[set[str], Callable[[Image.Image, int], bytes]]] = {
    "text": ({"not_an_image"}, lambda _, n: f"no image {n}".encode()),
    "cut short": ({"damaged"}, lambda image, n: _jpeg(image)[: 4000 + n % 1000]),
    "header only": ({"damaged"}, lambda _, n: b"\xff\xd8\xff\xe0" + n.to_bytes(8, "big")),
    "zeros": ({"not_an_image"}, lambda _, n: bytes(1000) + n.to_bytes(8, "big")),
    "noise": ({"not_an_image"}, lambda _, n: np.random.default_rng(n).bytes(5000)),
    "too many pixels": ({"too_large"}, lambda _, n: _huge() + n.to_bytes(8, "big")),
    "tiny": ({"too_small"}, lambda image, n: _jpeg(image.resize((40, 40)), 60 + n % 40) + n.to_bytes(8, "big")),
    "plain": ({"no_face"}, lambda _, n: _jpeg(Image.new("RGB", (200, 200), (n % 255, n // 255 % 255, 90)))),
    "landscape": (
        {"no_face"},
        lambda _, n: _jpeg(Image.fromarray(np.random.default_rng(n).integers(0, 255, (12, 16, 3), np.uint8)).resize(
            (480, 360), Image.Resampling.BICUBIC)),
    ),
    "far away": ({"face_too_small", "no_face"}, lambda image, n: _jpeg(_on_grey(image, 36, (n % 500, 100)))),
    "cut off": (
        {"face_cut_off", "no_face"},
        lambda image, n: _jpeg(image.crop((image.width // 2, 0, image.width, image.height))) + n.to_bytes(8, "big"),
    ),
    "out of focus": (
        {"blurred", "no_face"},
        lambda image, n: _jpeg(image.filter(ImageFilter.GaussianBlur(9 + n % 3))) + n.to_bytes(8, "big"),
    ),
}  # fmt: skip
POISON = b"poison "  # what soak_stage.py dies of begins so


def may_become(name: str) -> set[str | None]:
    """What a photo of this name may become: None for a face, else reasons for its reject."""
    kind, _, way = name.rpartition("-")[0].partition(":")
    if kind == "bad":
        return {*BAD[way][0]}
    return {"crashed_worker"} if kind == "poison" else {None}


def write(path: Path, num_photos: int, *, bad: float = 0.05, copies: float = 0.03, poison_every: int = 0) -> None:
    """Writes Parquet (image, name); a file that is there already is kept, so give each data set its own path.

    The name says what a photo is: "good-17", "bad:cut off-18", "copy-19" with the bytes of the last good photo before
    it, or "poison-20", one of each `poison_every` photos (0: none).
    """
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    portraits = [Image.fromarray(portrait(number)) for number in range(min(_PORTRAITS, num_photos))]
    schema = pa.schema([("image", pa.binary()), ("name", pa.string())])
    unfinished = path.with_suffix(".part")
    random, ways, num_bad, previous = np.random.default_rng(0), list(BAD), 0, b""
    with pq.ParquetWriter(unfinished, schema) as writer:
        for start in range(0, num_photos, _ROWS):
            rows = []
            for number in range(start, min(start + _ROWS, num_photos)):
                image, draw = portraits[number % len(portraits)], random.random()
                if poison_every and number % poison_every == poison_every // 2:
                    rows.append({"image": POISON + str(number).encode(), "name": f"poison-{number}"})
                elif draw < bad:
                    way = ways[num_bad % len(ways)]
                    num_bad += 1
                    rows.append({"image": BAD[way][1](image, number), "name": f"bad:{way}-{number}"})
                elif draw < bad + copies and previous:
                    rows.append({"image": previous, "name": f"copy-{number}"})
                else:
                    previous = _jpeg(image) + number.to_bytes(8, "big")  # decoders ignore what follows the picture
                    rows.append({"image": previous, "name": f"good-{number}"})
            writer.write_table(pa.Table.from_pylist(rows, schema))
    unfinished.rename(path)
