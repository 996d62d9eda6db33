"""Files that something has happened to: damage, transfers, programs that took them for something else."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
from PIL import Image

from benchmarks.cases.desk import Desk, Got, Outcome, short, told
from factory.errors import PhotoRejected
from factory.faces.kinds import kind_of

TOLERANCE = 30  # of 255, between crops of one portrait at up to half the size; another way up is over 50


def i18(desk: Desk) -> Got:
    """A PNG that Xcode rewrote (CgBI): told by this name."""
    bgra = np.asarray(desk.portrait.convert("RGBA"))[:, :, [2, 1, 0, 3]]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    rows = packer.compress(b"".join(b"\0" + row.tobytes() for row in bgra)) + packer.flush()
    header = struct.pack(">IIBBBBB", bgra.shape[1], bgra.shape[0], 8, 6, 0, 0, 0)
    chunks = ((b"CgBI", b"\x50\0\x20\6"), (b"IHDR", header), (b"IDAT", rows), (b"IEND", b""))
    return _refused(desk, {"CgBI": (b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*one) for one in chunks), "CgBI")})


def i19(desk: Desk) -> Got:
    """JPEGs with zeros, noise, another JPEG or grey inside, or an interval lost: damaged, never a stripe of rubbish."""
    data, rows = desk.encoded(quality=95), desk.encoded(restart_marker_rows=1)
    middle = len(data) // 2
    noise = np.random.default_rng(0).bytes(4096)
    marks = [
        at for at in range(rows.index(b"\xff\xda"), len(rows) - 1) if rows[at] == 0xFF and rows[at + 1] & 0xF8 == 0xD0
    ]
    half = len(marks) // 2
    return _refused(desk, {
        "zeros": (data[:middle] + bytes(4096) + data[middle + 4096 :], "damaged"),
        "noise": (data[:middle] + noise + data[middle + 4096 :], "cannot be decoded|damaged"),
        "another": (data[:middle] + desk.encoded() + data[middle:], "cannot be decoded|damaged"),
        "ends early": (data[:middle] + data[-2:], "damaged"),
        "interval": (rows[: marks[half]] + rows[marks[half + 1] :], "damaged"),
    })  # fmt: skip


def i20(desk: Desk) -> Got:
    """JPEGs with filler before their end, junk behind it, junk between segments, a flag of ten bytes: used."""
    data = desk.encoded()
    files = {
        "filler": data[:-2] + bytes(600) + data[-2:],
        "behind": data + bytes(300) + b"SEFT" + data[:500],
        "between": data[:20] + bytes(9) + data[20:],  # behind the first segment
        "metadata": data[:2] + (b"\xff\xed\xff\xff" + bytes(65_533)) * 200 + data[2:],
    }
    return _right(desk, files)


def i21(desk: Desk) -> Got:
    """Line ends or letters changed by a transfer; a server's header or a warning of PHP in front: told as that."""
    jpeg, png = desk.encoded(), desk.encoded(format="PNG")
    header = b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\n\r\n"
    return _refused(desk, {
        "PNG, LF": (png.replace(b"\r\n", b"\n"), "line ends"),
        "PNG, CRLF": (png.replace(b"\n", b"\r\n"), "line ends"),
        "JPEG as text": (jpeg.decode(errors="replace").encode(), "took for text"),
        "PNG as text": (png.decode(errors="replace").encode(), "took for text"),
        "JPEG twice encoded": (jpeg.decode("latin-1").encode(), "took for text"),
        "header": (header + jpeg, f"behind {len(header)} other bytes"),
        "warning": (b"<br />\n<b>Warning</b>: undefined\n" + png, "other bytes"),
    })  # fmt: skip


def i22(desk: Desk) -> Got:
    """A portrait letterboxed to 9:16 and 21:9: the same crop as of the portrait."""
    files = {}
    for size, at, colour in (((512, 910), (0, 199), "black"), ((1195, 512), (341, 0), "white")):
        frame = Image.new("RGB", size, colour)
        frame.paste(desk.portrait, at)
        files[f"{size[0]} x {size[1]}"] = desk.encoded(frame, quality=95)
    return _right(desk, files)


def i23(desk: Desk) -> Got:
    """LMDB, MXNet's, TensorFlow's and HDF5 record files, pickles, Lepton, a shortcut: told what they are."""
    record = struct.pack("<QI", 40, 9) + b"\n\xe2" + bytes(46)
    files = {
        "LMDB": bytes(16) + b"\xde\xc0\xef\xbe" + bytes(99),
        "RecordIO": struct.pack("<II", 0xCED7230A, 60) + bytes(60),
        "TFRecord": record,
        "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(99),
        "pickle": b"\x80\3}q\0." + bytes(9),
        "Lepton": b"\xcf\x84\1Z" + bytes(60),
        "shortcut": b"L\0\0\0\1\x14\2\0" + bytes(60),
    }
    wrong = [name for name, data in files.items() if name not in kind_of(data).detail or not kind_of(data).reason]
    return Got(not wrong, f"not told: {wrong}" if wrong else f"{len(files)} told by name")


def _refused(desk: Desk, files: Mapping[str, tuple[bytes, str]]) -> Got:
    """Each is refused, and the detail has one of these words (parted by |)."""
    outcomes = {name: desk.prepare(data) for name, (data, _) in files.items()}
    wrong = [
        name
        for name, (_, words) in files.items()
        if not isinstance(got := outcomes[name], PhotoRejected)
        or not any(word in got.detail for word in words.split("|"))
    ]
    return Got(not wrong, _words(outcomes))


def _right(desk: Desk, files: Mapping[str, bytes]) -> Got:
    outcomes = {name: desk.prepare(data) for name, data in files.items()}
    right = [
        not isinstance(got, PhotoRejected) and len(got) == 1 and desk.unlike(got[0].crop) < TOLERANCE
        for got in outcomes.values()
    ]
    return Got(all(right), _words(outcomes))


def _words(outcomes: Mapping[str, Outcome]) -> str:
    return short("; ".join(f"{name}: {told(outcome)}" for name, outcome in outcomes.items()), 300)


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


CASES = (i18, i19, i20, i21, i22, i23)
