"""JPEG files that are not as they were: whose end is missing, as webcams and broken downloads leave them, and whose
inside is damaged.

libjpeg fills up what is missing, and goes on behind what is damaged with blocks that are shifted. It warns of both, but
Pillow and OpenCV pass its warnings over; its own interface (simplejpeg) tells the last one. Of zeros in place of a few
blocks it says nothing if by chance as many come of them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import numpy as np
import simplejpeg
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from factory.errors import PhotoRejected

_COLOURS: Final = {"L": "GRAY", "RGB": "RGB", "CMYK": "CMYK"}  # Pillow's mode -> simplejpeg's name
_MISSING: Final = re.compile("premature end|bad (?:Huffman|arithmetic) code|instead of RST", re.IGNORECASE)
_TOO_MUCH: Final = re.compile(r"(\d+) extraneous bytes before marker 0x(\w\w)")
_HARMLESS: Final = 3  # bytes too much, which some cameras leave
_END: Final = b"\xff\xd9"
_SMOOTHED: Final = 2  # rows above a missing one: their colours are interpolated with its
_SIXTEEN_ZEROS: Final = 0xF0  # the symbol of as many coefficients
_HOLE: Final = 32  # zero bytes among coded blocks, where zeros are coefficients: more of them than a block has
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
    height: int  # px; 0 where it is told behind the pixels
    components: int
    scans: list[tuple[int, int, int, int]]  # of each: components as bits, first and last coefficient, lowest bit

    @property
    def unsupported(self) -> str | None:
        """Its name with an article, if it is of a kind that libjpeg does not decode."""
        if self.frame in _NAMES:
            return f"a JPEG of the {_NAMES[self.frame]} kind"
        if self.frame and self.height == 0:
            return "a JPEG that tells its height behind its pixels (DNL)"
        return f"a JPEG of {self.precision} bits a sample" if self.precision not in (0, 8) else None

    @property
    def is_fine(self) -> bool:
        """Whether the last refinement of all coefficients has begun, in a progressive file."""
        done = np.zeros((max(self.components, 1), 64), bool)
        for which, first, last, low in self.scans:
            if low == 0:
                done[[number for number in range(len(done)) if which >> number & 1], first : last + 1] = True
        return bool(done.all())


def pixels(data: bytes, mode: str) -> np.ndarray | None:
    """The picture, uint8 [H, W], [H, W, 3] or [H, W, 4], of Pillow's mode L, RGB or CMYK; None where that is for Pillow
    to say: of files that libjpeg does not decode, or warns of what does no harm.

    Raises PhotoRejected, damaged, if the coded blocks are more or fewer than the picture has.
    """
    if mode not in _COLOURS:
        return None
    data = _without_junk(data)
    try:
        found = simplejpeg.decode_jpeg(data, _COLOURS[mode], fastdct=False, fastupsample=False)
    except ValueError as error:
        if _does_harm(str(error), data):
            raise PhotoRejected("damaged", _DAMAGED) from error
        return None
    if mode == "CMYK":
        return 255 - found  # as Adobe writes inks, and Pillow takes all such files
    return found[..., 0] if mode == "L" else found


_ANEW: Final = "copy it again, or if it looks right save it anew"
_DAMAGED: Final = f"a JPEG that is damaged inside: what lies behind is shifted or missing; {_ANEW}"


def check_holes(data: bytes) -> None:
    """Raises PhotoRejected, damaged, if bytes among the coded blocks are zero that never were, as of a lost sector.

    Zeros are the first symbol of a Huffman table. Where that ends a block, they are a blank part, as of a drawing. Else
    they are the same coefficient in all places of each block, which no picture has. libjpeg takes them, and if by
    chance as many blocks come of them as were there, all that follows is in place and has other colours.
    """
    first = dict[int, int]()  # the symbol of zeros, by a Huffman table's class (16: of coefficients) and number
    at = 2 if bytes(_HOLE) in data else len(data)
    while (at := _next_marker(data, at)) >= 0 and data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        while marker == 0xC4 and len(body) > 17:
            first[body[0]] = body[17]
            body = body[17 + sum(body[1:17]) :]
        if marker == 0xDA and len(body) >= 4 and body[-2] > 0:  # with others than the blocks' means
            symbols = [first.get(16 | tables & 15, 0) for tables in body[2 : 1 + 2 * body[0] : 2]]
            blocks = data[at : _next_marker(data, at)].rstrip(b"\0")  # of its end libjpeg tells
            begin = blocks.find(bytes(_HOLE))
            if begin >= 0 and any(symbol & 15 or symbol == _SIXTEEN_ZEROS for symbol in symbols):
                num = len(blocks) - begin - len(blocks[begin:].lstrip(b"\0"))
                hole = f"a damaged JPEG, with a hole: {num:,} bytes in its middle are zero"
                raise PhotoRejected("damaged", f"{hole}; {_ANEW}")


def _does_harm(warning: str, data: bytes) -> bool:
    if _MISSING.search(warning):
        return True
    too_much = _TOO_MUCH.search(warning)
    if too_much is None or int(too_much[1]) <= _HARMLESS:
        return False
    return int(too_much[2], 16) != 0xD9 or not _is_filled_up(data)


def _is_filled_up(data: bytes) -> bool:
    """Whether bytes of one value before the end are the only ones too much, as of cameras that write whole sectors."""
    at = 2
    while (at := _next_marker(data, at)) >= 0 and data[at + 1] != 0xD9:
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    if at < 0:
        return False
    filler = data[at - 1 : at]
    try:
        simplejpeg.decode_jpeg(data[:at].rstrip(filler) + filler + data[at:], "GRAY")
    except ValueError as error:
        too_much = _TOO_MUCH.search(str(error))
        return too_much is not None and int(too_much[1]) <= _HARMLESS
    return True


def _without_junk(data: bytes) -> bytes:
    """The file without what lies between the segments of its head, which libjpeg would warn of before all else."""
    parts, at = [data[:2]], 2
    while (found := _next_marker(data, at)) >= 0 and data[found + 1] not in (0xDA, 0xD9):
        at = found + 2 + int.from_bytes(data[found + 2 : found + 4], "big")
        parts.append(data[found:at])
    head = b"".join(parts)
    return data if found < 0 or len(head) == found else head + data[found:]


def has_end(data: bytes) -> bool:
    """Whether the picture's end is marked; that of a thumbnail in its metadata does not count."""
    at = 2
    while (at := _next_marker(data, at)) >= 0 and data[at + 1] not in (0xDA, 0xD9):
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return at >= 0 and data.rfind(_END, at) >= 0


def structure(data: bytes) -> Structure:
    """The markers of a JPEG file, as far as they can be followed."""
    frame = precision = height = components = 0
    ids, scans, at = b"", list[tuple[int, int, int, int]](), 2
    while (at := _next_marker(data, at)) >= 0 and data[at + 1] != 0xD9:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], "big")
        body = data[at + 4 : at + 2 + length]
        if marker in _FRAMES and len(body) >= 6:
            frame, precision, components, ids = marker, body[0], body[5], body[6::3]
            height = int.from_bytes(body[1:3], "big")
        elif marker == 0xDA and len(body) >= 4:
            mine = body[1 : 1 + 2 * body[0] : 2]
            which = sum(1 << number for number in range(components) if ids[number : number + 1] in mine)
            scans.append((which, body[-3], body[-2], body[-1] & 15))
        at += 2 + length
    return Structure(frame, precision, height, components, scans)


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
