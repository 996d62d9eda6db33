"""TIFF: which of its pages is the photo, whether it is a camera's raw file, and pixels of which Pillow knows nothing.

Pillow opens the first page, be it a thumbnail, and few of the pixel types. Those of more than 8 bits, and other numbers
of samples, are read as numbers (samples.py).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import TiffImageFile

from factory.errors import PhotoRejected
from factory.faces.colour import deep_to_rgb, lab_to_rgb, to_rgb
from factory.faces.kinds import Kind
from factory.faces.samples import UNPACKED, colour_differences, samples

_MAX_PAGES: Final = 1000
_MAX_SAMPLES: Final = 8
_SIZES: Final = {1: 1, 2: 1, 3: 2, 4: 4, 6: 1, 7: 1, 8: 2, 9: 4, 13: 4, 16: 8, 18: 8}  # bytes, by the type's number
_FORMATS: Final = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_KIND, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 254, 256, 257, 258, 259, 262
_SAMPLES, _PLANAR, _PREDICTOR, _COLOUR_MAP, _SUB_PAGES, _EXTRA, _FORMAT = 277, 284, 317, 320, 330, 338, 339
_PLACES: Final = ((273, 279), (324, 325))  # offsets and lengths of strips, of tiles
_PROFILE, _DNG_VERSION = 34675, 50706
_COLOURS: Final = {0: "grey", 1: "grey", 2: "RGB", 3: "palette", 5: "CMYK", 6: "YCbCr", 8: "Lab", 9: "Lab", 10: "Lab"}
_NUMBERS: Final = {1: "", 2: "signed ", 3: "floating-point ", 4: "undefined ", 5: "complex ", 6: "complex "}
_CHANNELS: Final = {0: 1, 1: 1, 2: 3, 5: 4, 8: 3, 9: 3}  # without alpha, by photometric interpretation
_RARE_COMPRESSIONS: Final = {
    32771: "CCITT's run lengths in words",
    32909: "PixarLog",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34661: "JBIG",
    34712: "JPEG 2000",
    34887: "LERC",
    34933: "PNG",
    34934: "JPEG XR",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_USUAL_COMPRESSIONS: Final = {2, 3, 4, 6, 7, 32809, 34676, 34677, *UNPACKED}
_NUMBER_TYPES: Final = {*((bits, 1) for bits in (*range(1, 17), 32, 64)), (16, 2), (32, 2), (16, 3), (32, 3), (64, 3)}
_SENSOR: Final = (32803, 34892)  # photometric interpretations of a sensor's own values


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
    def is_for_pillow(self) -> bool:
        """Whether Pillow may know it: not deep pixels, nor colour differences that pixels share without compression."""
        colours = self.one(_PHOTOMETRIC, 0)
        shares = colours == 6 and self.one(_COMPRESSION, 1) == 1
        return not shares and not (self.bits > 8 and colours in _CHANNELS)

    @property
    def has_numbers(self) -> bool:
        """Whether its pixels can be read as numbers of a type, as many as its colours need."""
        fits = _CHANNELS.get(self.one(_PHOTOMETRIC, 0), 99) <= self.one(_SAMPLES, 1) <= _MAX_SAMPLES
        types = {(bits, self.one(_FORMAT, 1)) for bits in self.tags.get(_BITS, (1,))}
        is_plain = self.bits in (8, 16, 32, 64) or self.one(_PREDICTOR, 1) == 1
        is_packed_well = is_plain and self.one(_COMPRESSION, 1) in UNPACKED
        return fits and len(types) == 1 and types <= _NUMBER_TYPES and is_packed_well

    @property
    def description(self) -> str:
        """Of its pixels, with an article."""
        colours, packing = self.one(_PHOTOMETRIC, 0), self.one(_COMPRESSION, 1)
        name = _COLOURS.get(colours, f"photometric interpretation {colours}")
        planes = " in separate planes" if self._is_planar else ""
        more = max(self.one(_SAMPLES, 1) - _CHANNELS.get(colours, 99), 0)
        beside = f" with {more} more channel{'s' if more > 1 else ''}" if more else ""
        is_usual = packing in _USUAL_COMPRESSIONS
        how = "" if is_usual else f", packed as {_RARE_COMPRESSIONS.get(packing, f'no. {packing}')}"
        return f"a TIFF of {self.bits}-bit {_NUMBERS.get(self.one(_FORMAT, 1), '')}{name}{beside}{planes}{how}"

    @property
    def unsupported(self) -> bool:
        """What no decoder at hand gets right."""
        number_type = self.one(_FORMAT, 1)
        if self.one(_COMPRESSION, 1) not in _USUAL_COMPRESSIONS:
            return True
        if not self.is_for_pillow and self.one(_PHOTOMETRIC, 0) != 6 and not self.has_numbers:
            return True
        return number_type > 3 or (number_type == 2 and self.bits <= 8)

    @property
    def _is_planar(self) -> bool:
        return self.one(_PLANAR, 1) == 2 and self.one(_SAMPLES, 1) > 1

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
    is_usual = page.one(_COMPRESSION, 1) in _USUAL_COMPRESSIONS
    remedy = "save it as 8-bit or 16-bit RGB" if is_usual else "save it with LZW or without compression"
    return PhotoRejected("unsupported", f"{page.description}, which is not read; {remedy}")


def only(data: bytes, page: Page) -> bytes:
    """The file as if this page came first: decoders open the first."""
    order = "<" if data[:2] == b"II" else ">"
    if data[2:4] in (b"+\0", b"\0+"):
        return data[:8] + struct.pack(order + "Q", page.offset) + data[16:]
    return data[:4] + struct.pack(order + "I", page.offset) + data[8:]


def opened(data: bytes, page: Page) -> TiffImageFile | None:
    """The page by Pillow, not loaded yet; None if Pillow knows no such pixels."""
    try:
        image = TiffImageFile(BytesIO(only(data, page)), "")
    except (OSError, SyntaxError, ValueError, TypeError, LookupError):  # its tags could be read, so it is their values
        return None
    colours = page.tags.get(_COLOUR_MAP, ())
    if image.mode == "P" and len(colours) == 3 * 256 and max(colours) < 256:  # written as 8 bits, by mistake
        image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    return image


def numbers_to_rgb(data: bytes, page: Page) -> Image.Image:
    """The picture of a page that is not for Pillow, mode RGB. Raises PhotoRejected if its pixels are not read, and
    whatever decoders raise."""
    colours, profile = page.one(_PHOTOMETRIC, 0), page.profile(data)
    if colours == 6 and page.one(_COMPRESSION, 1) == 1 and page.bits == 8:
        values = colour_differences(data, page)
        return to_rgb(Image.frombytes("YCbCr", page.size, values.tobytes()), profile)
    if not page.has_numbers:
        raise unsupported(page)
    values, num = samples(data, page), _CHANNELS[colours]
    if colours in (8, 9):
        return lab_to_rgb(values[..., :3], is_signed=colours == 8)
    extra = page.one(_EXTRA, 2 if colours == 2 else 0)  # who writes four colours of RGB and says nothing means alpha
    return deep_to_rgb(
        values[..., 0] if num == 1 else values[..., :num],
        profile,
        alpha=values[..., num] if values.shape[2] > num and extra else None,
        white_is_zero=colours == 0,
        premultiplied=extra == 1,
    )


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
        if all(size):  # else it is no page, but zeros, as a copy that broke off leaves them
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
