"""What a job leaves under ROOT/jobs/<job id>: events.jsonl from its start, summary.json and report.html at its end.

Each event is a line, and whatever names a person stands in a line of its own: erasing drops lines (store/erase.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow.fs as pafs

from factory.errors import ClusterError, SourceError
from factory.files import filesystem

PROGRESS_EVERY_S: Final = 10.0  # between events of progress
_PROGRESS_EVERY_S3_S: Final = 60.0  # an object cannot be appended to: each event writes it anew
_REMEDIES: Final = (  # (what the message says, in lower case; what to do)
    (("no space left", "disk quota", "storage full"), "the disk is full: free some space"),
    (("read-only file system", "permission denied", "accessdenied", "access_denied", "access denied"), "let this user "
     "write there"),
    (("not a directory", "notadirectory", "file exists"), "a file is in the way: choose another --root"),
    (("network_connection", "connection refused", "couldn't connect", "error sending request"), "check the network and "
     "AWS_ENDPOINT_URL"),  # before the next: Arrow names the bucket in these, too
    (("nosuchbucket", "bucket does not exist", "create bucket", "bucket '"), "create the bucket, or correct its name"),
)  # fmt: skip


def explained(error: BaseException, root: str) -> OSError | None:
    """An error of the storage under ROOT in a user's terms, one line with the remedy; None if it is something else."""
    remedy = None if isinstance(error, (SourceError, ClusterError)) else remedy_of(error)
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
    return str(error).strip().partition("\n")[0]  # what follows is Ray's advice to programmers


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


@dataclass(frozen=True, slots=True, kw_only=True)
class JobRecord:
    """A job as its files tell it."""

    job_id: str
    state: str  # "finished", "failed", or "no end": it runs, or was killed
    last_at: str  # time of the last event, ISO 8601, UTC
    events: list[dict[str, Any]]
    summary: dict[str, Any]  # empty until it is finished

    def age(self) -> str:
        """How long ago the last event was."""
        if not self.last_at:
            return ""
        seconds = time.time() - datetime.fromisoformat(self.last_at).timestamp()
        return f"{seconds / 3600:.1f} h ago" if seconds >= 3600 else f"{seconds / 60:.0f} min ago"


def list_jobs(root: str) -> list[JobRecord]:
    """The jobs of a root, the newest last; a folder whose first line could not be written is no job."""
    files, folder = filesystem(f"{root}/jobs")
    found = files.get_file_info(pafs.FileSelector(folder, allow_not_found=True))
    jobs = [_record(files, info.path) for info in sorted(found, key=lambda info: info.path)]
    return [job for job in jobs if job is not None]


def read_job(root: str, job_id: str) -> JobRecord:
    """One job. Raises ValueError if there is none of this id."""
    job = _record(*filesystem(f"{root}/jobs/{job_id}"))
    if job is None:
        raise ValueError(f"{root} has no job {job_id!r}; `identity-factory jobs list --root {root}` shows them")
    return job


def _record(files: pafs.FileSystem, folder: str) -> JobRecord | None:
    events = [event for line in _read(files, f"{folder}/events.jsonl").splitlines() if (event := _whole(line))]
    summary = _whole(_read(files, f"{folder}/summary.json"))
    if not events and not summary:
        return None
    last = events[-1] if events else {"event": "", "at": ""}
    state = "finished" if summary else "failed" if last["event"] == "failed" else "no end"
    return JobRecord(job_id=folder.rpartition("/")[2], state=state, last_at=last["at"], events=events, summary=summary)


def _whole(text: str) -> dict[str, Any]:
    """A JSON object; empty if a kill or a full disk cut it short."""
    try:
        return dict(json.loads(text))
    except ValueError:
        return {}


def _read(files: pafs.FileSystem, path: str) -> str:
    if files.get_file_info(path).type != pafs.FileType.File:
        return ""
    with files.open_input_stream(path) as stream:
        return bytes(stream.read()).decode()
