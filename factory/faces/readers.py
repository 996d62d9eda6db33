"""A reader for each kind of image file: which picture of it counts, how deep its pixels are, which colours they mean.

Each raises PhotoRejected for what it can name, and whatever its decoder raises for damaged bytes.
"""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Final, TypeAlias

import cv2
import numpy as np
import pylibjxl
from PIL import ExifTags, Image
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.WebPImagePlugin import WebPImageFile
from pillow_heif import HeifImageFile

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces import jpeg, tiff
from factory.faces.bmp import pixels_of_masked, size_of_masked
from factory.faces.boxes import jp2_profile, jxl_codestream
from factory.faces.colour import deep_to_rgb, is_uniform, to_rgb
from factory.faces.icc import adobe_profile, coded_profile, gamma_profile
from factory.faces.png import Png, pared

warnings.filterwarnings("ignore", module="PIL")  # it tells stderr of damaged metadata, which costs nothing

# What decoders raise on corrupt bytes, found by flipping bits of every format.
CORRUPT: Final[tuple[type[Exception], ...]] = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, RuntimeError, ArithmeticError),
    *(struct.error, zlib.error, AttributeError),
)
_MAX_FRAMES: Final = 100  # of an animation are looked at for one that shows something
_LOST_ROWS: Final = 20  # px: a JPEG's last row of blocks, and what smoothing reaches above it
_LOST_SHARE: Final = 0.05  # of the rows of a JPEG without an end that may be missing
_ORIENTATION: Final = 274  # tag of EXIF and TIFF
_OTHER_SIZE: Final = re.compile("size signaled in the file|exceeds the maximum image size")  # as libheif says it


@dataclass(frozen=True, slots=True)
class Decoded:
    """The picture of a file."""

    image: Image.Image  # RGB
    orientation: int = 1  # EXIF's number
    frame: int = 0  # of an animation, page of a TIFF
    salvaged: bool = False  # rows are missing
    unread: int = 0  # pages beside it


Reader: TypeAlias = Callable[[bytes, PrepareConfig], Decoded]


def check_size(size: tuple[int, int], config: PrepareConfig) -> None:
    """Raises PhotoRejected for a picture of more pixels, or of a shorter side, than the limits allow."""
    width, height = size
    if width * height > config.max_pixels:
        limit = f"the limit is {config.max_pixels:,} in all (max_pixels)"
        raise PhotoRejected("too_large", f"{width} x {height} pixels; {limit}")
    if min(size) < config.min_side_px:
        raise PhotoRejected("too_small", f"{width} x {height} pixels; a side needs {config.min_side_px} (min_side_px)")


def _read_jpeg(data: bytes, config: PrepareConfig) -> Decoded:
    """The first picture: what follows in an MPO or a motion photo is a second view, a depth map or a clip.

    Pillow's class for MPO would check the size once more, by a limit of its own.
    """
    image: Image.Image = JpegImageFile(BytesIO(data), "")
    check_size(image.size, config)
    rows = height = image.height
    values = None
    jpeg.check_holes(data)
    if jpeg.has_end(data):
        values = jpeg.pixels(data, image.mode)
    else:
        ended, rows = jpeg.what_is_left(data)
        lost = height - rows
        if not config.salvage and (rows == 0 or lost > max(_LOST_ROWS, _LOST_SHARE * height)):
            there = f"{rows} of its {height} rows are there" if rows else "what is there is coarse"
            raise PhotoRejected("damaged", f"a JPEG that is cut short: {there}; {_SALVAGE}")
        image = JpegImageFile(BytesIO(ended), "")
    orientation, profile = _orientation(image), image.info.get("icc_profile") or _camera_profile(image)
    if values is not None:
        image = Image.frombytes(image.mode, image.size, values.tobytes())
    elif 0 < rows < height:
        image = image.crop((0, 0, image.width, rows))
    else:
        image.load()
    return Decoded(to_rgb(image, profile), orientation, salvaged=rows < height)


def _read_png(data: bytes, config: PrepareConfig) -> Decoded:
    png = pared(data)
    image = PngImageFile(BytesIO(png.data), "")
    check_size(image.size, config)
    profile = _png_profile(png, image)
    if png.depth == 16:  # Pillow keeps the upper 8 bits of colours, of which a 12-bit camera uses 4
        image.load()
        values = cv2.imdecode(np.frombuffer(png.data, np.uint8), cv2.IMREAD_UNCHANGED)
        if values is not None and values.dtype == np.uint16 and values.ndim == 3:
            alpha = values[..., 3] if values.shape[2] == 4 else None
            return Decoded(deep_to_rgb(values[..., 2::-1], profile, alpha=alpha), _orientation(image))
    return _shown(image, profile, config)


def _read_tiff(data: bytes, config: PrepareConfig) -> Decoded:
    found = tiff.photo_page(data)
    if found is None:
        raise ValueError("no page")
    page, unread = found
    check_size(page.size, config)
    image = tiff.opened(data, page) if page.is_for_pillow else None
    if image is None:
        rgb = tiff.numbers_to_rgb(data, page)
        return Decoded(rgb, page.one(_ORIENTATION, 1), frame=page.number, unread=unread)
    picture, salvaged = _loaded(image, config)
    rgb = to_rgb(picture, image.info.get("icc_profile"))
    return Decoded(rgb, _orientation(picture), frame=page.number, salvaged=salvaged, unread=unread)


def _read_heif(data: bytes, config: PrepareConfig) -> Decoded:
    image = HeifImageFile(BytesIO(data), "")  # at the primary picture, turned upright by libheif
    check_size(image.size, config)
    nclx = image.info.get("nclx_profile") or {}
    coded = coded_profile(int(nclx.get("color_primaries", 1)), int(nclx.get("transfer_characteristics", 13)))
    try:
        image.load()
    except (ValueError, RuntimeError) as error:
        if _OTHER_SIZE.search(str(error)):
            raise PhotoRejected("damaged", _UNLIKE_ITS_HEADER) from error
        raise
    return Decoded(to_rgb(image, image.info.get("icc_profile") or coded))


def _read_avif(data: bytes, config: PrepareConfig) -> Decoded:
    image = AvifImageFile(BytesIO(data), "")
    check_size(image.size, config)
    at = data.find(b"colrnclx")
    coded = coded_profile(*struct.unpack_from(">HH", data, at + 8)) if 0 <= at <= len(data) - 12 else None
    return _shown(image, image.info.get("icc_profile") or coded, config)


def _read_jxl(data: bytes, config: PrepareConfig) -> Decoded:
    data = jxl_codestream(data)
    header = pylibjxl.probe(data)
    check_size((header["width"], header["height"]), config)
    values, metadata = pylibjxl.decode(data, metadata=True)  # upright, 8 bits
    return Decoded(to_rgb(Image.fromarray(values), metadata.get("icc")))


def _read_bmp(data: bytes, config: PrepareConfig) -> Decoded:
    try:
        return _plain(BmpImageFile)(data, config)
    except OSError:  # of what Pillow does not read, also
        if (size := size_of_masked(data)) is None:
            raise
    check_size(size, config)
    return Decoded(to_rgb(Image.fromarray(pixels_of_masked(data))))


def _read_jp2(data: bytes, config: PrepareConfig) -> Decoded:
    image = Jpeg2KImageFile(BytesIO(data), "")
    check_size(image.size, config)
    return _shown(image, jp2_profile(data), config)


def _plain(plugin: Callable[[BytesIO, str], ImageFile]) -> Reader:
    """The reader of a format with nothing special about it."""

    def read(data: bytes, config: PrepareConfig) -> Decoded:
        image = plugin(BytesIO(data), "")
        check_size(image.size, config)
        return _shown(image, image.info.get("icc_profile"), config)

    return read


READERS: Final[dict[str, Reader]] = {
    "JPEG": _read_jpeg,
    "PNG": _read_png,
    "TIFF": _read_tiff,
    "HEIF": _read_heif,
    "AVIF": _read_avif,
    "JPEG XL": _read_jxl,
    "WebP": _plain(WebPImageFile),
    "GIF": _plain(GifImageFile),
    "BMP": _read_bmp,
    "JPEG 2000": _read_jp2,
    "PPM": _plain(PpmImageFile),
}
_UNLIKE_ITS_HEADER: Final = (
    "a HEIF that is not as large as its header says, as some programs write it when they scale or cut; save it anew as "
    "JPEG or PNG"
)
_SALVAGE: Final = "copy it again, or let --set salvage=true use what is there"


def _shown(image: ImageFile, profile: bytes | None, config: PrepareConfig) -> Decoded:
    """The picture, or of an animation the first frame in which something is to be seen."""
    picture, salvaged = _loaded(image, config)
    frame = _shown_frame(image) if getattr(image, "is_animated", False) and not salvaged else 0
    return Decoded(to_rgb(picture, profile), _orientation(image), frame=frame, salvaged=salvaged)


def _shown_frame(image: ImageFile) -> int:
    """Leaves the animation at that frame."""
    for frame in range(_MAX_FRAMES):
        try:
            image.seek(frame)
            image.load()
        except CORRUPT:  # no such frame, or a damaged one
            break
        if not is_uniform(image):
            return frame
    image.seek(0)
    image.load()
    return 0


def _loaded(image: ImageFile, config: PrepareConfig) -> tuple[Image.Image, bool]:
    """The picture, and whether it is only what a damaged file still holds of it: its rows down to the last decoded."""
    try:
        image.load()
        return image, False
    except CORRUPT:
        if not config.salvage or image.info.get("interlace") or image._im is None:
            raise
        part = image._new(image.im)  # decoders fill it from above; what they have not reached is zero
        live = np.flatnonzero(np.asarray(part).reshape(part.height, -1).any(1))
        if not len(live):
            raise
        return part.crop((0, 0, part.width, int(live[-1]) + 1)), True


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(ExifTags.Base.Orientation)
    except CORRUPT:  # a damaged EXIF block says nothing about the pixels
        return 1
    return value if isinstance(value, int) else 1  # a text or a fraction is none, to browsers too


def _camera_profile(image: Image.Image) -> bytes | None:
    """Of cameras that mark Adobe RGB in EXIF alone."""
    try:
        is_adobe = image.getexif().get_ifd(ExifTags.IFD.Interop).get(1) == "R03"
    except CORRUPT:
        return None
    return adobe_profile() if is_adobe else None


def _png_profile(png: Png, image: PngImageFile) -> bytes | None:
    """By the precedence of PNG's third edition."""
    if png.coded is not None:
        return coded_profile(*png.coded)
    gamma, primaries = image.info.get("gamma"), image.info.get("chromaticity")
    if png.profile is not None or "srgb" in image.info or gamma is primaries is None:
        return png.profile
    return gamma_profile(gamma, primaries)
