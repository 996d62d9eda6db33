"""A file that is no photo is called by its true name, and the remedy is told; nothing of its content is."""

from __future__ import annotations

import io
import struct

import numpy as np
import pyarrow as pa
import pytest
import tifffile
from PIL import Image

from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.kinds import kind_of
from factory.faces.photos import decode_photo

BOX = struct.Struct(">I4s4sI4s")
STREAM = pa.BufferOutputStream()  # as save_to_disk of Hugging Face's datasets writes it
with pa.ipc.new_stream(STREAM, pa.schema([("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])):
    pass
ARROW = STREAM.getvalue().to_pybytes()
REFUSED = {
    b"%PDF-1.7\n": ("not_an_image", "a PDF document", "save its pictures"),
    b"<svg xmlns='http://www.w3.org/2000/svg'/>": ("not_an_image", "an SVG drawing", "save its pictures"),
    b"<?xml version='1.0'?>\n<!-- made by x -->\n<svg/>": ("not_an_image", "an SVG drawing", "save its"),
    b"\n<!DOCTYPE html><title>404</title>": ("not_an_image", "an HTML page", "download the photo again"),
    b"<Error><Code>AccessDenied</Code></Error>": ("not_an_image", "a server's error", "download the photo again"),
    b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 3\n": ("not_an_image", "LFS", "git lfs pull"),
    b"/annex/objects/SHA256E-s1--ab.jpg\n": ("not_an_image", "git-annex", "git annex get"),
    b"data:image/png;base64,SECRET": ("not_an_image", "a data: URI", "decode it"),
    b"/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAgGB\n": ("not_an_image", "base64", "decode it first"),
    b'{"a": 1}': ("not_an_image", "a JSON text", "take it out"),
    "Grüße aus Köln, SECRET".encode(): ("not_an_image", "a text", "take it out"),
    "Grüße".encode("utf-16"): ("not_an_image", "a text", "take it out"),
    b"BM stands for bitmap, and this is a text": ("not_an_image", "a text", "take it out"),
    b"PK\3\4" + bytes(30): ("not_an_image", "a zip archive", "unpack it"),
    bytes(257) + b"ustar" + bytes(300): ("not_an_image", "a tar archive", "unpack it"),
    b"PAR1" + bytes(30): ("not_an_image", "a Parquet table", "Parquet files alone"),
    b"\0\5\x16\7" + bytes(30): ("not_an_image", "AppleDouble", "take it out"),
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(30): ("not_an_image", "Thumbs.db", "save its pictures"),
    BOX.pack(20, b"ftyp", b"isom", 0, b"mp42"): ("not_an_image", "a video (MP4)", "ffmpeg"),
    BOX.pack(20, b"ftyp", b"qt  ", 0, b"qt  "): ("not_an_image", "a video (QuickTime)", "ffmpeg"),
    b"RIFF\0\0\0\0AVI LIST": ("not_an_image", "a video (AVI)", "ffmpeg"),
    b"\x1aE\xdf\xa3" + bytes(30): ("not_an_image", "a video (Matroska", "ffmpeg"),
    b"%!PS-Adobe-3.0 EPSF-3.0\n": ("not_an_image", "a PostScript document", "save its pictures"),
    b"8BPS\0\1" + bytes(30): ("unsupported", "a Photoshop document", "save it as JPEG"),
    b"\0\0\2" + bytes(9) + b"\x90\1\x90\1\x18\0": ("unsupported", "a Targa picture (TGA)", "save it as JPEG"),
    b"\0\0\2\0\1\0\x20\x20" + bytes(20): ("unsupported", "a cursor (CUR)", "save it as JPEG"),
    b"\x0a\5\1\x08" + bytes(30): ("unsupported", "a PCX picture", "save it as JPEG"),
    b"\1\xda\0\1" + bytes(30): ("unsupported", "an SGI picture", "save it as JPEG"),
    b"\x76\x2f\x31\x01" + bytes(30): ("unsupported", "an OpenEXR picture", "save it as JPEG"),
    b"FUJIFILMCCD-RAW 0201": ("unsupported", "a Fujifilm raw photo (RAF)", "develop it first"),
    b"II*\0\x10\0\0\0CR\x02\0" + bytes(30): ("unsupported", "a Canon raw photo (CR2)", "develop it first"),
    BOX.pack(20, b"ftyp", b"crx ", 0, b"crx "): ("unsupported", "a Canon raw photo (CR3)", "develop it first"),
    b"\x89PNG\r\n\x1a\n\0\0\0\4CgBI" + bytes(30): ("unsupported", "for iPhones (CgBI)", "save it as PNG"),
    b"\x38\0\0\0\0\0\0\0{" + b'"format":"pt"}': ("not_an_image", "weights (safetensors)", "take it out"),
    ARROW: ("not_an_image", "an Arrow stream", "to_parquet(FILE)"),
    b"\xce\x93\xce\xb5\xce\xb9\xce\xac \xcf\x84": ("not_an_image", "a text", "take it out"),
    "\u03c4\u03b7".encode(): ("not_an_image", "a text", "take it out"),  # begins as Lepton's files do
    b"\xcf\x84\1Z" + bytes(30): ("unsupported", "Lepton", "unpack it"),
    b"\xff\x10\xff\x50" + bytes(30): ("unsupported", "a JPEG XS picture", "save it as JPEG"),
    b"\n\x23\xd7\xce" + bytes(30): ("not_an_image", "RecordIO", "write what it holds as picture files"),
    bytes(16) + b"\xde\xc0\xef\xbe" + bytes(30): ("not_an_image", "an LMDB database", "write what it holds"),
    b"\x80\3}q\0" + bytes(30): ("not_an_image", "a Python pickle", "write what it holds"),
    b"L\0\0\0\1\x14\2\0" + bytes(30): ("not_an_image", "a Windows shortcut", "copy the photo"),
    b"\xff\xfb\x90\0" + bytes(30): ("not_an_image", "a sound (MP3)", "no picture"),
    struct.pack("<QI", 40, 9) + b"\n\xe2" + bytes(46): ("not_an_image", "TFRecord", "write what it holds"),
    # what transfers and programs do to pictures
    b"\x89PNG\n\x1a\n\0\0\0\rIHDR" + bytes(30): ("not_an_image", "a PNG whose line ends", "as binary"),
    b"\x89PNG\r\r\n\x1a\r\n\0\0\0\rIHDR" + bytes(30): ("not_an_image", "a PNG whose line ends", "as binary"),
    b"\xef\xbf\xbd" * 4 + b"\0\x10JFIF" + bytes(90): ("not_an_image", "took for text", "as binary"),
    b"\xef\xbf\xbdPNG\r\n\x1a\n" + bytes(90): ("not_an_image", "took for text", "as binary"),
    "\xff\xd8\xff\xe0\0\x10JFIF".encode() + bytes(90): ("not_an_image", "took for text", "as binary"),
    b"HTTP/1.1 200 OK\r\n\r\n\xff\xd8\xff\xe0" + bytes(90): ("not_an_image", "behind 19 other bytes", "take these"),
    b"\xef\xbb\xbf\x89PNG\r\n\x1a\n" + bytes(90): ("not_an_image", "behind 3 other bytes", "take these away"),
    bytes(1000): ("not_an_image", "all of them zero", "copy it again"),
    bytes(512) + b"\xff\xd9" * 300: ("not_an_image", "damaged at its beginning (512 bytes of 0x00)", "from where it"),
    b"\xff" * 700 + b"\xd8\xff\xe0" * 300: ("not_an_image", "damaged at its beginning (700 bytes of 0xFF)", "copy it"),
    b"\x89PNG\n\x1a\n\0\0\0\rIHDR": ("not_an_image", "a PNG whose line ends", "as binary"),
    bytes(range(7, 200)): ("not_an_image", "of no kind that is known here", "if it opens elsewhere"),
}


def refused(data: bytes) -> PhotoRejected:
    with pytest.raises(PhotoRejected) as refusal:
        decode_photo(data, name="x", config=PrepareConfig())
    return refusal.value


@pytest.mark.parametrize("data", REFUSED)
def test_what_is_no_photo_is_called_by_its_name(data: bytes) -> None:
    reason, name, remedy = REFUSED[data]
    refusal = refused(data)
    assert refusal.reason == reason and name in refusal.detail and remedy in refusal.detail
    assert "SECRET" not in refusal.detail and len(refusal.detail) < 200


def test_what_is_read_is_known_by_its_bytes() -> None:
    for kind, name in (("JPEG", "JPEG"), ("PNG", "PNG"), ("GIF", "GIF"), ("BMP", "BMP"), ("TIFF", "TIFF")):
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, kind)
        assert kind_of(file.getvalue()).name == name
    for kind, name in (("WEBP", "WebP"), ("AVIF", "AVIF"), ("JPEG2000", "JPEG 2000"), ("PPM", "PPM")):
        file = io.BytesIO()
        Image.new("RGB", (64, 64)).save(file, kind)
        assert kind_of(file.getvalue()).name == name
    stream = io.BytesIO()
    with pa.ipc.new_stream(stream, pa.schema([("image", pa.binary())])):  # what datasets.save_to_disk leaves
        pass
    assert "an Arrow stream; load_from_disk(DIR).to_parquet(FILE)" in refused(stream.getvalue()).detail
    assert kind_of(b"P5\n64 64\n255\n" + bytes(range(1, 200))).name == "PPM"
    for brands in ((b"heic", b"mif1"), (b"mif1", b"heic"), (b"msf1", b"hevc")):
        assert kind_of(BOX.pack(20, b"ftyp", brands[0], 0, brands[1])).name == "HEIF"
    assert kind_of(BOX.pack(20, b"ftyp", b"mif1", 0, b"avif")).name == "AVIF"


def dng(**page: object) -> bytes:
    """A thumbnail, and the picture in a sub-page of it."""
    big = np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8)
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(big[:80, :80], photometric="rgb", subfiletype=1, subifds=1, **page)
        writer.write(big, photometric="rgb", subfiletype=0)
    return file.getvalue()


def test_a_raw_photo_is_no_thumbnail() -> None:
    refusal = refused(dng(extratags=[(50706, "B", 4, (1, 4, 0, 0), True)]))
    assert refusal.reason == "unsupported" and "a raw photo (DNG" in refusal.detail and "develop" in refusal.detail
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:  # as Nikon and Sony do it
        writer.write(np.zeros((80, 80, 3), np.uint8), photometric="rgb", subfiletype=1, subifds=1)
        writer.write(np.zeros((200, 240), np.uint16), photometric=32803, subfiletype=0)  # type: ignore[arg-type]
    assert refused(file.getvalue()).reason == "unsupported"


def test_a_picture_in_a_sub_page_is_found_behind_its_thumbnail() -> None:
    image = decode_photo(dng(), name="x", config=PrepareConfig()).image
    np.testing.assert_array_equal(image, np.random.default_rng(0).integers(0, 256, (200, 240, 3), np.uint8))


@pytest.mark.parametrize(
    ("frame", "precision", "name"), [(0xC1, 12, "12 bits"), (0xC3, 8, "lossless"), (0xF7, 8, "LS")]
)
def test_rare_sorts_of_jpeg_are_named(frame: int, precision: int, name: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = frame, precision
    refusal = refused(bytes(data))
    assert refusal.reason == "unsupported" and name in refusal.detail
