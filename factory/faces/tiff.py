"""TIFF: which of its pages is the photo, whether it is a camera's raw file, and pixels of more than 8 bits.

Pillow opens the first page, be it a thumbnail, and few of the pixel types; OpenCV opens deep ones, but shows a negative
where white is zero, and garbage where colours are in separate planes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from factory.errors import PhotoRejected
from factory.faces.kinds import Kind

_MAX_PAGES: Final = 1000
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 18: 8}  # bytes, by the type's number
_FORMATS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _SUB_PAGES, _EXTRA, _FORMAT = 277, 284, 330, 338, 339
_PLACES: Final = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
_PROFILE, _DNG_VERSION = 34675, 50706
_COLOURS: Final = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_NUMBERS: Final = {1: "", 2: "signed ", 3: "floating-point ", 4: "undefined ", 5: "complex ", 6: "complex "}
_RARE_COMPRESSIONS: Final = {
    32909: ", packed as PixarLog",
    34712: ", packed as JPEG 2000",
    34887: ", packed with LERC",
    34925: ", packed with LZMA",
    50000: ", packed with Zstandard",
    50001: ", packed as WebP",
    50002: ", packed as JPEG XL",
}
_OPENCV_NUMBERS: Final = {(8, 1), (10, 1), (12, 1), (14, 1), (16, 1), (16, 2), (32, 1), (32, 2), (32, 3), (64, 3)}
# None, LZW, Deflate twice, PackBits, and what it may lack. OpenCV's libtiff is asked for nothing else: what unpacks
# PixarLog in its 4.7.1 writes past its memory (CVE-2026-12912).
_OPENCV_COMPRESSIONS: Final = {1, 5, 8, 32773, 32946, *_RARE_COMPRESSIONS} - {32909}
_SENSOR: Final = (32803, 34892)  # photometric interpretations of a sensor's own values
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # it tells stderr of every unknown tag


@dataclass(frozen=True, slots=True)
class Page:
    """A page, or a sub-page of one."""

    number: int  # from 0; sub-pages count after the page they are in
    offset: int  # where its directory is in the file
    tags: dict[int, tuple[int, ...]]
    size: tuple[int, int]  # width, height, px

    def one(self, tag: int, default: int) -> int:
        """The first value of a tag."""
        return (self.tags.get(tag) or (default,))[0]

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.size[0] * self.size[1]

    @property
    def is_reduced(self) -> bool:
        """Whether it says of itself that it is a thumbnail or a mask."""
        return bool(self.one(_KIND, 0) & 5)

    @property
    def bits(self) -> int:
        """Of a sample."""
        return max(self.tags.get(_BITS) or (1,))

    @property
    def white_is_zero(self) -> bool:
        """Grey values that grow darker."""
        return self.one(_PHOTOMETRIC, 0) == 0

    @property
    def needs_opencv(self) -> bool:
        """Deep pixels, and colour differences that are neither compressed nor as many as pixels."""
        colours = self.one(_PHOTOMETRIC, 0)
        return (self.bits > 8 and colours in (0, 1, 2)) or (colours == 6 and self.one(_COMPRESSION, 1) == 1)

    @property
    def description(self) -> str:
        """Of its pixels, with an article."""
        colours = self.one(_PHOTOMETRIC, 0)
        name = _COLOURS.get(colours, f"photometric interpretation {colours}")
        planes = " in separate planes" if self._is_planar else ""
        how = _RARE_COMPRESSIONS.get(self.one(_COMPRESSION, 1), "")
        return f"a TIFF of {self.bits}-bit {_NUMBERS.get(self.one(_FORMAT, 1), '')}{name}{planes}{how}"

    @property
    def unsupported(self) -> bool:
        """What no decoder at hand gets right."""
        numbers, is_packed_well = (self.bits, self.one(_FORMAT, 1)), self.one(_COMPRESSION, 1) in _OPENCV_COMPRESSIONS
        if self.needs_opencv and not (
            numbers in _OPENCV_NUMBERS and self.one(_SAMPLES, 1) in (1, 3, 4) and is_packed_well
        ):
            return True
        return numbers[1] > 3 or (numbers[1] == 2 and self.bits <= 8) or (self.bits > 8 and self._is_planar)

    @property
    def is_rarely_packed(self) -> bool:
        """With a compression that builds of libtiff may lack."""
        return self.one(_COMPRESSION, 1) in _RARE_COMPRESSIONS

    @property
    def _is_planar(self) -> bool:
        return self.one(_PLANAR, 1) == 2 and self.one(_SAMPLES, 1) > 1

    @property
    def is_premultiplied(self) -> bool:
        """Whether colours are multiplied by their alpha already."""
        return self.one(_EXTRA, 0) == 1

    def profile(self, data: bytes) -> bytes | None:
        """Its ICC profile."""
        place, length = self.tags.get(_PROFILE, (0, 0))
        return data[place : place + length] or None

    def is_whole(self, data: bytes) -> bool:
        """Whether all of its pixels lie within the file."""
        for offsets, lengths in _PLACES:
            pairs = zip(self.tags.get(offsets, ()), self.tags.get(lengths, ()), strict=False)
            if any(offset + length > len(data) for offset, length in pairs):
                return False
        return True


def photo_page(data: bytes) -> tuple[Page, int] | None:
    """The page that is the photo: the largest, of those that are no thumbnails; and how many others are pictures of
    their own, such as the next ones in a scanner's feeder. None if there is none to be read.

    Raises PhotoRejected("unsupported") for a camera's raw file, and for pixels that are not read.
    """
    found = pages(data)
    if any(page.one(_PHOTOMETRIC, 0) in _SENSOR or _DNG_VERSION in page.tags for page in found):
        raise PhotoRejected("unsupported", Kind("a raw photo (DNG, NEF, ARW or another kind of TIFF)", "raw").detail)
    whole = [page for page in found if not page.is_reduced] or found
    if not whole:
        return None
    page = max(whole, key=lambda page: (page.num_pixels, -page.number))
    if page.unsupported:
        raise unsupported(page)
    return page, sum(page.num_pixels <= 2 * other.num_pixels for other in whole) - 1  # not the levels of a pyramid


def unsupported(page: Page) -> PhotoRejected:
    """The refusal of a page whose pixels are not read."""
    return PhotoRejected("unsupported", f"{page.description}, which is not read; save it as 8-bit or 16-bit RGB")


def only(data: bytes, page: Page) -> bytes:
    """The file as if this page came first: decoders open the first."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return data[:8] + struct.pack(order + "Q", page.offset) + data[16:]
    return data[:4] + struct.pack(order + "I", page.offset) + data[8:]


def read_deep(data: bytes, page: Page) -> np.ndarray | None:
    """Pixels of a page that `needs_opencv`, [H, W] or [H, W, 3 or 4] in RGB(A); None if they cannot be decoded."""
    values = cv2.imdecode(np.frombuffer(only(data, page), np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or (values.ndim == 3 and values.shape[2] not in (3, 4)):
        return None
    if values.ndim == 2:
        return values
    has_alpha = values.shape[2] == 4 and page.one(_EXTRA, 2) != 0  # 0: a fourth channel without a meaning
    return values[..., [2, 1, 0, 3] if has_alpha else [2, 1, 0]]


def pages(data: bytes) -> list[Page]:
    """All pages and sub-pages, as far as they can be read; none raises."""
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    found: list[Page] = []
    try:
        after = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
    except struct.error:
        return found
    seen, waiting = set[int](), [after]
    while waiting and len(found) < _MAX_PAGES:
        offset = waiting.pop()
        if offset in seen or not 0 < offset < len(data):
            continue
        seen.add(offset)
        try:
            tags, after = _directory(data, offset, order, big=big)
        except struct.error:
            continue
        size = (tags.get(_WIDTH) or (0,))[0], (tags.get(_HEIGHT) or (0,))[0]
        found.append(Page(number=len(found), offset=offset, tags=tags, size=size))
        waiting += [after, *reversed(tags.get(_SUB_PAGES, ()))]
    return found


def _directory(data: bytes, offset: int, order: str, *, big: bool) -> tuple[dict[int, tuple[int, ...]], int]:
    """The tags with whole numbers of one directory (of the profile: place and length), and where the next one is."""
    head, entry, room, word = ("Q", 20, 8, "Q") if big else ("H", 12, 4, "I")
    (num,) = struct.unpack_from(order + head, data, offset)
    at = offset + struct.calcsize(order + head)
    tags: dict[int, tuple[int, ...]] = {}
    for _ in range(min(num, 4096)):
        tag, kind, count = struct.unpack_from(f"{order}HH{word}", data, at)
        length = _SIZES.get(kind, 0) * count
        place = at + entry - room
        if length > room:
            (place,) = struct.unpack_from(order + word, data, place)
        if tag == _PROFILE:
            tags[tag] = place, length
        elif kind in _FORMATS and count and place + length <= len(data):
            tags[tag] = struct.unpack_from(f"{order}{count}{_FORMATS[kind]}", data, place)
        at += entry
    return tags, struct.unpack_from(order + word, data, at)[0]
