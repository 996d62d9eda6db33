"""What is wrong with a zip archive, or with a member of one, in plain words. Python's own speak of its records."""

from __future__ import annotations

import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from shlex import quote
from typing import IO, Final

# the record at the end of a zip: this disk, the list's, its members on this one, in all, bytes, offset; of a comment
_END: Final = struct.Struct("<4s4H2LH")
_LARGE: Final = struct.Struct(
    "<4sLQL"
)  # right before it, of a large one: disk and place of another end, number of disks
_COMMENT: Final = 2**16  # bytes that may follow
_UNSAID: Final = 0xFFFF  # the other end says it
_PACKINGS: Final = {9: "Deflate64", 93: "Zstandard", 95: "xz", 98: "PPMd"}  # which Python does not unpack
_FAULTS: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, struct.error)
_OF_BZIP2: Final = "Invalid data stream"  # an OSError, as if the disk were at fault

_IN_PARTS: Final = (
    "it is in parts, of which this is the last (.z01, .z02, ... are the others): in a folder with all of them, "
    "`zip -s 0 {} --out whole.zip` makes one archive of them"
)
_CUT: Final = "cut short: the list of its members, which is at the end of a zip, is not there; copy it again"
_LIST: Final = "the list of its members, at its end, is damaged; copy it again"
_MEMBER: Final = "damaged in the archive: what unpacks is not what was packed; copy the archive again"


def open_zip(stream: IO[bytes], name: str) -> tuple[zipfile.ZipFile, str]:
    """The archive, and what is wrong with its list of members so that some may be missing; empty: nothing. Raises
    BadZipFile where there is no list; `name` is the file's."""
    disks, num = _end(stream)
    if disks > 1:
        raise zipfile.BadZipFile(_IN_PARTS.format(quote(name)))
    try:
        archive = zipfile.ZipFile(stream)
    except (*_FAULTS, NotImplementedError) as error:
        raise zipfile.BadZipFile(_LIST) from error
    there = len(archive.infolist())
    is_all = num == _UNSAID or num == there & 0xFFFF  # old programs count modulo 65536
    return archive, "" if is_all else f"its end tells of {num} members, its list of {there}"


def _end(stream: IO[bytes]) -> tuple[int, int]:
    """How many disks a zip is on, and its number of members, by its end. Raises BadZipFile if it has none."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - _COMMENT - _END.size - _LARGE.size))
    tail = stream.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) - at < _END.size:
        raise zipfile.BadZipFile(_CUT)
    _, disk, _, _, num, *_ = _END.unpack_from(tail, at)
    if at >= _LARGE.size and tail[at - _LARGE.size :].startswith(b"PK\6\7"):
        disks = _LARGE.unpack_from(tail, at - _LARGE.size)[3]
    else:
        disks = disk + 1
    return disks, num


class Unpacked:
    """A member of a zip, as a stream. Whatever is wrong with its bytes is an OSError in plain words."""

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & 1:
            raise OSError("it is encrypted: unpack the archive with its password")
        if info.header_offset < 0:  # the beginning of the archive is missing
            raise OSError(_MEMBER)
        try:
            with _in_plain_words():
                self._stream = archive.open(info)
        except NotImplementedError:
            how = _PACKINGS.get(info.compress_type, f"method {info.compress_type}")
            raise OSError(f"it is packed by {how}, which is not read: unpack the archive") from None

    def __enter__(self) -> Unpacked:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end."""
        with _in_plain_words():
            return self._stream.read(size)


@contextmanager
def _in_plain_words() -> Iterator[None]:
    try:
        yield
    except _FAULTS as error:
        raise OSError(_MEMBER) from error
    except OSError as error:
        if str(error) != _OF_BZIP2:
            raise
        raise OSError(_MEMBER) from error
