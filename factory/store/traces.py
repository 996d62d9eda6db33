"""Looking for somebody in every file under a root: as they are, packed by Lance or Parquet, and written as base64.

A needle is a piece of bytes that only this person's rows put there: an id, a piece of a picture, numbers of an
embedding. All needles are looked for together, so hundreds of pictures take no longer than one.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from lance.file import LanceFileReader

from factory.files import TENANTS, filesystem, is_stored
from factory.storage import scheme_of
from factory.store.connection import Options, lance_uri, storage_options

Buffer: TypeAlias = Any  # bytes, or what gives them to numpy as they are
MIN_BYTES: Final = 8  # of a needle
ERASING: Final = "erasing"  # folder of a root: whom erasures that have begun are about (unfinished.py)
_OF_DISKS: Final = "lost+found"  # of a disk that is mounted there: root's alone
_CHUNK: Final = 2**24  # bytes read at a time
_ROWS: Final = 4096
_PARQUET_ROWS: Final = 64  # there may be pictures in them
_PICTURE_BYTES: Final = 256
_PIECES: Final = 12  # of a photo
_HASH_BITS: Final = 20
_BLOCK: Final = 2**20  # bytes looked at together: with their hashes they fit a core's cache
_THREADS: Final = min(8, os.cpu_count() or 1)  # files looked through at once
_BASE64_BYTES: Final = 24  # of a piece that is looked for as base64; three in a row, of which a line break hits two


def pieces_of(content: bytes) -> list[bytes]:
    """Pieces of a photo's bytes that no other photo has: from its inside, as files of one kind begin and end alike."""
    starts = np.linspace(0.2, 0.9, _PIECES) * len(content)
    pieces = [content[int(start) :][:_PICTURE_BYTES] for start in starts]
    return [piece for piece in dict.fromkeys(pieces) if _tells(piece)]


def tellable(needles: Mapping[bytes, str]) -> dict[bytes, str]:
    """Those that are no accident when found."""
    return {needle: what for needle, what in needles.items() if _tells(needle)}


def with_base64(needles: Mapping[bytes, str]) -> dict[bytes, str]:
    """The needles, and how pieces of them look as base64, wherever in a text they begin: in the usual alphabet, in that
    of URLs, and in the usual one with its marks written as %2B and %2F."""
    found = dict(needles)
    for needle, what in needles.items():
        ends = range(len(needle), max(len(needle) - 3 * _BASE64_BYTES, 0), -_BASE64_BYTES)
        for end in ends:
            piece = needle[max(end - _BASE64_BYTES, 0) : end]
            if len(piece) < _BASE64_BYTES and end != len(needle):
                continue
            for shift in range(3):
                usual = _base64_inside(piece, shift)
                urls = usual.translate(bytes.maketrans(b"+/", b"-_"))
                marked = usual.replace(b"+", b"%2B").replace(b"/", b"%2F")
                found |= dict.fromkeys((usual, urls, marked), f"{what}, as base64")
    return tellable(found)


class Search:
    """Looks for all needles at once, in one pass.

    Of eight bytes in a row four lie at a multiple of four, wherever they begin. So every fourth place is looked at
    alone, by a hash of its four bytes; what is left of that, by a hash of the eight bytes that would have to be there.
    """

    def __init__(self, needles: Mapping[bytes, str]) -> None:
        """`needles`: what is looked for, MIN_BYTES at least -> what it is."""
        self.overlap = max(map(len, needles), default=1) - 1
        self._needles: dict[bytes, list[tuple[int, bytes, str]]] = defaultdict(list)
        for needle, what in needles.items():
            assert len(needle) >= MIN_BYTES, needle
            first = _most_telling(needle)
            self._needles[needle[first : first + 8]].append((first, needle, what))
        eights = np.frombuffer(b"".join(self._needles), "<u8")
        self._eights, self._fours = np.zeros(2**_HASH_BITS, bool), np.zeros(2**_HASH_BITS, bool)
        self._eights[_hashed(eights)] = True
        for shift in range(4):
            self._fours[_hashed_fours((eights >> np.uint64(8 * shift)).astype("<u4"))] = True

    def found_in(self, data: Buffer) -> set[str]:
        """What the needles are that these bytes hold."""
        found: set[str] = set()
        whole = np.frombuffer(data, np.uint8) if len(memoryview(data)) else np.empty(0, np.uint8)
        for first in range(0, len(whole) - 7, _BLOCK):
            block = whole[first : min(first + _BLOCK, len(whole) // 4 * 4)]
            places = first + 4 * np.flatnonzero(self._fours[_hashed_fours(block.view("<u4"))])
            for shift in range(4) if len(places) else ():
                starts = places - shift
                starts = starts[(starts >= 0) & (starts <= len(whole) - 8)]
                eights = whole[starts[:, None] + np.arange(8)].view("<u8").ravel()
                for at in starts[self._eights[_hashed(eights)]].tolist():
                    found |= self._at(whole, at)
        return found

    def _at(self, whole: np.ndarray, at: int) -> set[str]:
        alike = self._needles.get(whole[at : at + 8].tobytes(), ())
        return {
            what
            for first, needle, what in alike
            if at >= first and whole[at - first : at - first + len(needle)].tobytes() == needle
        }

    def found_in_file(self, files: pafs.FileSystem, path: str, photos: Collection[str] = ()) -> set[str]:
        """The same for a file as it is, which may be one of these photos itself, by its id; nothing if it is gone, as a
        running job may tidy it away."""
        found: set[str] = set()
        tail, digest = b"", hashlib.sha256()
        try:
            with files.open_input_stream(path) as stream:
                while chunk := stream.read(_CHUNK):
                    window = tail + chunk
                    found |= self.found_in(window)
                    tail = window[-self.overlap :] if self.overlap else b""
                    if photos:
                        digest.update(chunk)
        except FileNotFoundError:
            return set()
        return found | ({"a photo of theirs"} if digest.hexdigest() in photos else set())


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """What was looked through, and what was found."""

    num_files: int
    num_bytes: int
    found: list[str]  # "file: what" of the root's own files: tables and what jobs leave
    others: list[str]  # the same of files that somebody put under the root, such as photos and pictures; also of
    # those, and of folders, that cannot be read


def scan(root: str, needles: Mapping[bytes, str], photos: Collection[str] = ()) -> Searched:
    """Looks for needles in every file of a root, and in its name, and for the photos themselves; not in those of its
    tenants, whose roots are their own.

    Files of tables and indexes are also read as what they are, as Lance packs texts and numbers; so are others of
    Parquet.
    """
    files, path = filesystem(root)
    search, options = Search(needles), storage_options(root)
    scheme = f"{scheme_of(root)}://" if is_stored(root) else ""
    elsewhere = tuple(f"{path}/{folder}/" for folder in (TENANTS, ERASING))
    unread = list[str]()
    infos = [info for info in list_files(files, path, unread) if not info.path.startswith(elsewhere)]

    def found_in(info: pafs.FileInfo) -> tuple[bool, list[str]]:
        within = info.path.removeprefix(f"{path}/")
        first = within.partition("/")[0]
        is_own = first == "jobs" or first.endswith(".lance")
        try:
            found = search.found_in_file(files, info.path, () if is_own else photos)
        except OSError as error:
            if is_own:
                raise
            return is_own, [_unread(info.path, error)]
        if info.path.endswith(".lance") and info.size:
            found |= _found_unpacked(search, lance_uri(scheme + info.path), options)
        if not is_own:
            found |= search.found_in(within.encode("utf-8", "surrogateescape"))
        if info.path.endswith(".parquet"):
            found |= _found_in_parquet(search, files, info.path)
        return is_own, [f"{info.path}: {what}" for what in sorted(found)]

    with ThreadPoolExecutor(_THREADS) as threads:
        hits = list(threads.map(found_in, infos))
    own, others = ([hit for is_own, some in hits for hit in some if is_own is kind] for kind in (True, False))
    others += unread
    return Searched(num_files=len(infos), num_bytes=sum(info.size for info in infos), found=own, others=others)


def list_files(files: pafs.FileSystem, path: str, unread: list[str] | None = None) -> Iterator[pafs.FileInfo]:
    """Every file below a folder, which need not exist. On a disk links are followed, each folder once. Folders that
    cannot be read are told in `unread`; without it they raise OSError."""
    if not isinstance(files, pafs.LocalFileSystem):
        selector = pafs.FileSelector(path, recursive=True, allow_not_found=True)
        yield from (info for info in files.get_file_info(selector) if info.type == pafs.FileType.File)
        return
    folders, seen = [path], set[str]()
    while folders:
        folder = folders.pop()
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            infos = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
        except OSError as error:
            if unread is None:
                raise
            if not folder.endswith(f"/{_OF_DISKS}"):
                unread.append(_unread(folder, error))
            continue
        folders += [info.path for info in infos if info.type == pafs.FileType.Directory]
        yield from (info for info in infos if info.type == pafs.FileType.File)


def _unread(path: str, error: OSError) -> str:
    why = os.strerror(error.errno) if error.errno else str(error)  # Arrow's own text has the path again
    return f"{path}: cannot be looked through ({why})"


def _found_unpacked(search: Search, uri: str, options: Options) -> set[str]:
    """What a Lance file's texts and numbers hold; pictures are stored as they are."""
    found: set[str] = set()
    try:
        schema = LanceFileReader(uri, storage_options=options).metadata().schema
        columns = [field.name for field in schema if not pa.types.is_binary(field.type)]
        reader = LanceFileReader(uri, storage_options=options, columns=columns)
        for batch in reader.read_all(batch_size=_ROWS).to_batches():
            found |= _found_in_columns(search, batch)
    except (ValueError, OSError) as error:  # gone, or cut off by a kill: then its bytes are all there is to look at
        if not any(sign in str(error).lower() for sign in ("not found", "invalid user input")):
            raise
    return found


def _found_in_parquet(search: Search, files: pafs.FileSystem, path: str) -> set[str]:
    """What a Parquet file's columns hold, which are packed in it."""
    found: set[str] = set()
    try:
        with files.open_input_file(path) as stream, pq.ParquetFile(stream) as table:
            for batch in table.iter_batches(_PARQUET_ROWS):
                found |= _found_in_columns(search, batch)
    except (ValueError, OSError, pa.ArrowException):  # gone, or no Parquet that is read
        return found
    return found


def _found_in_columns(search: Search, batch: pa.RecordBatch) -> set[str]:
    found: set[str] = set()
    for column in batch.columns:
        values = [column.dictionary] if pa.types.is_dictionary(column.type) else []  # which its buffers leave out
        for buffer in [buffer for part in (column, *values) for buffer in part.buffers()]:
            found |= search.found_in(buffer) if buffer is not None else set()
    return found


def _hashed(eights: np.ndarray) -> np.ndarray:
    """A number below 2**_HASH_BITS for each eight bytes."""
    return (eights * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - _HASH_BITS)


def _hashed_fours(fours: np.ndarray) -> np.ndarray:
    """The same for each four bytes."""
    return (fours * np.uint32(0x9E3779B1)) >> np.uint32(32 - _HASH_BITS)


def _most_telling(needle: bytes) -> int:
    """Where the eight bytes of a needle begin of which most are different: zeros are everywhere."""
    return max(range(len(needle) - 7), key=lambda first: len(set(needle[first : first + 8])))


def _tells(needle: bytes) -> bool:
    return len(needle) >= MIN_BYTES and len(set(needle)) >= 4


def _base64_inside(piece: bytes, shift: int) -> bytes:
    """The letters that stand for a piece and nothing else, where it begins `shift` bytes behind a group of three."""
    encoded = base64.b64encode(b"\0" * shift + piece)
    first = -(-8 * shift // 6)  # letters that also stand for what is before
    last = 8 * (shift + len(piece)) // 6  # from here on also for what is behind
    return encoded[first:last]
