"""Marks in files that have no place for content credentials: PLY, SPZ, binary glTF.

XMP's fields go where each format keeps remarks: comments of a PLY's header, the comment of the gzip stream that an SPZ
is (RFC 1952), glTF's KHR_xmp_json_ld. Content credentials of these, and of Parquet, lie in a file beside (sidecar.py).
"""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from typing import Any, Final, Literal

import numpy as np

from factory.provenance.xmp import NAMESPACES, fields

ModelKind = Literal["ply", "spz", "glb"]
_PLY: Final = b"ply\n"
_REMARK: Final = b"comment xmp "
_LINE: Final = 900  # characters of a remark: some readers of PLY take lines of 1024
_GZIP: Final = b"\x1f\x8b\x08"
_COMMENT: Final = 0x10  # gzip's flag FCOMMENT
_GLB: Final = b"glTF"
_JSON: Final = b"JSON"
_XMP: Final = "KHR_xmp_json_ld"


def model_kind(data: bytes) -> ModelKind | None:
    """What a file of a head is, by how it begins."""
    begins: dict[bytes, ModelKind] = {_PLY: "ply", _GZIP: "spz", _GLB: "glb"}
    return next((kind for first, kind in begins.items() if data.startswith(first)), None)


def with_remarks(data: bytes, made: Mapping[str, Any] | None) -> bytes:
    """The file with what `fields` says in it; the same bytes each time. It must have none yet.

    Raises ValueError for what is no PLY, SPZ or binary glTF.
    """
    said, kind = fields(made), model_kind(data)
    if kind == "ply":
        start = data.index(b"\n", len(_PLY)) + 1  # after the format's line
        return data[:start] + b"".join(map(_remarks, said.items())) + data[start:]
    if kind == "spz":
        if data[3]:
            raise ValueError("this SPZ's stream has a header of its own already")
        text = "\n".join(f"{name}={_ascii(value)}" for name, value in said.items())
        head = _GZIP + bytes([_COMMENT]) + bytes(4) + data[8:10]  # no time, which would differ each time
        return head + text.encode("ascii") + b"\0" + data[10:]
    if kind == "glb":
        return _glb_with(data, {"@context": NAMESPACES, "@id": "", **said})
    raise ValueError("this is no PLY, SPZ or binary glTF")


def remarks(data: bytes) -> dict[str, str]:
    """What `with_remarks` said in a file; empty where it says nothing."""
    kind = model_kind(data)
    said: dict[str, str] = {}
    if kind == "ply":
        comments = [line for line in data.partition(b"end_header\n")[0].splitlines() if line.startswith(_REMARK)]
        for comment in comments:
            name, _, text = comment.removeprefix(_REMARK).decode("ascii").partition(" ")
            said[name] = said.get(name, "") + text
    elif kind == "spz" and data[3] & _COMMENT:
        lines = data[10 : data.index(b"\0", 10)].decode("latin-1").splitlines()
        said = {name: text for name, _, text in (line.partition("=") for line in lines)}
    elif kind == "glb":
        packets = _glb(data)[0].get("extensions", {}).get(_XMP, {}).get("packets", [{}])
        return {name: value for name, value in packets[0].items() if not name.startswith("@")}
    return {name: json.loads(f'"{text}"') for name, text in said.items()}


def content_of(data: bytes) -> bytes:
    """The Gaussians of a file without what is said of them, to compare files by."""
    kind = model_kind(data)
    if kind == "ply":
        return _ply_content(data)
    return gzip.decompress(data) if kind == "spz" else _glb(data)[1]


def _ply_content(data: bytes) -> bytes:
    """The same for a PLY with all 62 properties of 3D Gaussian Splatting, with and without comments, and for one with
    fewer, as the store has it: coefficients that are 0 throughout are none."""
    head, end, body = data.partition(b"end_header\n")
    lines = [line for line in head.splitlines() if not line.startswith(b"comment ")]
    names = [line.split()[-1] for line in lines if line.startswith(b"property float ")]
    others = [line for line in lines if not line.startswith(b"property float ")]
    if not names or len(body) % (4 * len(names)):  # not as 3DGS has it
        return b"\n".join(lines) + end + body
    table = np.frombuffer(body, "<u4").reshape(-1, len(names))
    kept = [not name.startswith(b"f_rest_") or bool(table[:, at].any()) for at, name in enumerate(names)]
    known = [b"f_rest" if name.startswith(b"f_rest_") else name for name, keep in zip(names, kept, strict=True) if keep]
    return b"\n".join([*others, *known, end]) + table[:, kept].tobytes()


def _remarks(field: tuple[str, str]) -> bytes:
    """A field as comments, a long one as several."""
    name, text = field[0], _ascii(field[1])
    parts = [text[at : at + _LINE] for at in range(0, max(len(text), 1), _LINE)]
    return b"".join(_REMARK + f"{name} {part}\n".encode("ascii") for part in parts)


def _ascii(text: str) -> str:
    """Text as JSON has it between quotes: one line, printable."""
    return json.dumps(text)[1:-1]


def _glb_with(data: bytes, packet: Mapping[str, Any]) -> bytes:
    document, rest = _glb(data)
    document["asset"].setdefault("extensions", {})[_XMP] = {"packet": 0}
    document.setdefault("extensions", {})[_XMP] = {"packets": [packet]}
    document["extensionsUsed"] = [*document.get("extensionsUsed", []), _XMP]
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", _GLB, 2, 20 + len(text) + len(rest))
    return head + struct.pack("<I4s", len(text), _JSON) + text + rest


def _glb(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Its JSON, and all that is behind."""
    length, kind = struct.unpack_from("<I4s", data, 12)
    if kind != _JSON:
        raise ValueError("this binary glTF does not begin with its JSON")
    return json.loads(data[20 : 20 + length]), data[20 + length :]
