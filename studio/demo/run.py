"""`identity-factory demo`: the whole chain on this machine, from a Parquet file of photos to pictures over HTTP.

Everything it does, a user could do with the command line and the `openai` client; it adds a data set before and a
contact sheet and a report after. What exists is kept: a second run makes only what is missing.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import platform
import shlex
import shutil
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from openai import OpenAI
from PIL import Image

from factory.faces.detect import FaceRecogniser
from factory.pack import load_pack
from factory.provenance.marks import Marker
from factory.records import TEXT_ENCODER, Identity, PreparedFace
from factory.store.tables import Store
from studio.demo.extras import Order, extra_rows, pair_orders, posed_orders
from studio.demo.likeness import Likeness, mean, measure, overall
from studio.demo.people import COLUMNS, PEOPLE, REAL_PHOTO, portrait, write_data_set, write_newcomer
from studio.demo.port import free_port
from studio.demo.report import Report, ReportPerson, Stage, html, number, percent
from studio.demo.sheet import ExtraRow, SheetRow, contact_sheet, save_small

CONCURRENCY = 8  # requests in flight: enough to fill the endpoint's rows
STAGES = ("photos", "prepare", "train", "generate", "report")
MARKER = ".made-by-demo"  # in a folder that a demo made, which `fresh` may therefore remove


@dataclass
class Log:
    """What the terminal shows and the report repeats: a banner a stage, with its time."""

    path: Path  # keeps the times of the runs that did the work
    start: float = field(default_factory=time.monotonic)
    stages: dict[str, Stage] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.path.exists():
            self.stages = {name: Stage(**stage) for name, stage in json.loads(self.path.read_text()).items()}

    @contextmanager
    def stage(self, name: str) -> Iterator[list[str]]:
        """Time a stage. The body appends what it did; if it appends nothing, all was there already."""
        print(f"\n[{STAGES.index(name) + 1}/{len(STAGES)}] {name}", flush=True)
        begin, did = time.monotonic(), list[str]()
        yield did
        seconds = time.monotonic() - begin
        earlier = self.stages.get(name)
        if did or earlier is None:
            self.stages[name] = Stage(name=name, what=", ".join(did), seconds=seconds, reused=False)
        else:
            self.stages[name] = Stage(name=name, what=earlier.what, seconds=earlier.seconds, reused=True)
        print(f"      {', '.join(did) or 'nothing to do: done in an earlier run'} ({seconds:.1f} s)", flush=True)
        self.path.write_text(json.dumps({name: asdict(stage) for name, stage in self.stages.items()}, indent=1))


def run(out: Path, *, fresh: bool = False, pack: str = "studio") -> int:
    """Write `out`/contact_sheet.png and `out`/report.html; returns the exit status.

    `fresh` starts over; otherwise photos, identities and pictures that `out` already holds are kept.
    """
    out = out.resolve()
    open_folder(out, fresh=fresh)
    log = Log(out / "stages.json")
    photos, root = out / "photos.parquet", out / "root"
    with log.stage("photos") as did:
        if not photos.exists():
            did.append(f"{write_data_set(photos)} files: {len(PEOPLE)} portraits of people the pack has never seen, "
                       "a real photo, one without a face, one corrupt")  # fmt: skip
        newcomer = write_newcomer(out)
    learn(photos, root, pack, log)
    store = Store(str(root))
    identities = newest(store.identities(), load_pack(pack).fingerprint())
    pictures, extras = draw(identities, root, out / "pictures", pack, log)
    with log.stage("report") as did:
        report = measured_report(photos, store, identities, pictures, pack, log)
        write_report(report, extras, out, Marker.of(str(root)))
        did.append(f"{len(report.people)} people, {len(COLUMNS)} contexts")
    total = overall([person.likeness for person in report.people if person.rendered])
    print(f"\n{likeness_line(total)} All in {time.monotonic() - log.start:.0f} s.")
    for name in ("contact_sheet.png", "report.html"):
        print(out / name)
    program = sys.argv[0] if Path(sys.argv[0]).name == "identity-factory" else "identity-factory"
    command = f"{program} serve --root {shlex.quote(str(root))}"
    print(f"To draw them yourself: `{command}`, then open http://127.0.0.1:8000 in a browser.")
    print(f"Somebody to add there, whom nobody has learned yet: {newcomer}")
    return 0


def open_folder(out: Path, *, fresh: bool) -> None:
    """Make the demo's folder, and mark it as the demo's own where nothing was there; `fresh` empties a marked one.

    Raises ValueError where `fresh` would remove what no demo made.
    """
    if fresh and out.exists():
        if not (out / MARKER).is_file():
            raise ValueError(
                f"{out} was not made by a demo (it has no {MARKER}), so --fresh does not remove it; "
                "give another --out, or remove it yourself"
            )
        shutil.rmtree(out)
    out.mkdir(parents=True, exist_ok=True)
    if not any(out.iterdir()):
        (out / MARKER).write_text("`identity-factory demo --fresh` removes this folder with all that is in it\n")


def learn(photos: Path, root: Path, pack: str, log: Log) -> None:
    """Photos -> faces and rejects -> identities, through the jobs that `prepare` and `train` run."""
    from pipelines.prepare import prepare
    from pipelines.train import train

    with log.stage("prepare") as did:
        summary = prepare(str(photos), str(root), pack=pack)
        rejected = sum(summary.rejected.values())
        if summary.faces or rejected:
            did.append(f"{summary.photos} files: {summary.faces} faces, {rejected} refused")
    with log.stage("train") as did:
        summary = train(str(root), pack=pack)
        if summary.identities:
            did.append(f"{summary.identities} identities")


def newest(identities: Sequence[Identity], fingerprint: str) -> list[Identity]:
    """The newest identity of each name for this text encoder, in the order of the data set."""
    by_name = {who.name: who for who in identities if who.fingerprint == fingerprint}  # the store lists the newest last
    return [by_name[name] for name in (*PEOPLE, REAL_PHOTO) if name in by_name]


def draw(
    identities: Sequence[Identity], root: Path, folder: Path, pack: str, log: Log
) -> tuple[dict[str, list[np.ndarray]], list[ExtraRow]]:
    """Ask the endpoint for every column of every person, and for what is shown beside.

    Pictures by name, uint8 [S, S, 3], in COLUMNS' order; and the sheet's last rows.
    """
    wanted = [
        Order(
            who=who,
            prompt=column.prompt,
            body={"seed": COLUMNS.index(column)},
            path=folder / who.identity_id / f"{column.slug}.png",
        )
        for who in identities
        for column in COLUMNS
    ]
    people, loaded = {who.name: who for who in identities}, load_pack(pack)
    posed, pairs = posed_orders(people, loaded, folder), pair_orders(people, loaded, folder)
    missing = [order for order in (*wanted, *posed, *pairs) if not order.path.exists()]
    with log.stage("generate") as did:
        if missing:
            did.append(_generate(missing, root, pack))
    pictures: dict[str, list[np.ndarray]] = {}
    for order in wanted:
        pictures.setdefault(order.who.name, []).append(np.asarray(Image.open(order.path)))
    return pictures, extra_rows(posed, pairs)


def _generate(missing: Sequence[Order], root: Path, pack: str) -> str:
    import ray

    from serve import app

    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    port = free_port()
    url = app.start(str(root), pack, port=port)
    print(f"      endpoint at {url}, as any openai client sees it", flush=True)
    client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=8, timeout=300)

    def ask(order: Order) -> None:
        answer = client.images.generate(
            model=order.who.identity_id,
            prompt=order.prompt,
            response_format="b64_json",
            extra_body=dict(order.body),
        )
        assert answer.data is not None and answer.data[0].b64_json is not None
        order.path.parent.mkdir(parents=True, exist_ok=True)
        order.path.write_bytes(base64.b64decode(answer.data[0].b64_json))

    begin = time.monotonic()
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        for done, _ in enumerate(threads.map(ask, missing), start=1):
            if done % 13 == 0 or done == len(missing):
                print(f"      {done} of {len(missing)} pictures, {time.monotonic() - begin:.0f} s", flush=True)
    seconds = time.monotonic() - begin
    with urllib.request.urlopen(f"{url}/v1/stats") as answer:
        rows = json.load(answer)["rows_per_step"]
    if os.environ.get("RAY_ADDRESS"):
        app.stop()
    else:  # the cluster is ours alone, and Serve's own farewell on it is noisy
        ray.shutdown()
    return (f"{len(missing)} pictures over HTTP, {rows:.1f} of them in each step of the UNet, "
            f"{1000 * seconds / len(missing):.0f} ms per image")  # fmt: skip



def measured_report(
    photos: Path,
    store: Store,
    identities: Sequence[Identity],
    pictures: dict[str, list[np.ndarray]],
    pack: str,
    log: Log,
) -> Report:
    """Measure the likeness with the pack's judge and gather what the page shows."""
    judge = FaceRecogniser(load_pack(pack), num_threads=os.cpu_count() or 1)
    faces = {face.face_id: face for face in store.faces([who.face_id for who in identities])}
    files = {row["name"]: row["image"] for row in pq.read_table(photos).to_pylist()}
    originals = {who.name: np.asarray(Image.open(io.BytesIO(files[who.name])).convert("RGB")) for who in identities}
    likeness = measure(originals, pictures, judge.embed)
    again = {name: [portrait(PEOPLE[name], again=True)] for name in originals if name in PEOPLE}
    people = [
        _person(who, originals[who.name], faces[who.face_id], pictures[who.name], likeness[who.name])
        for who in identities
    ]
    return Report(
        title=f"{len(people)} people, one photo each",
        people=people,
        captions=[column.caption for column in COLUMNS],
        prompts=[column.prompt for column in COLUMNS],
        rejects=[(reject.name, reject.reason, reject.detail) for reject in store.rejects()],
        stages=[log.stages[name] for name in STAGES if name in log.stages],
        ceiling=mean([row.own for row in measure(originals, again, judge.embed).values()]),
        facts=_facts(identities),
    )


def _person(
    who: Identity, photo: np.ndarray, face: PreparedFace, pictures: list[np.ndarray], likeness: Likeness
) -> ReportPerson:
    notes = [f"likeness {number(likeness.own)}", f"to others {number(likeness.others)}"]
    if who.name == REAL_PHOTO:
        notes.append("a real photo")
    row = SheetRow(name=who.name, notes=notes, photo=photo, crop=face.crop, masks=face.masks, pictures=pictures)
    return ReportPerson(row=row, identity_id=who.identity_id, likeness=likeness, rendered=who.name != REAL_PHOTO)


def _facts(identities: Sequence[Identity]) -> dict[str, str]:
    import ray
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    first = identities[0]
    words = first.words[TEXT_ENCODER]
    train = mean([who.train_s for who in identities])
    return {
        "Hardware": f"{os.cpu_count()} cores ({platform.processor() or platform.machine()}), {device}",
        "Versions": f"Python {platform.python_version()}, torch {torch.__version__}, Ray {ray.__version__}",
        "Pack": f"{first.pack}, text encoder {first.fingerprint}",
        "Method": f"preset {first.preset}, {first.num_steps} steps, {number(train)} s per identity",
        "Stored of a person": f"{words.shape[0]} words of {words.shape[1]} numbers, {words.nbytes} bytes",
    }


def likeness_line(total: Likeness) -> str:
    """The result in a sentence."""
    return (
        f"Likeness {number(total.own)} to the own photo, {number(total.others)} to other people; "
        f"{percent(total.nearest)} of the pictures are nearest to the right photo."
    )


def write_report(report: Report, extras: Sequence[ExtraRow], out: Path, marker: Marker) -> None:
    """The contact sheet (and a small one, docs/demo.jpg), the page, and the numbers for other programs.

    The sheets say that parts of them were made by a model, and each drawn picture of the page that all of it was."""
    total = overall([person.likeness for person in report.people if person.rendered])
    subtitle = f"Two learned words a person; every picture asked for over HTTP. {likeness_line(total)}"
    rows = [person.row for person in report.people]
    sheet = contact_sheet(rows, report.captions, title=report.title, subtitle=subtitle, extras=extras)
    sheet.save(out / "contact_sheet.png")
    save_small(sheet, out / "contact_sheet.jpg")
    for file in (out / "contact_sheet.png", out / "contact_sheet.jpg"):
        file.write_bytes(marker.mark(file.read_bytes(), composite=True))  # it shows photos, too
    (out / "report.html").write_text(html(report, marker.mark), encoding="utf-8")
    numbers: dict[str, Any] = {"likeness": asdict(total), "ceiling": report.ceiling}
    numbers["people"] = {person.row.name: asdict(person.likeness) for person in report.people}
    numbers["stages"] = {stage.name: round(stage.seconds, 1) for stage in report.stages}
    (out / "results.json").write_text(json.dumps(numbers, indent=1))
