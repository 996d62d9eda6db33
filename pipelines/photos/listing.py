"""Every entry of SRC: a file that may be a photo, or something left out, which is counted by its kind."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from factory.errors import SourceError
from factory.files import is_stored, local_path, photo_files, s3_endpoint, shown
from factory.reach import asked
from factory.storage import AZURE, PHOTOS_STORAGE, STORES, s3_keys, scheme_of
from pipelines.jobs.journal import remedy_of
from pipelines.photos.allowed import Allowed
from pipelines.photos.beside import (
    CONSENTS,
    DVC,
    SIDECAR,
    TABLES,
    few_of,
    folder_left_out_as,
    left_out_as,
    left_out_path,
)
from pipelines.photos.lakes import is_log
from pipelines.photos.lists import is_list, tells_of_others, to_parquet

_CARD: Final = "readme.md"  # what a data set's page is made of
_MADE_BY_IMMICH: Final = ("thumbs", "encoded-video", "backups")  # where it has put its mark, .immich
_OF_AWS: Final = re.compile(r"(?:s3|https?)://(?:([^/]+)\.)?s3[.-][a-z0-9.-]*amazonaws\.com/*([^/]*)")
_MAY_READ: Final = "let this user read all of it, or give a part"
_ASK: Final = "check the network, and what its package asks for (--storage KEY=VALUE)"


@dataclass(slots=True)
class Listed:
    """What there is."""

    files: list[str] = field(default_factory=list)  # uris; names may hold any bytes, as Python reads them
    tables: list[str] = field(default_factory=list)  # of a source that is a data set: its Parquet
    left_out: Counter[str] = field(default_factory=Counter)  # files and whole folders, by kind
    consents: list[str] = field(default_factory=list)  # uris of files consent.csv
    logs: list[str] = field(default_factory=list)  # uris of what says which files of a table count (lakes.py)
    lists: list[str] = field(default_factory=list)  # uris of other files that may be tables (lists.py)
    cards: list[str] = field(default_factory=list)  # uris of files README.md
    told: list[str] = field(default_factory=list)  # what there is to say of what was left out, in sentences

    def leave_out(self, kind: str, num: int = 1) -> None:
        """Counts what is no photo."""
        if num:
            self.left_out[kind] += num

    def add(self, other: Listed) -> None:
        """Takes another's over; a file that both have is there once."""
        self.files += sorted(set(other.files) - set(self.files))
        self.tables += sorted(set(other.tables) - set(self.tables))
        self.left_out += other.left_out
        self.consents += sorted(set(other.consents) - set(self.consents))
        self.lists += sorted(set(other.lists) - set(self.lists))
        self.told += other.told

    def leave_out_file(self, kind: str, uri: str) -> None:
        """Counts a file, or a folder, and keeps where it is if it tells of the others."""
        self.leave_out(kind)
        name = PurePosixPath(uri).name.lower()
        if kind == SIDECAR and name == CONSENTS:
            self.consents.append(uri)
        elif kind == SIDECAR and tells_of_others(name):
            self.lists.append(uri)
        if kind == SIDECAR and name == _CARD:
            self.cards.append(uri)
        if is_log(uri):
            self.logs.append(uri)


def list_files(src: str, root: str | None = None) -> Listed:
    """Every file of SRC; not the tables and jobs of ROOT, which may lie in it.

    Links are followed, each folder once; in a tenant's jobs none that leads out of SRC. Raises SourceError, with the
    remedy, if SRC is missing or cannot be listed.
    """
    listed = Listed()
    if src.rstrip("/").lower().endswith(TABLES):
        raise SourceError(f"{shown(src)} is a Lance table, which is no source; write its photos as Parquet")
    try:
        found = _stored_files(src, root, listed) if scheme_of(src) else _local_files(local_path(src), root, listed)
        listed.files = sorted(found)
    except Exception as error:
        other = scheme_of(src) not in ("", *STORES)  # packages of fsspec raise what their clients do
        if isinstance(error, ValueError) or not (other or isinstance(error, OSError)):
            raise
        remedy = (scheme_of(src) == "s3" and remedy_of(error)) or (_ASK if other else _MAY_READ)
        remedy = _MAY_READ if "write" in remedy else remedy  # of a place where tables are
        if scheme_of(src) == "s3":
            remedy += f"; asked {asked(PHOTOS_STORAGE)}; --photos-storage tells how photos alone are reached"
        raise SourceError(f"{shown(src)} cannot be listed: {remedy} ({shown(str(error))[:300]})") from None
    own = src if scheme_of(src) else local_path(src)
    if listed.files == [own] and is_list(own):
        raise SourceError(f"{shown(src)} is a list of rows, which is read as Parquet alone; {to_parquet(src)}")
    return listed


def _local_files(src: str, root: str | None, listed: Listed) -> Iterator[str]:
    try:
        kind = Path(src).stat()
    except FileNotFoundError:
        raise _nothing(src) from None
    if not stat.S_ISDIR(kind.st_mode):
        yield src
        return
    jobs = None if root is None or is_stored(root) else _id_of(f"{root}/jobs")
    allowed = None if root is None else Allowed.of(root)  # who filled a tenant's folder could link to anybody's photos
    seen = {(kind.st_dev, kind.st_ino)}
    unread = list[str]()
    folders, links = deque([src]), deque[str]()  # links last, so that a photo is called by where it really is
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        if folder != src:
            try:
                own = _id_of(folder)
            except OSError:  # longer than a path may be, or of a share that is gone
                unread.append(folder)
                continue
            if own is None or own in seen:
                listed.leave_out("link to a folder listed already")
                continue
            seen.add(own)
        try:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda entry: entry.name)
        except OSError:
            if folder == src:
                raise
            unread.append(folder)
            continue
        if PurePosixPath(folder).name in _MADE_BY_IMMICH and any(entry.name == ".immich" for entry in entries):
            listed.leave_out("system")
            continue
        for entry in entries:
            if allowed is not None and entry.is_symlink() and not allowed.holds(entry.path, f"{src}/"):
                listed.leave_out("link out of the tenant's photos")
            elif why := _why_not(entry, folder, jobs):
                listed.leave_out_file(why, entry.path)
            elif _is_dir(entry):
                (links if entry.is_symlink() else folders).append(entry.path)
            else:
                yield entry.path
    if unread:
        listed.leave_out("folder that cannot be read", len(unread))
        listed.told.append(f"cannot be read: {few_of(unread)}; let this user read it, if it holds photos")


def _why_not(entry: os.DirEntry[str], folder: str, jobs: tuple[int, int] | None) -> str | None:
    why = left_out_as(entry.name, PurePosixPath(folder).name)
    if _is_dir(entry):
        if entry.name.endswith(TABLES) or (jobs is not None and _id_of(entry.path) == jobs):
            return "table or job of a root"
        return folder_left_out_as(entry.name, PurePosixPath(folder).name)
    if entry.name.endswith(DVC) and Path(entry.path).with_suffix("").exists():
        return "sidecar"
    return why or ("neither file nor folder" if _is_special(entry) else None)


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere, or round in a circle: a file that cannot be read, and is told so
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether reading it might never end: a pipe, a socket, a device."""
    try:
        mode = entry.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode)


def _id_of(folder: str) -> tuple[int, int] | None:
    try:
        found = Path(folder).stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def _stored_files(src: str, root: str | None, listed: Listed) -> Iterator[str]:
    files, path = photo_files(src)
    info = files.get_file_info(path)
    if info.type == pafs.FileType.File and _is_page(src):  # of a web server, which tells a folder as a page of links
        found = [uri for uri in _paths(files, path) if uri.startswith(f"{src.rstrip('/')}/") and "?" not in uri]
        for uri in found:
            if why := left_out_path(unquote(urlsplit(uri.removeprefix(src)).path)):
                listed.leave_out_file(why, uri)
            else:
                yield uri
        if found:
            return
    if info.type == pafs.FileType.File:
        lies_below = scheme_of(src) == "s3" and _has_keys(path)  # elsewhere nothing can
        if not lies_below or (info.size and not src.endswith("/")):  # else a marker of the folder, or not meant
            yield _uri(src, path, path)
        if not lies_below:
            return
    if info.type == pafs.FileType.NotFound:
        raise _nothing(src)
    own = root.removeprefix(f"{scheme_of(src)}://") if root is not None and is_stored(src) else None
    for key in _keys(path) if scheme_of(src) == "s3" else _paths(files, path):
        if why := _why_not_key(key, path, own):
            listed.leave_out_file(why, _uri(src, path, key))
        else:
            yield _uri(src, path, key)


def _is_page(src: str) -> bool:
    return scheme_of(src) in ("http", "https") and not PurePosixPath(urlsplit(src).path).suffix


def _keys(path: str) -> Iterator[str]:
    """What lies below BUCKET/PREFIX, one page of a thousand after the other."""
    bucket, _, prefix = path.rstrip("/").partition("/")
    for key in s3_keys(s3_endpoint(PHOTOS_STORAGE), bucket, f"{prefix}/" if prefix else "", by=PHOTOS_STORAGE):
        if not key.endswith("/"):  # what consoles make in place of a folder
            yield f"{bucket}/{key}"


def _has_keys(path: str) -> bool:
    """Whether there are keys below one that is there; of keys that may be read and not listed none."""
    try:
        return next(_keys(path), None) is not None
    except OSError:
        return False


def _paths(files: pafs.FileSystem, path: str) -> Iterator[str]:
    found = files.get_file_info(pafs.FileSelector(path, recursive=True))
    return (info.path for info in found if info.type == pafs.FileType.File)


def _uri(src: str, own: str, path: str) -> str:
    """Of a path in SRC's store, where SRC's own is `own`; some packages tell a uri already, others leave the server out
    (ftp://SERVER/FOLDER is /FOLDER there), and Azure's of CONTAINER@ACCOUNT the account."""
    if scheme_of(path):
        return path
    scheme, _, rest = src.partition("://")
    if scheme in AZURE:
        return f"{scheme}://{rest.partition('/')[0]}/{path.strip('/').partition('/')[2]}"
    rest, own = rest.rstrip("/"), own.strip("/")
    server = rest.removesuffix(own).rstrip("/") if rest.endswith(own) else ""
    return f"{scheme}://{server}/{path.removeprefix('/')}" if server else f"{scheme}://{path}"


def _why_not_key(key: str, prefix: str, root: str | None) -> str | None:
    inner = key.removeprefix(prefix)
    if f"{TABLES}/" in inner or (root is not None and key.startswith(f"{root}/jobs/")):
        return "table or job of a root"
    return left_out_path(inner)


def _nothing(src: str) -> SourceError:
    return SourceError(f"there is nothing at {shown(src)}; {_other_than(src)}")


def _other_than(src: str) -> str:
    """What to give in place of a source that is not there."""
    if Path(f"{src.rstrip('/')}{DVC}").is_file():
        return "DVC keeps it elsewhere: run `dvc pull` there"
    if re.search(r"[*?]|\[.*\]|\{.*\}", src):
        return (
            "patterns are not read: give the folder, of which what is no photo is left out, or --photos for each file"
        )
    if found := _OF_AWS.match(src):
        return f"write s3://{found[1] or found[2]}/PREFIX, without the server's name"
    return "--photos takes a Parquet file, a folder or an s3:// prefix"
