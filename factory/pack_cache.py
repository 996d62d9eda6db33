"""A pack at s3://: each node copies it once, and its workers share the copy."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from pathlib import Path

import pyarrow.fs as pafs

from factory.errors import PackError
from factory.files import filesystem

_SOURCE = ".source"  # a file of the copy, written last: where it came from


def cache_folder() -> Path:
    """Where this user keeps what can be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "identity-factory"


def node_copy(uri: str) -> Path:
    """The folder with this node's copy of the pack at an s3:// uri; whoever comes while it is copied waits.

    A copy is not looked at again: a changed pack gets another uri. Raises PackError if there is no pack, OSError if the
    store cannot be reached or the disk is full.
    """
    uri = uri.rstrip("/")
    place = cache_folder() / "packs" / hashlib.sha256(uri.encode()).hexdigest()[:16]
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # it goes with the process, also when that is killed
        if not (place / _SOURCE).exists():
            shutil.rmtree(place, ignore_errors=True)  # what a killed process left
            files, path = filesystem(uri)
            if files.get_file_info(f"{path}/pack.toml").type != pafs.FileType.File:
                raise PackError(f"no pack.toml at {uri}; upload the pack's whole folder there")
            pafs.copy_files(path, str(place), source_filesystem=files, destination_filesystem=pafs.LocalFileSystem())
            (place / _SOURCE).write_text(uri)
    return place


def source_of(folder: Path) -> str | None:
    """The s3:// uri that a folder is a node's copy of; None if it is something else."""
    file = folder / _SOURCE
    return file.read_text() if file.is_file() else None
