"""What a job leaves under ROOT/jobs/<job id>: events.jsonl from its start, summary.json and report.html at its end.

Each event is a line, and whatever names a person stands in a line of its own: erasing drops lines (store/erase.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow.fs as pafs

from factory.errors import ClusterError, OutputError, SourceError, TableDamaged
from factory.files import filesystem
from factory.store.whole import damage_in, plain

PROGRESS_EVERY_S: Final = 10.0  # between events of progress
_PROGRESS_EVERY_S3_S: Final = 60.0  # an object cannot be appended to: each event writes it anew
_REMEDIES: Final = (  # (what the message says, in lower case; what to do)
    (("unable to rename file: operation not",), "its file system has no hard links, by which tables are committed "
     "(SMB, exFAT, a mounted drive): choose another --root, on a disk or s3://"),
    (("no space left", "disk quota", "storage full"), "the disk is full: free some space"),
    (("file too large",), "files may not be so large here: raise the limit (ulimit -f)"),
    (("read-only file system", "permission denied", "accessdenied", "access_denied", "access denied"), "let this user "
     "write there"),
    (("not a directory", "notadirectory", "file exists"), "a file is in the way: choose another --root"),
    (("network_connection", "connection refused", "couldn't connect", "error sending request"), "check the network and "
     "AWS_ENDPOINT_URL"),  # before the next: Arrow names the bucket in these, too
    (("nosuchbucket", "bucket does not exist", "create bucket", "bucket '"), "create the bucket at the "
     "server that --storage endpoint or AWS_ENDPOINT_URL names, or correct its name"),
)  # fmt: skip


def explained(error: BaseException, root: str) -> OSError | None:
    """An error of the storage under ROOT in a user's terms, one line with the remedy; None if it is something else."""
    if damage := damage_in(error):
        return damage
    ours = (SourceError, ClusterError, OutputError, TableDamaged)
    remedy = None if isinstance(error, ours) else remedy_of(error)
    if remedy is None:
        return None
    return OSError(
        f"{root} cannot be written or read: {remedy}, then run the same command again; "
        f"what was committed is kept ({_first_line(error)[:300]})"
    )


def remedy_of(error: BaseException) -> str | None:
    """What to do about an error of a storage, by its message; None if it is something else."""
    text = _first_line(error).lower() if isinstance(error, (OSError, ValueError)) else ""
    return next((remedy for signs, remedy in _REMEDIES if any(sign in text for sign in signs)), None)


def _first_line(error: BaseException) -> str:
    return plain(str(error)).strip().partition("\n")[0]  # what follows is Ray's advice to programmers


class Journal:
    """The events of one job."""

    def __init__(self, root: str, job_id: str) -> None:
        """Begins events.jsonl; raises OSError with the remedy if ROOT cannot be written, before any work is done."""
        self._files, self._folder = filesystem(f"{root}/jobs/{job_id}")
        self._lines: list[bytes] = []
        self._local = isinstance(self._files, pafs.LocalFileSystem)
        self.every_s = PROGRESS_EVERY_S if self._local else _PROGRESS_EVERY_S3_S
        try:
            self._files.create_dir(self._folder, recursive=True)
            self.write("started", {"job_id": job_id})
        except OSError as error:
            raise explained(error, root) or error from None

    def write(self, event: str, facts: Mapping[str, Any]) -> None:
        """Adds a line: the event, the time (ISO 8601, UTC) and the facts."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        line = json.dumps({"event": event, "at": now, **facts}).encode() + b"\n"
        path = f"{self._folder}/events.jsonl"
        if self._local:
            with self._files.open_append_stream(path) as stream:
                stream.write(line)
            return
        self._lines.append(line)
        with self._files.open_output_stream(path) as stream:
            stream.write(b"".join(self._lines))

    def file(self, name: str, text: str) -> None:
        """Writes a file beside the events."""
        with self._files.open_output_stream(f"{self._folder}/{name}") as stream:
            stream.write(text.encode())
