"""XMP in the files of pictures and clips, put there without decoding them: PNG, JPEG, WebP, GIF, MP4.

Where each format keeps it: Adobe's XMP specification, part 3; for WebP, RFC 9649; for PNG, its third edition. Pillow
writes it for three of the five, and only while it encodes; stored bytes would have to be encoded again.
"""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal
from xml.sax.saxutils import escape

from PIL import Image

FileKind = Literal["png", "jpeg", "webp", "gif", "mp4"]
SOURCE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"  # IPTC NewsCodes
COMPOSITE_TYPE: Final = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SYSTEM: Final = "identity-factory"
NAMESPACES: Final = {
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "idf": "https://identity-factory.invalid/ns/1.0/",  # ours: nothing is there to be fetched
}
_TOLD: Final = ("prompt", "seed", "pose", "poses", "image_id", "video_id", "model_id")  # columns
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_PNG_XMP: Final = b"XML:com.adobe.xmp\0"
_JPEG_XMP: Final = b"http://ns.adobe.com/xap/1.0/\0"
_GIF_XMP: Final = b"\x21\xff\x0bXMP DataXMP"
_GIF_TRAILER: Final = b"\x01" + bytes(range(255, -1, -1)) + b"\0"  # whoever skips by lengths lands on its last byte
_MP4_XMP: Final = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")  # the uuid of XMP's box
_XMP_FLAG, _ALPHA_FLAG = 0x04, 0x10  # of VP8X
_MOST_JPEG: Final = 65_533 - len(_JPEG_XMP)  # bytes of a segment


def fields(made: Mapping[str, Any] | None = None, *, composite: bool = False) -> dict[str, str]:
    """What is said of a file, by XMP's names: IPTC's DigitalSourceType and, given `made`, IPTC's fields on AI and all
    of it as JSON. `composite`: only parts of it were made by a model, as of a sheet that shows photos, too.

    `made` tells how it was made, such as prompt, seed, num_inference_steps; its `prompt` is IPTC's AIPromptInformation.
    """
    told = {
        "Iptc4xmpExt:DigitalSourceType": COMPOSITE_TYPE if composite else SOURCE_TYPE,
        "Iptc4xmpExt:AISystemUsed": SYSTEM,
        "xmp:CreatorTool": SYSTEM,
    }
    if made:
        told |= {"Iptc4xmpExt:AIPromptInformation": str(made["prompt"])} if "prompt" in made else {}
        told["idf:parameters"] = json.dumps(dict(made), ensure_ascii=False, sort_keys=True)
    return told


def packet(made: Mapping[str, Any] | None = None, *, composite: bool = False) -> bytes:
    """An XMP packet of these fields."""
    named = fields(made, composite=composite).items()
    body = "".join(f"<{name}>{escape(_xml(text))}</{name}>" for name, text in named)
    spaces = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in NAMESPACES.items())
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        f'{spaces}>{body}</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="r"?>'
    ).encode()


def _xml(text: str) -> str:
    """Text without what XML 1.0 cannot hold: control characters, halves of surrogate pairs."""
    return "".join(c for c in text if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c < "\ufffe"))


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    """How a picture or clip was made, for its file, as a row of `images`, of `videos` or of REQUEST knows it."""
    return {name: row[name] for name in _TOLD if row.get(name) not in (None, "")}


def kind_of(data: bytes) -> FileKind:
    """What a file is, by how it begins. Raises ValueError if it is none of the five."""
    if data.startswith(_PNG):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:6] in (b"GIF87a", b"GIF89a"):
        return "gif"
    if data[4:8] == b"ftyp":
        return "mp4"
    raise ValueError("this is no PNG, JPEG, WebP, GIF or MP4")


def has_place(data: bytes) -> bool:
    """Whether a file is one of the five, which hold content credentials themselves."""
    try:
        kind_of(data)
    except ValueError:
        return False
    return True


def with_xmp(data: bytes, xmp: bytes) -> bytes:
    """The file with this packet; pictures and frames are the same bytes. It must have no packet yet."""
    kind = kind_of(data)
    if kind == "png":
        start = len(_PNG) + 25  # after IHDR, which is first and always as long
        return data[:start] + _chunk(b"iTXt", _PNG_XMP + b"\0\0\0\0" + xmp) + data[start:]
    if kind == "jpeg":
        if len(xmp) > _MOST_JPEG:
            return with_xmp(data, packet())  # a longer one would need several segments; what must be said is said
        start = 4 + int.from_bytes(data[4:6], "big") if data[2:4] == b"\xff\xe0" else 2  # JFIF's segment stays first
        body = _JPEG_XMP + xmp
        return data[:start] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[start:]
    if kind == "webp":
        return _webp_with(data, xmp)
    if kind == "gif":
        start = 13 + (3 * 2 ** ((data[10] & 7) + 1) if data[10] & 0x80 else 0)  # after the palette of all frames
        return b"GIF89a" + data[6:start] + _GIF_XMP + xmp + _GIF_TRAILER + data[start:]
    return data + struct.pack(">I4s", 24 + len(xmp), b"uuid") + _MP4_XMP + xmp  # at the end: no offset changes


def without_marks(png: bytes) -> bytes:
    """A PNG without XMP and content credentials: the stored bytes, where these were marked on their way out."""
    kept = (whole for name, body, whole in _chunks(png) if not _is_mark(name, body))
    return _PNG + b"".join(kept)


def _is_mark(name: bytes, body: bytes) -> bool:
    return name == b"caBX" or (name == b"iTXt" and body.startswith(_PNG_XMP))


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, body and whole of each chunk."""
    at = len(_PNG)
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        yield png[at + 4 : at + 8], png[at + 8 : end - 4], png[at:end]
        at = end


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def _webp_with(data: bytes, xmp: bytes) -> bytes:
    """Metadata needs the extended form, which a plain picture gets here: its header tells size and transparency."""
    chunks = data[12:]
    if chunks[:4] == b"VP8X":
        chunks = chunks[:8] + bytes([chunks[8] | _XMP_FLAG]) + chunks[9:]
    else:
        with Image.open(io.BytesIO(data)) as picture:
            (width, height), flags = picture.size, _XMP_FLAG | (_ALPHA_FLAG if picture.mode == "RGBA" else 0)
        sizes = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        chunks = struct.pack("<4sII", b"VP8X", 10, flags) + sizes + chunks
    chunks += struct.pack("<4sI", b"XMP ", len(xmp)) + xmp + b"\0" * (len(xmp) % 2)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks
