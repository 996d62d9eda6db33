"""JPEG files whose end is missing, as webcams and broken downloads leave them: what of the picture is left.

libjpeg fills up what is missing without a word, and Pillow refuses the whole file.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_END: Final = b"\xff\xd9"
_SMOOTHED: Final = 2  # rows above a missing one: their colours are interpolated with its
_FILLERS: Final = (b"", b"\x55" * 64, b"\xb6" * 64)  # in place of what is missing
_NAMES: Final = {
    **dict.fromkeys((0xC3, 0xCB), "lossless"),
    **dict.fromkeys((0xC5, 0xC6, 0xC7, 0xCD, 0xCE, 0xCF), "hierarchical"),
    0xF7: "JPEG-LS",
}
_FRAMES: Final = ({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}) | {0xF7}
_PROGRESSIVE: Final = (0xC2, 0xCA)


@dataclass(frozen=True, slots=True)
class Structure:
    """What the markers of a file say."""

    frame: int  # the marker of its frame: which kind of JPEG it is; 0 if there is none
    precision: int  # bits a sample
    components: int
    scans: list[tuple[int, int, int, int]]  # of each: components as bits, first and last coefficient, lowest bit

    @property
    def unsupported(self) -> str | None:
        """Its name with an article, if it is of a kind that libjpeg does not decode."""
        if self.frame in _NAMES:
            return f"a JPEG of the {_NAMES[self.frame]} kind"
        return f"a JPEG of {self.precision} bits a sample" if self.precision not in (0, 8) else None

    @property
    def is_fine(self) -> bool:
        """Whether the last refinement of all coefficients has begun, in a progressive file."""
        done = np.zeros((max(self.components, 1), 64), bool)
        for which, first, last, low in self.scans:
            if low == 0:
                done[[number for number in range(len(done)) if which >> number & 1], first : last + 1] = True
        return bool(done.all())


def has_end(data: bytes) -> bool:
    """Whether the picture's end is marked; that of a thumbnail in its metadata does not count."""
    at = 2
    while (at := _next_marker(data, at)) >= 0 and data[at + 1] not in (0xDA, 0xD9):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at >= 0 and data.rfind(_END, at) >= 0


def structure(data: bytes) -> Structure:
    """The markers of a JPEG file, as far as they can be followed."""
    frame = precision = components = 0
    ids, scans, at = b"", list[tuple[int, int, int, int]](), 2
    while (at := _next_marker(data, at)) >= 0 and data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            frame, precision, components, ids = marker, body[0], body[5], body[6::3]
        elif marker == 0xDA and len(body) >= 4:
            mine = body[1 : 1 + 2 * body[0] : 2]
            which = sum(1 << number for number in range(components) if ids[number : number + 1] in mine)
            scans.append((which, body[-3], body[-2], body[-1] & 15))
        at += 2 + length
    return Structure(frame, precision, components, scans)


def _next_marker(data: bytes, at: int) -> int:
    """Where the next marker is, from `at` on; -1 if there is none. Pixels hold FF only before 00 and D0 to D7."""
    while True:
        at = data.find(b"\xff", at)
        if at < 0 or at + 1 >= len(data):
            return -1
        if data[at + 1] == 0 or 0xD0 <= data[at + 1] <= 0xD7:
            at += 2
        elif data[at + 1] == 0xFF:  # padding
            at += 1
        else:
            return at


def what_is_left(data: bytes) -> tuple[bytes, int]:
    """A file without an end as one that decodes, and how many of its rows depend on nothing that is missing.

    Rows that change with what follows the cut are not in the file. Of a progressive file, which is coarse everywhere
    before it is fine anywhere, all rows or none. Raises what Pillow raises if it decodes to nothing.
    """
    data = data.rstrip(b"\0")  # a download that had reserved its room
    ended, found = data + _END, structure(data)
    if found.frame in _PROGRESSIVE:
        image = JpegImageFile(BytesIO(ended))
        return ended, image.height if found.is_fine else 0
    first, *others = (_rows(data + filler + _END) for filler in _FILLERS)
    differing = np.flatnonzero(np.any([(first != other).reshape(len(first), -1).any(1) for other in others], axis=0))
    return ended, max(0, int(differing[0]) - _SMOOTHED) if len(differing) else len(first)


def _rows(data: bytes) -> np.ndarray:
    image: Image.Image = JpegImageFile(BytesIO(data))
    return np.asarray(image)
