"""Photos in .tar (WebDataset's shards) and .zip files: the members are listed once, then each is read by itself."""

from __future__ import annotations

import re
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from posixpath import dirname, join, normpath
from shlex import quote
from threading import Lock
from typing import IO, Final, cast

from factory.errors import SourceError
from factory.files import shown
from factory.storage import scheme_of
from pipelines.photos.beside import CONSENTS, SIDECAR, few_of, left_out_path
from pipelines.photos.entries import Entry, faults_of, open_file, what_is
from pipelines.photos.letters import paths_of
from pipelines.photos.masks import OF_A_PHOTO, masks_among, worn_among
from pipelines.photos.zips import Unpacked, open_zip

SUFFIXES: Final = (".tar", ".zip")
_PACKED: Final = {  # archives that are not read, by their suffix: what unpacks them
    **dict.fromkeys((".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"), "tar xf"),
    ".7z": "7z x",
    ".rar": "unrar x",
    ".gz": "gunzip",
    ".bz2": "bunzip2",
    ".xz": "unxz",
    ".zst": "unzstd",
}
# as 7-Zip, zip, RAR and `split` call parts: .7z.001, .zip.part1, .z01, .r00, .part1.rar, .tar.gz.partaa, .tar.aa
_PART: Final = re.compile(
    r"\.(?P<of>tar|tgz|gz|bz2|xz|zst|zip|7z|rar)\.(?:(?:part)?[-_.]?\d{1,4}|part[-_.]?[a-z]{2}|a[a-z])$"
    r"|\.(?P<old>[rz])\d{2,3}$|\.part\d+\.rar$"
)
FURTHER_PART: Final = "further part of an archive"  # as what it is left out

_UNIX: Final = 3  # of a zip's member: what it was packed on, where links are
_ZIP: Final = (b"PK\3\4", b"PK\5\6")  # how one begins; the second has no members
_TAR: Final = b"ustar"
_TAR_AT: Final = 257  # where that is
_MOST_LINKS: Final = 8  # one behind the other
_UNREAD: Final = {-1: "link in an archive", -2: "sparse file in an archive"}  # by a member's size


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive."""

    name: str  # with its folders
    number: int  # of the archive's entries, as they are listed
    offset: int  # bytes from the start of a tar; -1: the zip knows
    size: int  # bytes, as the archive says; -1: it is no file, or a link to none; -2: its holes are left out of it

    @property
    def folder(self) -> str:
        """Where it lies in the archive, with a slash behind it; empty right in it."""
        return self.name[: self.name.rfind("/") + 1]


@dataclass(frozen=True, slots=True)
class Members:
    """What an archive holds."""

    photos: list[Member]  # what may be one
    left_out: Counter[str]  # others, by kind
    consents: list[Member]  # files consent.csv, which are left out, too
    fault: str  # what is wrong with what follows them; empty: nothing
    told: str = ""  # what there is to say of them, behind its name


def unread_archive(file: str) -> str:
    """What to do with an archive that is not read, or with what stands for a file, by its name; empty if it is none."""
    low = file.lower()
    if low.endswith(".dvc"):
        return "DVC's pointer in place of what it is called after: run `dvc pull` there"
    if _PART.search(low):
        return "one part of an archive is not read: join the parts, and unpack what they are"
    unpack = next((command for suffix, command in _PACKED.items() if low.endswith(suffix)), "")
    name = shown(file.rpartition("/")[2])
    return unpack and f"archives of this kind are not read, only .tar and .zip; unpack it (`{unpack} {quote(name)}`)"


def further_parts(files: Sequence[str]) -> set[str]:
    """Of archives in parts (sorted) all but one: the first, which is told as what is not read, or the file that is
    called as all of them, such as the .zip beside .z01."""
    found, known = set[str](), {file.lower() for file in files}
    for file in files:
        low = file.lower()
        if part := _PART.search(low):
            whole = f"{low[: part.start()]}.{part['of'] or {'z': 'zip'}.get(part['old'], 'rar')}"
            if whole in known:
                found.add(file)
            known.add(whole)
    return found


def list_members(uri: str) -> Members:
    """What an archive holds. Raises SourceError if it is none."""
    found, fault, told, links = list[Member](), "", list[str](), dict[int, str]()
    try:
        with open_file(uri) as stream:
            for member in _zip_members(stream, uri, told) if _is_zip(stream, uri) else _tar_members(stream, links):
                found.append(member)
    except faults_of(uri) as error:
        if not found:
            why = what_is(uri, *_ZIP, _TAR) or shown(str(error))[:300]
            raise SourceError(f"no readable archive: {why}") from None
        fault = f"cut short or damaged behind its member {len(found)}: {shown(str(error))[:300]}; copy it again"
    found = _followed(found, links)
    if lost := [member.name for member in found if member.size == -1 and not left_out_path(member.name)]:
        told.append(f"has links that are not followed: {few_of(lost)}; put the files in their place")
    kinds = [_UNREAD.get(member.size) or left_out_path(member.name) for member in found]
    masks = masks_among(member.name for member, kind in zip(found, kinds, strict=True) if kind is None)
    if masks:
        by_name = {member.name: member for member in found}
        with Archives() as archives:
            masks -= worn_among(masks, lambda name: archives.entry(name, uri, by_name[name]))
    kinds = [kind or (OF_A_PHOTO if member.name in masks else None) for member, kind in zip(found, kinds, strict=True)]
    photos = [member for member, kind in zip(found, kinds, strict=True) if kind is None]
    lists = [m for m, kind in zip(found, kinds, strict=True) if kind == SIDECAR and _file_name(m).lower() == CONSENTS]
    return Members(photos, Counter(kind for kind in kinds if kind is not None), lists, fault, "; ".join(told))


def _is_zip(stream: IO[bytes], uri: str) -> bool:
    """By its first bytes, as archives are called by each other's names; of a zip there may be others before it."""
    head = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    return head.startswith(_ZIP) or (uri.lower().endswith(".zip") and not head.startswith(_TAR, _TAR_AT))


def _file_name(member: Member) -> str:
    return member.name[len(member.folder) :]


def _file_of(uri: str) -> str:
    return shown(uri.rpartition("/")[2])


class Archives:
    """Archives that are open while their members are read, also by several threads."""

    def __init__(self) -> None:
        self._stack, self._opening = ExitStack(), Lock()
        self._zips: dict[str, tuple[zipfile.ZipFile, list[zipfile.ZipInfo], list[str]]] = {}

    def __enter__(self) -> Archives:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def entry(self, name: str, uri: str, member: Member) -> Entry:
        """A member as a photo."""
        where = f"{shown(uri)}#{shown(member.name)}"
        opened = partial(self._open, uri, member)
        return Entry(name=name, uri=where, open=opened, size=partial(int, member.size), is_far=bool(scheme_of(uri)))

    def _open(self, uri: str, member: Member) -> IO[bytes]:
        if member.offset >= 0:
            stream = open_file(uri)
            stream.seek(member.offset)
            return cast(IO[bytes], _Part(stream, member.size))
        with self._opening:
            if uri not in self._zips:
                archive, _ = open_zip(self._stack.enter_context(open_file(uri)), _file_of(uri))
                infos = self._stack.enter_context(archive).infolist()
                self._zips[uri] = (archive, infos, paths_of(infos)[0])
            archive, infos, paths = self._zips[uri]
        if paths[member.number : member.number + 1] != [member.name]:
            raise OSError("the archive was replaced meanwhile")
        return cast(IO[bytes], Unpacked(archive, infos[member.number]))


class _Part:
    """The next bytes of a stream, so many, as a stream."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream, self._left = stream, size

    def __enter__(self) -> _Part:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        """At most so many bytes; none at the end. Raises EOFError if the archive ends before."""
        data = self._stream.read(min(size, self._left))
        if not data and self._left:
            raise EOFError("the archive ends within it; copy it again")
        self._left -= len(data)
        return data


def _followed(found: list[Member], links: Mapping[int, str]) -> list[Member]:
    """The members, where those that are links to others (`links`: where to, by number) are these under another name: a
    photo in two people's folders is one file and a link. Of several files of one name the last counts."""
    files = {normpath(member.name): member for member in found}

    def of_link(member: Member) -> Member:
        target = member
        for _ in range(_MOST_LINKS):
            if target.number not in links or (to := files.get(links[target.number])) is None:
                break
            target = to
        return replace(member, offset=target.offset, size=target.size) if target.size >= 0 else member

    return [of_link(member) if member.number in links else member for member in found]


def _target(info: tarfile.TarInfo) -> str:
    """Which member a link means: a hard link by its whole name, another one from where it lies."""
    return normpath(info.linkname if info.islnk() else join(dirname(info.name), info.linkname))


def _tar_members(stream: IO[bytes], links: dict[int, str]) -> Iterator[Member]:
    """Of all the archives that a file holds, one behind the other, as `cat a.tar b.tar` leaves them. Puts where links
    lead to into `links`. Raises TarError where something else follows, which tarfile alone takes for the end."""
    number, start = 0, 0
    while start >= 0:
        stream.seek(start)
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for info in archive:
                if not info.isdir():
                    size = -2 if info.issparse() else info.size if info.isreg() else -1
                    if info.islnk() or info.issym():
                        links[number] = _target(info)
                    yield Member(info.name, number, info.offset_data, size)
                number += 1
            end = archive.offset
        stream.seek(end)
        if not stream.read(1):
            raise tarfile.ReadError("its end is not marked, so that others may be missing")
        if end == start and start > 0:
            raise tarfile.ReadError(f"no member begins at byte {start}")
        start = _next_block(stream, end)


def _next_block(stream: IO[bytes], start: int) -> int:
    """Where the next block that is not all zeros begins; -1 if there is none."""
    stream.seek(start)
    while data := stream.read(2**20):
        if rest := data.lstrip(b"\0"):
            return start + (len(data) - len(rest)) // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        start += len(data)
    return -1


def _zip_members(stream: IO[bytes], uri: str, told: list[str]) -> Iterator[Member]:
    """Puts what there is to say of their names into `told`. Raises BadZipFile, also behind its members if some may be
    missing."""
    archive, fault = open_zip(stream, _file_of(uri))
    infos = archive.infolist()
    paths, of_names = paths_of(infos)
    told += [of_names] * bool(of_names)
    for number, (info, name) in enumerate(zip(infos, paths, strict=True)):
        if not name.endswith("/"):
            is_link = info.create_system == _UNIX and stat.S_ISLNK(info.external_attr >> 16)
            yield Member(name, number, -1, -1 if is_link else info.file_size)
    if fault:
        raise zipfile.BadZipFile(fault)
