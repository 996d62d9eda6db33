"""Where the cases are tried: a folder, a portrait, the command line, and what a case finds."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
import traceback
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from PIL import Image
from skimage import data
from typer.testing import CliRunner

from cli.__main__ import app
from factory.config import PrepareConfig
from factory.errors import PhotoRejected
from factory.faces.prepare import Preparer
from factory.pack import load_pack
from factory.records import PreparedFace
from factory.store.tables import Store
from pipelines.photos.persons import PersonFrom
from pipelines.photos.places import find_places
from pipelines.photos.sources import CONTENT, PHOTO, hash_contents, read_rows
from studio.demo.port import free_port

REPO = Path(__file__).resolve().parents[2]
SIDE_PX = 512  # of the portrait
STEPS = ("--steps", "2")
Outcome = Sequence[PreparedFace] | PhotoRejected


@dataclass(frozen=True, slots=True)
class Got:
    """What happened. `ok` None: it cannot be tried here."""

    ok: bool | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """A command that was run. `crash` is the last line of a traceback, or says that it hung."""

    code: int
    output: str  # stdout and stderr
    seconds: float
    crash: str = ""

    @property
    def said(self) -> str:
        """The error, or the last line; short."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error:")]
        return self.crash or short((errors or lines or [f"no word, exit {self.code}"])[-1])

    @property
    def clear(self) -> bool:
        """Whether an error was told in one line."""
        return (
            self.code != 0
            and not self.crash
            and sum(line.startswith("error:") for line in self.output.splitlines()) == 1
        )


class Desk:
    """Fresh folders below one, and the product to give them to. Commands of this process share one Ray."""

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve()
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)

    def folder(self, name: str) -> Path:
        """An empty folder."""
        folder = self.root / name
        folder.mkdir(parents=True)
        return folder

    @cached_property
    def portrait(self) -> Image.Image:
        """One face, 512 x 512 RGB: scikit-image's astronaut, public domain."""
        return Image.fromarray(data.astronaut()).crop((60, 0, 380, 320)).resize((SIDE_PX, SIDE_PX))

    def encoded(self, image: Image.Image | None = None, format: str = "JPEG", **options: Any) -> bytes:
        """An image file, by default of the portrait."""
        buffer = io.BytesIO()
        (image or self.portrait).save(buffer, format=format, **({"quality": 92} if format == "JPEG" else {}) | options)
        return buffer.getvalue()

    @cached_property
    def _preparers(self) -> dict[str, Preparer]:
        return {}

    def prepare(self, file: bytes, **settings: Any) -> Outcome:
        """What becomes of one file, in this process."""
        config = PrepareConfig(**settings)
        preparer = self._preparers.setdefault(config.model_dump_json(), Preparer(load_pack("studio"), config))
        try:
            return preparer.prepare(file, "photo")
        except PhotoRejected as refusal:
            return refusal

    @cached_property
    def people(self) -> str:
        """A root with three identities, learned in two steps; one's name is in decomposed letters."""
        folder = self.folder("people")
        for number, name in enumerate(("ada", "Ada Lovelace", unicodedata.normalize("NFD", "Zoë Müller"))):
            (folder / f"{name}.jpg").write_bytes(self.encoded(self.portrait.rotate(number)))
        ran = self.cli("run", "--photos", folder, "--root", f"{folder}.root", *STEPS)
        assert ran.code == 0, ran.said
        return f"{folder}.root"

    @cached_property
    def url(self) -> str:
        """The endpoint on `people`."""
        from serve.app import start

        return start(self.people, "studio", port=free_port())

    def close(self) -> None:
        """Ends the endpoint and its Ray; whoever asks for it again has a new one."""
        if self.__dict__.pop("url", None) is not None:
            from serve.app import stop

            stop()
        ray.shutdown()

    @cached_property
    def reference(self) -> np.ndarray:
        """The crop of the plain portrait."""
        outcome = self.prepare(self.encoded(format="PNG"))
        assert not isinstance(outcome, PhotoRejected), outcome
        return outcome[0].crop

    def unlike(self, crop: np.ndarray, *, grey: bool = False) -> float:
        """Mean difference of a crop to the reference, of 255."""
        a, b = crop.astype(float), self.reference.astype(float)
        if grey:
            a, b = a.mean(2), b.mean(2)
        return float(np.abs(a - b).mean())

    def cli(self, *arguments: str | Path, limit_s: int = 240) -> Ran:
        """A command in this process."""
        started, crash = time.monotonic(), ""
        with _limit(limit_s):
            result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            crash = short("traceback: " + traceback.format_exception_only(result.exception)[-1].strip())
        return Ran(code=result.exit_code, output=result.output, seconds=time.monotonic() - started, crash=crash)

    def process(
        self,
        *arguments: str | Path | bytes,
        environment: Mapping[str, str | None] | None = None,
        cwd: Path | None = None,
        limit_s: int = 120,
        before: Sequence[str] = (),
    ) -> Ran:
        """The same in a process of its own. `environment` adds variables, or takes those away that are None."""
        started = time.monotonic()
        command = [*before, str(Path(sys.executable).with_name("identity-factory")), *arguments]
        process = subprocess.Popen(
            command,
            env=surroundings(environment or {}),
            cwd=cwd or self.root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            output, crash = process.communicate(timeout=limit_s)[0], ""
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, crash = process.communicate()[0], f"hangs: no end after {limit_s} s"
        text = output.decode(errors="replace")
        if "Traceback (most recent call last)" in text:
            crash = short("traceback: " + text.strip().splitlines()[-1])
        return Ran(code=process.returncode, output=text, seconds=time.monotonic() - started, crash=crash)

    def read(
        self, *sources: Path | str, person_from: PersonFrom | None = None
    ) -> tuple[list[dict[str, Any]], Counter[str]]:
        """The photos of sources as a job reads them (rows of PHOTO), and what is left out; without a job."""
        places = find_places([str(source) for source in sources], person_from=person_from)
        contents = pa.concat_tables([CONTENT.empty_table(), *hash_contents(places.table)])
        rows = list(read_rows(places.alike.told_apart(contents), max_bytes=2**26))
        return pa.Table.from_pylist(rows, PHOTO).to_pylist(), places.left_out

    def prepared(self, photos: Path, *options: str | Path) -> tuple[Ran, Store]:
        """`prepare` of a source into a root of its own."""
        root = Path(f"{photos}.root")
        return self.cli("prepare", "--photos", photos, "--root", root, *options), Store(root)


def short(text: str, length: int = 110) -> str:
    """One line of at most `length` letters, control characters shown."""
    line = "".join(char if char.isprintable() else repr(char)[1:-1] for char in " ".join(text.split()))
    return line if len(line) <= length else f"{line[: length - 3]}..."


def told(outcome: Outcome) -> str:
    """An outcome in words."""
    if isinstance(outcome, PhotoRejected):
        return short(f"{outcome.reason}: {outcome.detail}", 80)
    return "a face" if len(outcome) == 1 else f"{len(outcome)} faces"


def write(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files below a folder, which is made."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def words_of(photos: Sequence[Mapping[str, Any]]) -> str:
    """Rows of PHOTO in words."""
    return short("; ".join(f"{p['name']}{': ' + p['detail'] if p['reason'] else ''}" for p in photos), 200)


def faces_of(store: Store) -> list[str]:
    """Names in `faces`, sorted."""
    return sorted(store.read("faces", columns=["name"])["name"].to_pylist())


def rejects_of(store: Store) -> list[dict[str, Any]]:
    """Rows of `rejects`."""
    rows: list[dict[str, Any]] = store.read("rejects").to_pylist()
    return rows


def outcome_of(ran: Ran, store: Store) -> str:
    """Faces and refusals of a job, in words."""
    if ran.code and not store.count("faces") and not store.count("rejects"):
        return ran.said
    refused = [f"{row['reason']}: {row['detail']}" for row in rejects_of(store)]
    return short(
        f"{store.count('faces')} faces; {len(refused)} refused {'; '.join(refused)}" + (ran.crash and f"; {ran.crash}")
    )


def surroundings(changes: Mapping[str, str | None]) -> dict[str, str]:
    """This process's environment with this checkout first and some changes."""
    environment = {**os.environ, "PYTHONPATH": str(REPO), **{k: v for k, v in changes.items() if v is not None}}
    return {name: value for name, value in environment.items() if changes.get(name, "") is not None}


@contextmanager
def _limit(seconds: int) -> Any:
    def stop(*_: object) -> None:
        raise TimeoutError(f"hangs: no end after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
