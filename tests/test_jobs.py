"""What a job leaves to look at, and what it says when the storage fails."""

from __future__ import annotations

import errno
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from ray.exceptions import NodeDiedError, RayTaskError, UserCodeException
from typer.testing import CliRunner

from cli.__main__ import app
from factory.config import PrepareConfig
from factory.errors import ClusterError, SourceError
from factory.ids import any_face, content_id, face_id
from factory.pack import Pack
from factory.records import Reject
from factory.store.erase import erase, find_person
from factory.store.jobs import list_jobs, read_job
from factory.store.rows import face_row, reject_row
from factory.store.tables import Store
from factory.store.tombstones import tombstone_digest
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.journal import Journal
from pipelines.jobs.progress import Progress
from pipelines.jobs.rate import Rate
from pipelines.jobs.report import Sample, page
from pipelines.jobs.watch import Watch
from pipelines.photos.places import find_places
from pipelines.photos.samples import _refused, samples
from pipelines.photos.sources import CONTENT, hash_contents
from tests.make_people import face, photo_id

runner = CliRunner()


def events(store: Store, summary: Summary) -> list[str]:
    return [event["event"] for event in read_job(store.root, summary.job_id).events]


def test_a_job_leaves_events_a_summary_and_a_report(store: Store) -> None:
    with open_job("prepare", store) as summary:
        assert events(store, summary) == ["started"], "one sees that it runs"
        with open_job("inner", store, summary):
            summary.photos = summary.photos_with_faces = 3
        summary.rejected["no_face"] = 2
        summary.samples.append(Sample(html="<figure>Ada</figure>", photo_id="x"))
    job = read_job(store.root, summary.job_id)
    assert [event["event"] for event in job.events] == ["started", "progress", "finished"]
    assert job.events[1]["counts"]["rejected:no_face"] == 2 and set(job.events[1]["per_s"]) == {
        "photos_with_faces",
        "rejected:no_face",
    }
    assert job.state == "finished" and job.summary["photos"] == 3 and "samples" not in job.summary
    assert set(job.summary["stage_seconds"]) == {"prepare", "inner"}
    report = (Path(store.root) / "jobs" / summary.job_id / "report.html").read_text()
    assert "Ada" in report and "no_face" in report


def test_a_watch_tells_what_has_grown(store: Store) -> None:
    class Lines:
        every_s = 0.01

        def __init__(self) -> None:
            self.written: list[dict[str, object]] = []

        def write(self, event: str, facts: dict[str, object]) -> None:
            self.written.append(facts)

    lines, counts = Lines(), {"faces": 0}
    watch = Watch("prepare", lambda: counts, lines)  # type: ignore[arg-type]
    watch.look()
    counts["faces"] = 4
    watch.look()
    watch.look()
    assert [line["counts"] for line in lines.written] == [{"faces": 4}]
    [rates] = [line["per_s"] for line in lines.written]
    assert list(rates) == ["faces"]  # type: ignore[call-overload]


def test_a_rate_begins_with_the_first_item() -> None:
    now = [0.0]
    rate = Rate(lambda: now[0])
    for second, done in ((0, 0), (60, 16), (61, 20), (64, 28)):
        now[0] = second
        rate.see(done)
    assert rate.per_s == pytest.approx((28 - 16) / (64 - 60)), "the minute of loading does not count"
    assert rate.seconds_for(30) == pytest.approx(10)
    assert Rate().seconds_for(1) is None


def test_the_line_tells_rates_rejects_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("pipelines.jobs.progress.Rate", lambda: Rate(lambda: now[0]))
    came = {"faces": 0, "rejected": 0}
    progress = Progress("prepare", "photos", 100, counts=lambda: came)
    assert "starting" in progress.line()
    for second, done, faces in ((10, 10, 20), (15, 40, 30)):
        now[0], came["faces"], came["rejected"] = second, came["faces"] + faces, 3
        progress.add(done)
        line = progress.line()
    assert line == "prepare  50/100 photos  50 %  8.0/s  0:06 left  50 faces 6.0/s  3 rejected"


def test_a_job_that_gets_no_cpus_says_who_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import pipelines.jobs.progress as module

    monkeypatch.setattr(module, "held_cpus", lambda: 1.9)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.0)
    monkeypatch.setattr(module.ray, "cluster_resources", lambda: {"CPU": 2.0})
    progress = Progress("train", "identities", 3)
    said = "1.9 of 2 are held by an endpoint or another job of this cluster; end it, or unset RAY_ADDRESS"
    assert said in progress.line() and "starting" not in progress.line()
    monkeypatch.setattr(module, "held_cpus", lambda: 0.0)
    assert "starting" in Progress("train", "identities", 3).line()


def test_a_line_cut_short_by_a_kill_does_not_hide_the_job(store: Store) -> None:
    with open_job("prepare", store) as summary:
        summary.photos = 1
    folder = Path(store.root) / "jobs" / summary.job_id
    with (folder / "events.jsonl").open("a") as stream:
        stream.write('{"event": "progr')
    (folder / "summary.json").write_text('{"photos": ')
    [job] = list_jobs(store.root)
    assert (job.state, job.events[-1]["event"]) == ("no end", "finished")


def test_jobs_list_and_show(store: Store) -> None:
    with open_job("prepare", store) as done:
        done.photos, done.rejected["blurred"] = 5, 1
    with pytest.raises(ValueError, match="stop"), open_job("train", store) as failed:
        raise ValueError("stop")
    listed = runner.invoke(app, ["jobs", "list", "--root", store.root]).output
    rows = {line.split()[0]: line.split()[1] for line in listed.splitlines()[1:]}
    assert rows == {done.job_id: "finished", failed.job_id: "failed"}
    shown = runner.invoke(app, ["jobs", "show", failed.job_id, "--root", store.root])
    assert shown.exit_code == 0 and "ValueError: stop" in shown.output
    unknown = runner.invoke(app, ["jobs", "show", "gone", "--root", store.root])
    assert unknown.exit_code == 1 and "jobs list" in unknown.stderr
    assert list_jobs(f"{store.root}/nothing") == []
    cut_short = Path(store.root) / "jobs" / "by a full disk"
    cut_short.mkdir()
    (cut_short / "events.jsonl").touch()
    (Path(store.root) / "jobs" / "notes.txt").write_text("mine")
    assert [job.job_id for job in list_jobs(store.root)] == sorted([done.job_id, failed.job_id])


def test_the_report_shows_accepted_and_rejected_and_erasing_takes_them_out(
    store: Store, tiny_pack: Pack, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    buffer = io.BytesIO()
    Image.fromarray(np.full((99, 99, 3), 200, np.uint8)).save(buffer, "JPEG")
    (folder / "plain.jpg").write_bytes(buffer.getvalue())
    (folder / "bomb.jpg").write_bytes(b"kills")
    contents = pa.concat_tables(hash_contents(find_places(str(folder)).table))
    mine = contents.slice(0, 1).set_column(
        CONTENT.get_field_index("photo_id"), CONTENT.field("photo_id"), pa.array([photo_id(1)])
    )
    store.upsert("faces", [face_row(face(1, tiny_pack)), face_row(face(2, tiny_pack))])
    for name, reason in (("plain.jpg", "no_face"), ("bomb.jpg", "crashed_worker")):
        key = content_id((folder / name).read_bytes())
        row = Reject(
            reject_id=key, photo_id=key, name=name, pack="tiny", stage="prepare", reason=reason, detail="<i>5 < 6</i>"
        )
        store.upsert("rejects", [reject_row(row)])
    lines = [sample.html for sample in samples(store, "tiny", pa.concat_tables([contents, mine]), PrepareConfig())]
    by_name = {name: line for line in lines for name in ("person 1", "person 2", "plain", "bomb") if name in line}
    assert sorted(by_name) == ["bomb", "person 1", "plain"], "person 2 is another job's"
    assert all("data:image/jpeg" in by_name[name] for name in ("person 1", "plain"))
    assert "data:image" not in by_name["bomb"], "what kills a process is not opened again"
    assert "<i>" not in by_name["bomb"] and "crashed_worker" in by_name["bomb"]

    report = Path(store.root) / "jobs" / "j" / "report.html"
    report.parent.mkdir(parents=True)
    report.write_text(page("prepare", ["photos 3"], lines))
    erase(store, find_person(store, photo_id=photo_id(1)))
    assert "person 1" not in report.read_text() and "plain" in report.read_text()


def test_whoever_is_erased_while_a_job_runs_is_not_in_its_report(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Samples are kept until the job's end. The last one is erased while the report is written."""
    group = [Sample(html=f"crop of {n}", photo_id=photo_id(2), face_id=face_id(photo_id(2), n)) for n in (0, 1)]
    with open_job("prepare", store) as summary:
        summary.samples = [Sample(html=f"photo {n}", photo_id=photo_id(n)) for n in (1, 2, 3)]
        summary.samples += [Sample(html="other crop", photo_id=photo_id(4), face_id=face_id(photo_id(4), 0)), *group]
        summary.samples.append(Sample(html="late one", photo_id=photo_id(5)))
        bury(store, photo_id(1), face_id(photo_id(2), 0), any_face(photo_id(2)))
        write = Journal.file

        def written_beside_an_eraser(self: Journal, name: str, text: str) -> None:
            if name == "report.html" and "late one" in text:
                bury(store, photo_id(5))
            write(self, name, text)

        monkeypatch.setattr(Journal, "file", written_beside_an_eraser)
    report = (Path(store.root) / "jobs" / summary.job_id / "report.html").read_text()
    shown = [line for line in report.splitlines() if line.startswith(("photo ", "crop of", "other", "late"))]
    assert shown == ["photo 3", "other crop", "crop of 1"]


def bury(store: Store, *ids: str) -> None:
    store.upsert("tombstones", [{"digest": tombstone_digest("s", i), "salt": "s", "erased_at": "now"} for i in ids])


def test_erasing_one_of_a_group_takes_pictures_of_the_whole_photo_out_of_reports(store: Store, tiny_pack: Pack) -> None:
    group = photo_id(1)
    for number in (0, 1):
        ids = {"photo_id": group, "face_id": face_id(group, number), "face_index": number, "name": f"n{number}"}
        store.upsert("faces", [{**face_row(face(1 + number, tiny_pack)), **ids}])
    report = Path(store.root) / "jobs" / "j" / "report.html"
    report.parent.mkdir(parents=True)
    refused = {"photo_id": group, "reject_id": face_id(group, 2), "name": "a third", "reason": "blurred", "detail": ""}
    refused["uri"] = "/photos/<group>.jpg"
    report.write_text(page("prepare", [], [_refused(refused, "THEWHOLEGROUP").html]))
    assert "/photos/&lt;group&gt;.jpg" in report.read_text(), "so that it can be found"
    assert erase(store, find_person(store, name="n0")).found == []
    assert "THEWHOLEGROUP" not in report.read_text()


def test_a_root_that_is_a_file_is_told_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("in the way")
    with (
        pytest.raises(OSError, match=r"a file is in the way: choose another --root"),
        open_job("prepare", Store(tmp_path / "root")),
    ):
        pytest.fail("the job began")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full: free some space"),
        (OSError("LanceError(IO): ... No space left on device (os error 28)\n at x.rs"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "let this user write there"),
        (OSError(errno.EROFS, "Read-only file system"), "let this user write there"),
        (
            OSError("When testing for existence of bucket 'b': AWS Error NETWORK_CONNECTION during HeadBucket"),
            "check the network and AWS_ENDPOINT_URL",
        ),
        (OSError("When getting information for bucket 'b': AWS Error ACCESS_DENIED"), "let this user write there"),
        (OSError("When creating key 'a' in bucket 'b': AWS Error NO_SUCH_BUCKET"), "create the bucket"),
    ],
)
def test_storage_that_fails_in_the_middle_is_told_with_the_remedy_and_nothing_is_lost(
    store: Store, tiny_pack: Pack, error: OSError, remedy: str
) -> None:
    wrapped = UserCodeException("commit failed")
    wrapped.__cause__ = RayTaskError("commit", "a long\ntraceback", error)
    with pytest.raises(OSError) as told, open_job("prepare", store) as summary:
        store.upsert("faces", [face_row(face(1, tiny_pack))])
        raise wrapped
    assert remedy in str(told.value) and "what was committed is kept" in str(told.value)
    assert "\n" not in str(told.value) and "traceback" not in str(told.value)
    assert events(store, summary)[-1] == "failed"
    assert store.count("faces") == 1


def test_a_cluster_that_is_lost_in_the_middle_is_told_in_one_line(store: Store) -> None:
    with (
        pytest.raises(ClusterError, match=r"the cluster failed: the node is gone; run the same command again"),
        open_job("train", store),
    ):
        raise NodeDiedError("the node is gone\nand much more")


def test_what_a_worker_says_of_what_was_asked_is_told_without_its_traceback(store: Store) -> None:
    with pytest.raises(ValueError) as told, open_job("generate", store):
        raise RayTaskError("draw", "a long\ntraceback", ValueError("no such size"))
    assert str(told.value) == "no such size"
    with pytest.raises(RayTaskError, match="a long"), open_job("generate", store):  # ours to mend
        raise RayTaskError("draw", "a long\ntraceback", ZeroDivisionError())


def test_other_errors_stay_what_they_are(store: Store) -> None:
    with pytest.raises(SourceError, match=r"^SRC"), open_job("prepare", store):
        raise SourceError("SRC cannot be listed: Permission denied")
    with pytest.raises(ZeroDivisionError), open_job("prepare", store):
        raise ZeroDivisionError
