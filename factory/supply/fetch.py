"""Bring a pack's weights from where they are published into the pack's folder."""

from __future__ import annotations

import http
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

import httpx
from huggingface_hub import list_repo_files, snapshot_download

from factory.errors import PackError
from factory.pack import Pack, file_sha256
from factory.parts import Source
from factory.supply.pickles import PICKLES, convert, pickles_in, safe_name
from factory.supply.verify import REJECTED, check_hashes, missing_files, record_hashes

Say = Callable[[str], None]
_BLOCK = 2**20  # bytes
_TIMEOUT_S = 30.0  # without a single byte
_REPORT_S = 5.0  # between two lines about a download


def fetch_pack(pack: Pack, progress: Say) -> None:
    """Download every part that is missing or changed, after showing every licence; then record what came.

    `progress` gets lines for a person to read. Interrupted downloads go on where they stopped. Pickles become
    safetensors (pickles.py), after their hashes were compared. Raises PackError when a source cannot be reached or what
    it sent has another hash than pack.toml lists. A file with a wrong hash, and a pickle of more than tensors, is never
    used: it is renamed to *.rejected (a download of one file is deleted).
    """
    if not os.access(pack.root, os.W_OK):
        raise PackError(f"{pack.root} cannot be written to; copy the pack's folder to one of yours and name its path")
    for name, part in pack.parts().items():
        progress(f"{name}: licence: {part.licence}")
    for name, part in pack.parts().items():
        rejected = _set_aside(pack, name)
        for message in rejected:
            progress(f"{name}: {message}")
        if not rejected and not missing_files(pack, name):
            progress(f"{name}: already in {pack.place(part)}")
            continue
        if part.hub:
            _from_hub(pack, part, progress)
        elif part.url:
            _from_url(pack, part, part.url, progress)
        else:
            raise PackError(f"{name} is incomplete and pack.toml names no hub or url for it; {pack.remedy(part)}")
        _accept(pack, name, progress)
        progress(f"{name}: complete in {pack.place(part)}")


def _accept(pack: Pack, name: str, progress: Say) -> None:
    """Check what came, make safetensors of it, and record its hashes: later changes are noticed even where pack.toml
    lists none."""
    part = pack.parts()[name]
    rejected = _set_aside(pack, name)
    if rejected:
        raise PackError(f"{name}: {'; '.join(rejected)}. Try again, or name another source in pack.toml")
    _without_pickles(pack, part, progress)
    missing = missing_files(pack, name)
    if missing:
        source = part.hub or part.url
        raise PackError(
            f"{name}: {source} did not bring {', '.join(missing)}; check the network and `files` in pack.toml"
        )
    record_hashes(pack, name)


def _without_pickles(pack: Pack, part: Source, progress: Say) -> None:
    """Makes safetensors of a part's pickles, which are removed unless they lie in a folder that others may use."""
    place = pack.place(part)
    for file in pickles_in(place):
        if not (target := safe_name(file)).exists():
            _converted(file, target)
            progress(f"{file.name}: a pickle; its tensors are {target.name} now")
        if place.is_relative_to(pack.root):
            file.unlink()


def _converted(file: Path, target: Path) -> None:
    try:
        convert(file, target)
    except PackError as error:
        aside = file.with_name(f"{file.name}{REJECTED}")
        file.replace(aside)
        raise PackError(f"{error}; set aside as {aside.name}. Name another source in pack.toml") from None


def _set_aside(pack: Pack, name: str) -> list[str]:
    """Rename the files of a part whose hashes are wrong, so that nothing loads them, and say which."""
    messages = []
    for problem in check_hashes(pack, name):
        if problem.file is not None:
            aside = problem.file.with_name(f"{problem.file.name}{REJECTED}")
            problem.file.replace(aside)
            messages.append(f"{problem.message}; set aside as {aside.name}")
    return messages


def _from_hub(pack: Pack, part: Source, progress: Say) -> None:
    """From the named repository at its revision, else from its mirrors, whose hashes must then agree."""
    failures = []
    for repository in [part.hub, *part.mirrors]:
        revision = part.revision if repository == part.hub else None
        progress(f"{part.path}: from the hub, {repository} at {revision or 'its newest revision'}")
        try:
            wanted = _wanted(list_repo_files(str(repository), revision=revision), part.files)
            snapshot_download(str(repository), revision=revision, allow_patterns=wanted, local_dir=pack.place(part))
            return
        except (OSError, httpx.HTTPError) as error:  # no network, no such repository, no access, offline mode
            failures.append(f"{repository}: {_first_line(error)}")
    raise PackError(
        f"{part.path} could not be fetched ({'; '.join(failures)}). Is there a network, and HF_HUB_OFFLINE unset? "
        f"Without one, copy the repository's files to {pack.place(part)} and run "
        f"`identity-factory packs verify {pack.name}`"
    )


def _wanted(names: list[str], patterns: list[str]) -> list[str]:
    """A repository's files that a part names, without pickles of weights that are there as safetensors, too."""
    named = [name for name in names if not patterns or any(fnmatch(name, pattern) for pattern in patterns)]
    return [name for name in named if not name.endswith(PICKLES) or str(safe_name(Path(name))) not in named]


def _from_url(pack: Pack, part: Source, url: str, progress: Say) -> None:
    place = pack.place(part)
    place.parent.mkdir(parents=True, exist_ok=True)
    partial = place.parent / f"{url.rsplit('/', 1)[-1]}.part"
    try:
        _download(url, partial, progress)
    except (OSError, http.client.HTTPException) as error:
        raise PackError(
            f"{url} could not be fetched: {_first_line(error)}. Run the command again to go on where it stopped; "
            f"without a network, bring the file by hand to {partial} and run it again"
        ) from error
    found = file_sha256(partial)
    if part.url_sha256 is not None and found != part.url_sha256:
        partial.unlink()
        raise PackError(f"{url} has sha256 {found}, expected {part.url_sha256}; it was deleted. Try again, or ask why")
    if url.endswith(".zip"):
        _unpack(partial, place)
        partial.unlink()
    elif url.endswith(PICKLES):
        if place.suffix != ".safetensors":
            raise PackError(f"{part.path}: packs load no pickles; give `path` the ending .safetensors in pack.toml")
        pickled = place.with_name(url.rsplit("/", 1)[-1])
        partial.replace(pickled)
        _converted(pickled, place)
        pickled.unlink()
    else:
        partial.replace(place)


def _download(url: str, partial: Path, progress: Say) -> None:
    """Append to `partial` what it lacks of `url`. Raises OSError when the connection fails or ends early, ValueError
    for a url that is none of the web's: urllib would read file: and ftp: too."""
    if not url.startswith(("https://", "http://")):
        raise ValueError(f"url {url!r} in pack.toml: only https:// and http:// are fetched")
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # nothing is left to ask for
            return
        raise
    with response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        said = time.monotonic() - _REPORT_S
        with partial.open("ab" if resumed else "wb") as stream:
            while block := response.read(_BLOCK):
                stream.write(block)
                done += len(block)
                if time.monotonic() - said >= _REPORT_S:
                    said = time.monotonic()
                    progress(f"{url}: {done / 1e6:,.1f} of {f'{total / 1e6:,.1f}' if total else '?'} MB")
    if total is not None and done < total:
        raise ConnectionError(f"the connection ended after {done:,} of {total:,} bytes")


def _unpack(archive: Path, place: Path) -> None:
    """Unpack a zip so that each file appears in `place` whole; a single top folder in it is left out."""
    unpacked = place.parent / f"{place.name}.unpacking"
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as content:
            content.extractall(unpacked)  # refuses to leave the folder
    except zipfile.BadZipFile as error:
        archive.unlink()
        raise PackError(f"{archive.name} is not a zip file; it was deleted. Check the url in pack.toml") from error
    entries = list(unpacked.iterdir())
    top = entries[0] if len(entries) == 1 and entries[0].is_dir() else unpacked
    for file in sorted(top.rglob("*")):
        if file.is_file():
            target = place / file.relative_to(top)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
    shutil.rmtree(unpacked)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
