"""Jobs as their files under ROOT/jobs/<job id> tell them (pipelines/jobs/journal.py writes those)."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.fs as pafs

from factory.files import filesystem
from factory.store.traces import Search, list_files


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


def read_report(root: str, job_id: str) -> str:
    """A job's report.html; empty if it has none."""
    files, folder = filesystem(f"{root}/jobs/{job_id}")
    return _read(files, f"{folder}/report.html")


def clean_jobs(root: str, search: Search) -> int:
    """Removes whom a search finds from ROOT/jobs, and returns from how many files.

    events.jsonl and report.html tell of a person in lines of their own (see pipelines/jobs: journal.py, report.py),
    which go; any other file that names the person goes altogether.
    """
    files, path = filesystem(f"{root}/jobs")
    changed = 0
    for info in list_files(files, path):
        if not search.found_in_file(files, info.path):
            continue
        changed += 1
        if not info.path.endswith((".jsonl", ".html")):
            files.delete_file(info.path)
            continue
        with files.open_input_stream(info.path) as stream:
            lines = stream.read().splitlines(keepends=True)
        with files.open_output_stream(info.path) as stream:
            stream.write(b"".join(line for line in lines if not search.found_in(line)))
    return changed
