"""What a file is, by its first bytes: one that is read, or one that is refused by its true name, with the remedy."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

_Group = Literal["read", "picture", "raw", "video", "sound", "document", "archive", "data", "text"]
_REMEDIES: Final[dict[str, str]] = {
    "picture": "save it as JPEG or PNG",
    "raw": "develop it first: save it as JPEG or PNG with the camera's software, darktable or RawTherapee",
    "video": "take single pictures out of it, for instance with ffmpeg",
    "sound": "it holds no picture",
    "document": "save its pictures as JPEG or PNG",
    "archive": "unpack it",
    "data": "it is no picture; take it out of the folder",
    "text": "it is no picture; take it out of the folder",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of file."""

    name: str  # "JPEG"; with an article where it is not read: "a PDF document"
    group: _Group = "read"
    remedy: str = ""  # of its own; else its group's

    @property
    def reason(self) -> str:
        """Why it is refused, of factory.errors.REASONS; "" if it is read."""
        if self.group == "read":
            return ""
        return "unsupported" if self.group in ("picture", "raw") else "not_an_image"

    @property
    def is_known(self) -> bool:
        """Whether there is a name for it."""
        return self is not _UNKNOWN

    @property
    def detail(self) -> str:
        """What it is, and what to do."""
        return f"{self.name}; {self.remedy or _REMEDIES[self.group]}"


_UNKNOWN: Final = Kind("of no kind that is known here", "data", "if it opens elsewhere, save it as JPEG or PNG")
_EXPORT: Final = "write what it holds as picture files, or as Parquet with a column image"

# offset, bytes, what they mean; the first that fits counts
_MAGIC: Final[tuple[tuple[int, bytes, Kind], ...]] = (
    (0, b"\xff\xd8\xff", Kind("JPEG")),
    (
        12,
        b"CgBI",
        Kind("a PNG that Xcode rewrote for iPhones (CgBI)", "picture", "open it on a Mac and save it as PNG"),
    ),
    (0, b"\x89PNG\r\n\x1a\n", Kind("PNG")),
    (0, b"GIF87a", Kind("GIF")),
    (0, b"GIF89a", Kind("GIF")),
    (8, b"CR\x02", Kind("a Canon raw photo (CR2)", "raw")),
    (0, b"IIII", Kind("a Phase One raw photo (IIQ)", "raw")),
    (8, b"IIII", Kind("a Phase One raw photo (IIQ)", "raw")),
    (8, b"MMMMRaw", Kind("a Phase One raw photo (IIQ)", "raw")),
    (0, b"II*\0", Kind("TIFF")),
    (0, b"MM\0*", Kind("TIFF")),
    (0, b"II+\0", Kind("TIFF")),
    (0, b"MM\0+", Kind("TIFF")),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", Kind("JPEG 2000")),
    (0, b"\xff\x4f\xff\x51", Kind("JPEG 2000")),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", Kind("JPEG XL")),
    (0, b"\0\0\0\x0cJXS \r\n\x87\n", Kind("a JPEG XS picture", "picture")),
    (0, b"\xff\x10\xff\x50", Kind("a JPEG XS picture", "picture")),
    (0, b"8BPS", Kind("a Photoshop document (PSD)", "picture")),
    (0, b"II\xbc", Kind("a JPEG XR picture", "picture")),
    (0, b"\x76\x2f\x31\x01", Kind("an OpenEXR picture", "picture")),
    (0, b"#?RADIANCE", Kind("a Radiance HDR picture", "picture")),
    (0, b"gimp xcf", Kind("a GIMP document (XCF)", "picture")),
    (0, b"icns", Kind("a Mac icon (ICNS)", "picture")),
    (0, b"\0\0\1\0", Kind("an icon (ICO)", "picture")),
    (0, b"\0\0\2\0\0\0\0\0", Kind("a Targa picture (TGA)", "picture")),  # no colour map; a cursor holds one or more
    (0, b"\0\0\x0a\0\0\0\0\0", Kind("a Targa picture (TGA)", "picture")),
    (0, b"\0\0\2\0", Kind("a cursor (CUR)", "picture")),
    (0, b"\x0a\5\1\x08", Kind("a PCX picture", "picture")),
    (0, b"\1\xda\0\1", Kind("an SGI picture", "picture")),
    (0, b"\1\xda\1\1", Kind("an SGI picture", "picture")),
    (0, b"DDS ", Kind("a DirectDraw texture (DDS)", "picture")),
    (0, b"qoif", Kind("a QOI picture", "picture")),
    (0, b"BPG\xfb", Kind("a BPG picture", "picture")),
    (0, b"FLIF", Kind("a FLIF picture", "picture")),
    (0, b"AT&TFORM", Kind("a DjVu document", "document")),
    (0, b"SIMPLE  =", Kind("a FITS file", "picture")),
    (128, b"DICM", Kind("a DICOM file", "picture")),
    (0, b"\xd7\xcd\xc6\x9a", Kind("a Windows metafile (WMF)", "document")),
    (40, b" EMF", Kind("a Windows metafile (EMF)", "document")),
    (0, b"FUJIFILMCCD-RAW", Kind("a Fujifilm raw photo (RAF)", "raw")),
    (0, b"IIRO", Kind("an Olympus raw photo (ORF)", "raw")),
    (0, b"IIRS", Kind("an Olympus raw photo (ORF)", "raw")),
    (0, b"MMOR", Kind("an Olympus raw photo (ORF)", "raw")),
    (0, b"IIU\0", Kind("a Panasonic raw photo (RW2)", "raw")),
    (0, b"FOVb", Kind("a Sigma raw photo (X3F)", "raw")),
    (0, b"\0MRM", Kind("a Minolta raw photo (MRW)", "raw")),
    (6, b"HEAPCCDR", Kind("a Canon raw photo (CRW)", "raw")),
    (0, b"%PDF-", Kind("a PDF document", "document")),
    (0, b"%!PS", Kind("a PostScript document (EPS)", "document")),
    (0, b"\xc5\xd0\xd3\xc6", Kind("a PostScript document (EPS)", "document")),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", Kind("an old Office document, or Windows' Thumbs.db", "document")),
    (0, b"{\\rtf", Kind("a rich text document (RTF)", "document")),
    (0, b"PK\3\4", Kind("a zip archive, or a document in one (docx, odt, ...)", "archive")),
    (0, b"PK\5\6", Kind("an empty zip archive", "archive")),
    (0, b"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", "archive")),
    (0, b"Rar!\x1a\7", Kind("a RAR archive", "archive")),
    (0, b"\xfd7zXZ\0", Kind("an xz file", "archive")),
    (0, b"\x28\xb5\x2f\xfd", Kind("a Zstandard file", "archive")),
    (257, b"ustar", Kind("a tar archive", "archive")),
    (0, b"\x1aE\xdf\xa3", Kind("a video (Matroska, WebM)", "video")),
    (0, b"FLV\1", Kind("a video (Flash)", "video")),
    (0, b"\0\0\1\xba", Kind("a video (MPEG)", "video")),
    (0, b"\0\0\1\xb3", Kind("a video (MPEG)", "video")),
    (0, b"0&\xb2u\x8ef\xcf\x11", Kind("a video or sound (Windows Media)", "video")),
    (0, b"OggS", Kind("a sound or video (Ogg)", "sound")),
    (0, b"fLaC", Kind("a sound (FLAC)", "sound")),
    (0, b"PAR1", Kind("a Parquet table", "data", "its photos are read where --photos names Parquet files alone")),
    (0, b"ARROW1", Kind("an Arrow table", "data", "write it as Parquet with a column image")),
    (8, b"\x10\0\0\0\0\0\n\0", Kind("an Arrow stream", "data", "load_from_disk(DIR).to_parquet(FILE) rewrites it")),
    (0, b"\x89HDF\r\n\x1a\n", Kind("an HDF5 file", "data", _EXPORT)),
    (0, b"\n\x23\xd7\xce", Kind("MXNet's record file (RecordIO)", "data", _EXPORT)),
    (16, b"\xde\xc0\xef\xbe", Kind("an LMDB database", "data", _EXPORT)),
    (0, b"L\0\0\0\1\x14\2\0", Kind("a Windows shortcut", "data", "copy the photo that it leads to")),
    (0, b"SQLite format 3\0", Kind("an SQLite database", "data")),
    (0, b"\x93NUMPY", Kind("a NumPy array", "data", "save it as PNG")),
    (0, b"MATLAB 5.0 MAT", Kind("a MATLAB file", "data")),
    (8, b'{"', Kind("a model's weights (safetensors)", "data")),
    (0, b"\0\5\x16\7", Kind("AppleDouble metadata of another file (._ file)", "data")),
    (0, b"\0\0\0\1Bud1", Kind("a Mac folder's .DS_Store", "data")),
    (0, b"bplist00", Kind("a property list, such as iCloud leaves for a photo that is not downloaded", "data")),
)
_SHORT_MAGIC: Final[tuple[tuple[bytes, Kind], ...]] = (  # so short that a text may begin so
    (b"\xff\x0a", Kind("JPEG XL")),
    (b"BM", Kind("BMP")),
    (b"P7\n", Kind("a PAM picture", "picture")),
    (b"PF\n", Kind("a colour PFM picture", "picture")),
    (b"\x1f\x8b", Kind("a gzip file", "archive")),
    (b"BZh", Kind("a bzip2 file", "archive")),
    (b"\xcf\x84", Kind("a JPEG that Lepton has packed", "picture", "unpack it by lepton")),
    (b"ID3", Kind("a sound (MP3)", "sound")),
    (b"\x7fELF", Kind("a program", "data")),
    (b"MZ", Kind("a program", "data")),
    *((b"\x80%c" % protocol, Kind("a Python pickle", "data", _EXPORT)) for protocol in (2, 3, 4, 5)),
    *((b"\xff%c" % layer, Kind("a sound (MP3)", "sound")) for layer in b"\xfb\xf3\xf2"),
)
_RIFF: Final = {
    b"WEBP": Kind("WebP"),
    b"AVI ": Kind("a video (AVI)", "video"),
    b"WAVE": Kind("a sound (WAV)", "sound"),
}
_HEAD: Final = 4096  # bytes that are looked at
_SECTOR: Final = 512  # bytes that disks and transfers lose together
# JPEG and PNG whose bytes above 127 were replaced by U+FFFD or a question mark, or written as two
_RECODED: Final = re.compile(
    rb"(?:(?:\xef\xbf\xbd|\?)PNG\r?\n|\xc2\x89PNG\r?\n|(?:\xef\xbf\xbd){4}|\xc3\xbf\xc3\x98\xc3\xbf|\?{4})"
)
# JPEG and PNG behind something else: a server's header, a warning of PHP
_BEHIND: Final = re.compile(rb"\xff\xd8\xff[\xdb\xe0-\xef\xfe]|\x89PNG\r\n\x1a\n")
_HEIF_BRANDS: Final = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_TEXT: Final[tuple[tuple[str, Kind], ...]] = (  # how it begins, in lower case, and what that means
    (r"version https://git-lfs", Kind("a Git LFS pointer in place of the file", "text", "run git lfs pull")),
    (r"\S*annex/objects/", Kind("a git-annex pointer in place of the file", "text", "run git annex get")),
    (r"data:[\w.+/-]*[;,]", Kind("a data: URI", "text", "decode it, or put it into the column uri of a Parquet file")),
    (r"(<\?xml|<!--|<!doctype svg)[^\0]*<svg|<svg", Kind("an SVG drawing", "document")),
    (r"<!doctype html|<html|<head|(<\?xml|<!--)[^\0]*<html",
     Kind("an HTML page, as a failed download leaves one", "text", "download the photo again")),
    (r"<error|<\?xml[^\0]*<error", Kind("a server's error in XML", "text", "download the photo again")),
    (r"<\?xml", Kind("an XML text", "text")),
    (r"\{\\rtf", Kind("a rich text document (RTF)", "document")),
    (r"[\[{]", Kind("a JSON text", "text")),
    (r"(/9j/|ivborw0kggo|r0lgod|ukligr)[\w+/=\s-]*$", Kind("a picture as base64 text", "text", "decode it first")),
)  # fmt: skip


def kind_of(data: bytes) -> Kind:
    """What a file of these bytes is, whatever its name says."""
    for offset, magic, kind in _MAGIC:
        if data[offset : offset + len(magic)] == magic:
            return kind
    if data[:4] == b"RIFF":
        return _RIFF.get(data[8:12], Kind("a RIFF file", "data"))
    if data[4:8] == b"ftyp":
        return _media(data)
    if re.match(rb"P[1-6fF]\s", data):
        return Kind("PPM")
    if data[4:8] in (b"moov", b"mdat", b"wide", b"free", b"skip"):
        return Kind("a video (QuickTime)", "video")
    text = _text(data)
    if text is not None:
        return text
    return next((kind for magic, kind in _SHORT_MAGIC if data.startswith(magic)), None) or _nothing(data)


def _media(data: bytes) -> Kind:
    """A file of ISO's boxes, by its brands."""
    size = min(max(int.from_bytes(data[:4], "big"), 16), 256)
    major, brands = data[8:12], {data[at : at + 4] for at in (8, *range(16, size, 4))}
    if brands & {b"avif", b"avis"}:
        return Kind("AVIF")
    if major == b"crx ":
        return Kind("a Canon raw photo (CR3)", "raw")
    if major in _HEIF_BRANDS or brands & (_HEIF_BRANDS - {b"mif1", b"msf1"}):
        return Kind("HEIF")
    if major in (b"M4A ", b"M4B "):
        return Kind("a sound (M4A)", "sound")
    return Kind("a video (QuickTime)" if major == b"qt  " else "a video (MP4)", "video")


def _text(data: bytes) -> Kind | None:
    head = data[:_HEAD]
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    text = head.decode(encoding, errors="replace")
    odd = sum(not (letter.isprintable() or letter in "\t\n\r\f") or letter == "\ufffd" for letter in text)
    if not text or odd > len(text) // 50 + 1:  # the cut at 4 KB may leave half a letter
        return None
    start = text.lstrip().lower()
    return next((kind for begin, kind in _TEXT if re.match(begin, start)), Kind("a text", "text"))


def _nothing(data: bytes) -> Kind:
    if not data.strip(b"\0"):
        return Kind(f"{len(data)} bytes, all of them zero, as a broken copy leaves them", "data", "copy it again")
    if len(data) > _SECTOR and data[:_SECTOR] == data[:1] * _SECTOR:
        lost = f"{len(data) - len(data.lstrip(data[:1]))} bytes of 0x{data[0]:02X}"
        return Kind(f"damaged at its beginning ({lost})", "data", "copy it again from where it came")
    if data[:4] == b"\x89PNG":
        return Kind("a PNG whose line ends a transfer has changed", "data", "copy it again, as binary")
    if _RECODED.match(data):
        return Kind("a picture that a program took for text, and wrote anew", "data", "copy it again, as binary")
    if found := _BEHIND.search(data[:_HEAD]):
        return Kind(f"a picture behind {found.start()} other bytes", "data", "take these away, or download it again")
    if data[12:13] == b"\n" and 16 < int.from_bytes(data[:8], "little") + 16 <= len(data):
        return Kind("TensorFlow's record file (TFRecord)", "data", _EXPORT)
    return _UNKNOWN
