"""What the jobs share: the summary each ends with, and what it leaves behind."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from ray.exceptions import RayError, RayTaskError, UserCodeException

from factory.errors import ClusterError
from factory.store.audit import note
from factory.store.connection import check_tables
from factory.store.tables import Store
from factory.store.tombstones import Tombstones
from pipelines.jobs.journal import Journal, explained
from pipelines.jobs.report import Sample, page
from pipelines.jobs.watch import Watch

# What a job counts beside people, and what it may pass over.
_MADE: Final = {
    "generate": "images",
    "animate": "videos",
    "evaluate": "metrics",
    "sculpt": "models",
    "assess": "assessed",
}
_ADVICE: Final = "\nFailed to apply UDF transform"  # how Ray Data's begins
_THINGS: Final = {**_MADE, "train": "faces", "evaluate": "images", "assess": "identities"}


@dataclass(kw_only=True)
class Summary:
    """What a job did. photos = photos_with_faces + sum(rejected) + skipped_existing, always.

    What lies in the source beside the photos is in `left_out`.
    """

    job: str
    job_id: str
    photos: int = 0  # of the input; of `train`: those whose faces it looked at
    faces: int = 0  # new rows of `faces`; of `train`: faces it looked at
    identities: int = 0  # newly learned; of `generate`, `evaluate`: whose pictures it made, measured
    rejected: dict[str, int] = field(default_factory=dict)  # photos without a usable face, by reason
    left_out: dict[str, int] = field(default_factory=dict)  # files and folders of SRC that are no photos, by kind
    told: list[str] = field(default_factory=list)  # what there is to say of them, in sentences
    skipped_existing: int = 0  # done by an earlier job: photos; of `train` faces, of the others images
    seconds: float = 0.0
    photos_with_faces: int = 0
    rejected_faces: dict[str, int] = field(default_factory=dict)  # single faces, beyond the photos in `rejected`
    duplicates: int = 0  # part of skipped_existing: photos with the same bytes as an earlier one of this input
    near_duplicates: int = 0  # new faces as alike to another one as a photo's and its copy's
    same_person: int = 0  # other new faces of somebody who is there already, or comes more than once
    called_copies: int = 0  # other new faces of photos that are called as copies of another, and may be
    not_compared: int = 0  # faces, too many for a job to look for either
    ended_consents: int = 0  # photos of known people whose consent is over sooner now, or was taken back
    other_consents: int = 0  # photos of known people of which the source tells another consent than is kept
    of_two_people: int = 0  # photos that the source tells to be of two people
    of_others_before: int = 0  # photos that an earlier job was told to be somebody else's
    merged: int = 0  # faces that were not learned, as another of the same person was
    identities_existing: int = 0  # learned by an earlier job
    images: int = 0  # new rows of `images`
    videos: int = 0  # new rows of `videos`
    metrics: int = 0  # new rows of `metrics`
    models: int = 0  # new rows of `models`
    assessed: int = 0  # new rows of `quality`
    verdicts: dict[str, int] = field(default_factory=dict)  # identities that were to be assessed, by verdict
    relearned: int = 0  # identities that another seed made better
    below: int = 0  # identities that stay and are less good than was asked for
    stage_seconds: dict[str, float] = field(default_factory=dict)
    samples: list[Sample] = field(default_factory=list, repr=False)  # for report.html; not in summary.json

    def counts(self) -> dict[str, int]:
        """What grows while the job runs. Another thread asks; `copy` is atomic, iterating over what grows is not."""
        counts = {"photos_with_faces": self.photos_with_faces, "faces": self.faces, "identities": self.identities}
        counts |= {"images": self.images, "videos": self.videos, "metrics": self.metrics, "models": self.models}
        counts |= {"assessed": self.assessed, "skipped_existing": self.skipped_existing}
        counts |= {f"rejected:{reason}": num for reason, num in self.rejected.copy().items()}
        return counts | {f"rejected_face:{reason}": num for reason, num in self.rejected_faces.copy().items()}

    def lines(self) -> list[str]:
        """The summary for a person to read."""
        made = _MADE.get(self.job)
        rows = [("photos", self.photos, "")]
        if made:
            rows = [(made, getattr(self, made), "new")]
        else:
            rows.append(("faces", self.faces, "" if self.job == "train" else "new"))
        if self.job in ("run", "train"):
            rows.append(("identities", self.identities, f"new; {self.identities_existing} learned before"))
        rows += [("left out", num, kind) for kind, num in sorted(self.left_out.items())]
        rows += [("rejected", num, reason) for reason, num in sorted(self.rejected.items())]
        rows += [("rejected faces", num, reason) for reason, num in sorted(self.rejected_faces.items())]
        rows += self._people() + self._changes()
        rows += [("quality", num, verdict) for verdict, num in sorted(self.verdicts.items())]
        if self.relearned:
            rows.append(("learned again", self.relearned, "with another seed, which is better"))
        if self.below:
            rows.append(("still below", self.below, "less good than was asked for; see `identities list`"))
        things = _THINGS.get(self.job, "photos")
        copies = f"; {self.duplicates} are copies of another" if self.duplicates else ""
        rows.append(("skipped", self.skipped_existing, f"{things} that were done before{copies}"))
        new = self.images + self.videos + self.metrics + self.models + self.assessed + sum(self.rejected.values())
        new += 0 if made else self.identities
        new += 0 if self.job == "train" else self.faces
        return [
            f"{self.job} took {self.seconds:.1f} s",
            *(f"  {label:<15} {num:>8,}  {note}".rstrip() for label, num, note in rows),
            *(f"  note: {sentence}" for sentence in self.told),
            *([] if new else ["nothing was left to do"]),
        ]

    def _people(self) -> list[tuple[str, int, str]]:
        """What is told of people who come more than once."""
        told = [
            ("near-duplicates", self.near_duplicates, "faces as alike as those of a photo and its copy"),
            ("same person", self.same_person, "faces of somebody who is there on another photo"),
            ("called copies", self.called_copies, "faces of photos that are called as a copy of another, and seem it"),
            ("not compared", self.not_compared, "faces are too many for a job to look who comes more than once"),
            ("merged", self.merged, "faces not learned, as another face of the same person is"),
        ]
        return [(what, num, f"{note}; see `identities people`") for what, num, note in told if num]

    def _changes(self) -> list[tuple[str, int, str]]:
        """What is told of a source that tells otherwise than before, or twice."""
        over = "photos, as their source tells now: nobody on them is drawn any more; `identities expire` erases them"
        other = "photos are told another consent than is kept; `identities consent` writes it down"
        moved = "photos lie with somebody else than before, and stay the first one's; a new --root learns them anew"
        told = [
            ("consent over", self.ended_consents, over),
            ("consent differs", self.other_consents, other),
            (
                "of two people",
                self.of_two_people,
                "photos lie with two people, and count for the first; see the report",
            ),
            ("moved", self.of_others_before, moved),
        ]
        return [(what, num, note) for what, num, note in told if num]

    def all_refused(self) -> bool:
        """Whether there were photos that nobody had seen before, and none of them could be used."""
        return bool(self.rejected) and not self.photos_with_faces and self.skipped_existing == self.duplicates

    def count_rejects(self, counts: Mapping[str, int]) -> None:
        """Adds the "rejected:<reason>" and "rejected_face:<reason>" entries of a tally."""
        for what, num in counts.items():
            kind, _, reason = what.partition(":")
            if kind in ("rejected", "rejected_face"):
                reasons = self.rejected if kind == "rejected" else self.rejected_faces
                reasons[reason] = reasons.get(reason, 0) + num


@contextmanager
def open_job(name: str, store: Store, within: Summary | None = None) -> Iterator[Summary]:
    """Times a job and keeps its files under ROOT/jobs/<job id>; inside another job it only adds to that one.

    Raises OSError with the remedy if ROOT cannot be written, at once or in the middle of the job, and TableDamaged at
    once if files of its tables are missing.
    """
    started = time.monotonic()
    now = datetime.now(UTC)
    summary = within or Summary(job=name, job_id=f"{now:%Y%m%dT%H%M%SZ}-{name}-{secrets.token_hex(3)}")
    if within is not None:
        yield summary
        summary.stage_seconds[name] = round(time.monotonic() - started, 2)
        return
    journal = Journal(store.root, summary.job_id)
    try:
        check_tables(store.root)
        with Watch(name, summary.counts, journal):
            yield summary
        summary.seconds = summary.stage_seconds[name] = round(time.monotonic() - started, 2)
        _write_report(summary, store, journal)
        facts = asdict(summary)
        del facts["samples"]
        made: dict[str, Any] = {what: num for what, num in summary.counts().items() if num}
        made.pop("skipped_existing", None)
        if made:
            note(store, f"job {name}", num=max(made.values()), job_id=summary.job_id, **made)
        journal.write("finished", {"seconds": summary.seconds})
        journal.file("summary.json", json.dumps(facts, indent=2) + "\n")
    except BaseException as error:
        cause = _cause(error)
        with suppress(OSError):  # what ends the job may well be that nothing can be written
            journal.write("failed", {"error": f"{type(cause).__name__}: {cause}"[:1000]})
        told = cause if cause is not error and isinstance(cause, (ValueError, OSError, MemoryError)) else None
        clear = explained(cause, store.root) or _lost(cause) or told
        if clear is not None:
            raise clear from error
        raise


def _write_report(summary: Summary, store: Store, journal: Journal) -> None:
    """Whoever was erased while the job ran is not in it, also if it happens at this moment."""
    written: Tombstones | None = None
    while written != (erased := store.tombstones()):
        lines = [sample.html for sample in summary.samples if not sample.shows(erased)]
        journal.file("report.html", page(f"{summary.job} {summary.job_id}", summary.lines(), lines))
        written = erased


def _lost(cause: BaseException) -> ClusterError | None:
    """An error of Ray itself, as when nodes die or memory runs out, in a user's terms; None if it is something else."""
    text = str(cause).strip().partition("\n")[0][:300]
    ours = isinstance(cause, (RayTaskError, UserCodeException)) or "creation task" in text  # what our code raised
    if ours or not isinstance(cause, RayError):
        return None
    return ClusterError(f"the cluster failed: {text}; run the same command again, what was committed is kept")


def _cause(error: BaseException) -> BaseException:
    """What a worker raised, out of Ray's wrappings, and without what Ray Data writes behind its message."""
    while True:
        inner = error.cause if isinstance(error, RayTaskError) else None
        if inner is None and isinstance(error, RayError):
            inner = error.__cause__
        if inner is None or inner is error:
            error.args = tuple(one.partition(_ADVICE)[0] if isinstance(one, str) else one for one in error.args)
            return error
        error = inner
