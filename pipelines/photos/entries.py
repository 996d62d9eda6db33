"""A photo's bytes, wherever they lie: opened, measured and read in the same way; whatever fails is an OSError."""

from __future__ import annotations

import base64
import binascii
import hashlib
import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Final, TypeVar
from urllib.parse import unquote_to_bytes

import pyarrow as pa
import pyarrow.fs as pafs

from factory.consent import Consent
from factory.faces.kinds import kind_of
from factory.files import local_path, photo_files, s3_endpoint, shown
from factory.ids import unread_photo_id
from factory.storage import PHOTOS_STORAGE, s3_client, s3fs_options, scheme_of

_Result = TypeVar("_Result")
_CHUNK: Final = 2**20  # bytes read at a time
_AHEAD: Final = 8  # photos of a store that a task reads at a time
# Of Arrow for odd keys; of damaged, encrypted or unknown archives
_FAULTS: Final = (
    *(OSError, ValueError, LookupError, EOFError, RuntimeError),  # NotImplementedError is a RuntimeError
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, pa.ArrowException),
)
_ARCHIVED: Final = ("GLACIER", "DEEP_ARCHIVE")
_LOOK_S: Final = 10.0
_HEAD: Final = 4096  # bytes that tell what a file is


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One photo of a source."""

    name: str
    uri: str  # where it is, for a person to find it: a path or uri, "table.parquet#7", "photos.zip#a/b.jpg"
    open: Callable[[], IO[bytes]]
    size: Callable[[], int]  # bytes; raises OSError if there is nothing to read
    consent: Consent | None = None  # None: the place's
    person: str | None = None  # whose photo it is; None: nobody said
    is_far: bool = False  # on a store: who reads it mostly waits

    @property
    def source_id(self) -> str:
        """What stands for the photo while its bytes are not known."""
        return unread_photo_id(self.uri)

    def num_bytes(self) -> int:
        """Of the photo. Raises OSError if it cannot be read, or is empty."""
        try:
            size = self.size()
        except faults_of(is_far=self.is_far) as error:
            raise _as_os_error(error, self.uri) from error
        if size == 0:
            raise OSError(
                "empty: 0 bytes, as a copy that broke off leaves it, or a file that is only in a cloud; copy it again"
            )
        return size

    def chunks(self) -> Iterator[bytes]:
        """The bytes, in pieces. Raises OSError."""
        try:
            with self.open() as stream:
                while chunk := stream.read(_CHUNK):
                    yield chunk
        except faults_of(is_far=self.is_far) as error:
            raise _as_os_error(error, self.uri) from error

    def digest(self) -> str | None:
        """The id of the photo, sha256 of its bytes; None if they cannot be read."""
        digest = hashlib.sha256()
        try:
            self.num_bytes()
            for chunk in self.chunks():
                digest.update(chunk)
        except OSError:
            return None
        return digest.hexdigest()

    def read(self, most: int) -> bytes | None:
        """All of it, None if that is more than `most` bytes, whatever its size was said to be. Raises OSError."""
        if self.num_bytes() > most:
            return None
        parts, left = [], most
        for chunk in self.chunks():
            left -= len(chunk)
            if left < 0:
                return None
            parts.append(chunk)
        return b"".join(parts)


def faults_of(uri: str = "", *, is_far: bool = False) -> tuple[type[Exception], ...]:
    """What reading a file may raise that says something of the file: packages of fsspec raise what their clients do."""
    return (Exception,) if is_far or scheme_of(uri) else _FAULTS


def in_order(calls: Iterable[tuple[bool, Callable[[], _Result]]]) -> Iterator[_Result]:
    """What each of these calls gives, in their order; of those that wait for a store (True) some run ahead."""
    waiting = deque[Future[_Result]]()
    with ThreadPoolExecutor(_AHEAD) as threads:
        for waits, call in calls:
            if waits:
                waiting.append(threads.submit(call))
            while waiting and (not waits or len(waiting) == _AHEAD):
                yield waiting.popleft().result()
            if not waits:
                yield call()
        while waiting:
            yield waiting.popleft().result()


def of_file(name: str, uri: str) -> Entry:
    """A file by itself; `uri` as Python reads names, of any bytes."""
    far, read = bool(scheme_of(uri)), partial(open_file, uri)
    return Entry(name=name, uri=shown(uri), open=read, size=partial(file_size, uri), is_far=far)


def of_bytes(name: str, uri: str, data: bytes) -> Entry:
    """Bytes at hand."""
    return Entry(name=name, uri=uri, open=partial(BytesIO, data), size=partial(len, data))


def faulty(name: str, uri: str, fault: str) -> Entry:
    """A photo of which nothing is there but the reason."""

    def fail() -> int:
        raise OSError(fault)

    return Entry(name=name, uri=uri, open=BytesIO, size=fail)


def open_file(uri: str) -> IO[bytes]:
    """A local file or an object of a store, to read and to seek in. Raises OSError."""
    scheme = scheme_of(uri)
    if not scheme:
        file_size(uri)
        return open(local_path(uri), "rb")
    if scheme == "s3" and _is_odd(uri):
        import s3fs  # Arrow knows no empty parts, and means a folder by a dot

        opened: IO[bytes] = s3fs.S3FileSystem(**s3fs_options(s3_endpoint(PHOTOS_STORAGE), PHOTOS_STORAGE)).open(
            uri.removeprefix("s3://"), "rb"
        )
        return opened
    files, path = photo_files(uri)
    stream: IO[bytes] = files.open_input_file(path)
    return stream


def file_size(uri: str) -> int:
    """Bytes of a local file or an object. Raises OSError, also for what is no file and might never end."""
    scheme = scheme_of(uri)
    if not scheme:
        file = Path(local_path(uri))
        try:
            found = file.stat()
        except FileNotFoundError:
            if file.is_symlink():
                raise OSError(_nowhere(shown(str(file.readlink())))) from None
            raise
        if not stat.S_ISREG(found.st_mode):
            raise OSError("it is no file")
        return found.st_size
    info = None
    if scheme != "s3" or not _is_odd(uri):
        files, path = photo_files(uri)
        info = files.get_file_info(path)
        if info.type != pafs.FileType.File:
            raise FileNotFoundError("no such file")
    if info is not None and info.size is not None:
        return int(info.size)
    with open_file(uri) as stream:  # some servers tell no size
        return stream.seek(0, os.SEEK_END)


def _nowhere(target: str) -> str:
    remedy = "run `git annex get` there" if "annex/objects/" in target else "mend it, or copy the photo there"
    return f"a link to {target}, where nothing is; {remedy}"


def data_uri(uri: str) -> bytes:
    """What a data: uri holds. Raises ValueError, which never repeats it."""
    head, comma, text = uri.partition(",")
    try:
        if not comma:
            raise ValueError
        data = unquote_to_bytes(text)
        if not head.lower().endswith(";base64"):
            return data
        return base64.b64decode(b"".join(data.split()), validate=True)  # some writers break lines
    except (ValueError, binascii.Error):
        raise ValueError(f"a damaged data: uri of {len(uri):,} characters") from None


def what_is(uri: str, *expected: bytes) -> str:
    """What a file is that is not what its name says, and what to do: a Git LFS pointer, a web page, a gzip file. Empty
    if that is not known, or if it begins as it should: with one of `expected`, or that is a tar's mark."""
    try:
        with open_file(uri) as stream:
            head = stream.read(_HEAD)
    except faults_of(uri):
        return ""
    kind = kind_of(head)
    if not head.strip(b"\0") or head.startswith(expected) or head[257:262] in expected or not kind.is_known:
        return ""
    remedy = kind.remedy.replace("the photo", "it") or {"read": "rename it", "archive": "unpack it"}.get(kind.group)
    return f"{kind.name}; {remedy or 'take it away'}"


def _is_odd(uri: str) -> bool:
    parts = uri.removeprefix("s3://").split("/")
    return any(part in ("", ".", "..") for part in parts)


def _as_os_error(error: Exception, uri: str) -> OSError:
    is_refused = "ACCESS_DENIED" in str(error) or "storage class" in str(error)
    if uri.startswith("s3://") and is_refused and _is_archived(uri):
        return OSError("it is archived (of a Glacier class), so that it cannot be read: restore it there first")
    if "range requests" in str(error):  # of HTTP
        return OSError("its server gives files out as a whole alone, so that no part can be read: download it first")
    if isinstance(error, OSError) and error.strerror:  # without the path, which is told beside it
        return OSError(error.strerror)
    return OSError(shown(str(error))[:300] or type(error).__name__)


def _is_archived(uri: str) -> bool:
    """Whether an object of S3 must be restored before it can be read: Arrow does not always tell it apart from one that
    may not be read, as it takes the answer for the object's bytes."""
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        head = s3_client(s3_endpoint(PHOTOS_STORAGE), _LOOK_S, PHOTOS_STORAGE).head_object(Bucket=bucket, Key=key)
    except (BotoCoreError, ClientError, ValueError):
        return False
    there = head.get("StorageClass") in _ARCHIVED or "ArchiveStatus" in head
    return there and 'ongoing-request="false"' not in head.get("Restore", "")
