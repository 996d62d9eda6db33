"""The options that commands share, and what their texts mean."""

from __future__ import annotations

import codecs
import json
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.output import say

if TYPE_CHECKING:
    from factory.pack import Pack

Root = Annotated[str, typer.Option("--root", metavar="ROOT", help="Where the tables are: a local path or s3://.")]
Photos = Annotated[
    list[str],
    typer.Option(
        "--photos",
        metavar="SRC",
        help="A folder of images, .tar and .zip among them; a Parquet file or folder with a column `image` (bytes) or "
        "`uri`, and optionally `name` and `person`; or an s3:// prefix of either. May be repeated.",
    ),
]
PackName = Annotated[str, typer.Option("--pack", help="Model pack: a name (`packs list`), a folder or s3://.")]
PresetName = Annotated[
    Literal["paper", "release"],
    typer.Option("--preset", help="The paper's equations as printed, or what its published code computes."),
]
Steps = Annotated[int | None, typer.Option("--steps", min=1, help="Updates per identity. [default: the pack's]")]
NumWorkers = Annotated[int | None, typer.Option("--workers", min=1, help="Model workers. [default: what there is]")]
Gpus = Annotated[
    float | None,
    typer.Option(
        "--gpus", min=0, help="GPUs of a model worker: 0.5 lets two share one, 0 is CPU. [default: 1 if there are any]"
    ),
]
Changes = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Any field of factory/config.py, such as phase_boundary=0.5; KEY=none where a field may be None.",
    ),
]
Faces = Annotated[
    Literal["all", "largest"] | None,
    typer.Option("--faces", help="Which faces of a group photo become identities. [default: all]"),
]
PersonFrom = Annotated[
    Literal["folder"] | None,
    typer.Option("--person-from", help="Photos in one folder below SRC are one person's, learned together."),
]
AsTold = Annotated[
    bool,
    typer.Option(
        "--persons-as-told", help="Of a person also learn the photos that surely show somebody else than the others."
    ),
]
MergePeople = Annotated[
    bool,
    typer.Option(
        "--merge-people", help="Learn one face of each person, the largest; `identities people` shows the others."
    ),
]
MinQuality = Annotated[
    float | None,
    typer.Option(
        "--min-quality", min=0, max=1, help="Assess whoever is learned, and see to those of less quality (`--below`)."
    ),
]
BelowIt = Annotated[
    Literal["keep", "again", "reject"] | None,
    typer.Option(
        "--below",
        help="again: learn them with another seed, and keep the better one; reject: a row of `rejects`; keep: only "
        "tell. [default: again]",
    ),
]
_STORED = re.compile("([a-z][a-z0-9+.-]+):/")  # as Path has an address, with one slash
_NUMBER = re.compile("[0-9]{1,18}")
_MOST_SEEDS = 1_000_000
_SHORT = 60  # characters of a prompt
_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
          (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip
_NONE: dict[str, str | None] = {"none": None}
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Names or ids. [default: all]")]


def parse_settings(settings: list[str] | None, **options: float | str | None) -> dict[str, object]:
    """KEY=VALUE pairs and the options of the same name that were given; lists in JSON, "none" where a field may be."""
    changes: dict[str, object] = {}
    for text in settings or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set {text}: write KEY=VALUE")
        if key.strip() in changes:
            raise typer.BadParameter(f"--set {key.strip()} is given twice, and takes one value")
        plain = value.strip()
        try:
            changes[key.strip()] = json.loads(plain) if plain.startswith("[") else _NONE.get(plain, plain)
        except ValueError:
            raise ValueError(f"--set {text}: a list is written as in JSON, such as [0.9, 0.99]") from None
    given = {key: value for key, value in options.items() if value is not None}
    if twice := sorted(set(given) & set(changes)):
        raise typer.BadParameter(f"{', '.join(twice)} is given by --set and by an option of its own")
    return {**changes, **given}


def take_fields(changes: dict[str, object], fields: Collection[str]) -> dict[str, object]:
    """Takes these fields out of the changes; those that stay are for other configs."""
    return {key: changes.pop(key) for key in list(changes) if key in fields}


def parse_seeds(text: str) -> list[int]:
    """ "0,2,4-6" -> [0, 2, 4, 5, 6]."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not _NUMBER.fullmatch(first) or (dash and not _NUMBER.fullmatch(last)):
            raise typer.BadParameter(f"--seeds {text}: write whole numbers such as 0,1 or 0-7, below 10 ** 18")
        own = range(int(first), int(last if dash else first) + 1)
        if not own or len(seeds) + len(own) > _MOST_SEEDS:
            raise typer.BadParameter(f"--seeds {text}: these are {len(own):,} seeds; give 1 to {_MOST_SEEDS:,}")
        seeds.extend(own)
    return seeds


def read_prompts(file: Path) -> list[str]:
    """The lines of a text file that are not empty, nor begin with # as comments do: UTF-8, or what its byte order mark
    says; of "-" those of the standard input. Raises ValueError."""
    data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    called = "the standard input" if str(file) == "-" else str(file)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line, wrong = data.count(b"\n", 0, error.start) + 1, f"the byte 0x{data[error.start]:02x}"
        remedy = "save it as UTF-8 (Windows' editors may have written it in windows-1252)"
        raise ValueError(f"{called} is no text in {encoding.upper()}: in line {line} is {wrong}; {remedy}") from None
    if "\0" in text:
        line, wrong = text.count("\n", 0, text.index("\0")) + 1, "a zero byte, as in UTF-16 without its mark"
        raise ValueError(f"{called} is no text in UTF-8: in line {line} is {wrong}; save it as UTF-8")
    lines = [line.strip() for line in text.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def prompts_of(prompt: list[str] | None, file: Path | None) -> list[str]:
    """The texts of --prompt, then those of --prompts."""
    of_file = read_prompts(file) if file else []
    if file and not of_file:
        raise typer.BadParameter(f"there is no prompt in {file}: it is empty, or has blanks and comments alone")
    texts = [*(prompt or []), *of_file]
    if not texts or not all(text.strip() for text in texts):
        raise typer.BadParameter("a prompt is empty" if texts else "give --prompt TEXT or --prompts FILE")
    return texts


def tell_unread(texts: Sequence[str], pack: Pack) -> None:
    """A warning for each prompt that asks for networks and the like, or is longer than the pack's text encoder
    reads."""
    from factory.prompts import asked_in_vain, words_of

    for text in texts:
        if kinds := asked_in_vain(text):
            say(f"warning: {', '.join(kinds)} of the prompt {text[:60]!r} is not followed here: left out", error=True)
    texts = [words_of(text) for text in texts]
    if any(len(text) > _SHORT for text in texts):  # else nothing need be loaded
        from factory.base.text import cut_prompts

        for text, count in cut_prompts(texts, pack.folder(pack.base)):
            say(f"warning: {count.read} of {count.given:,} tokens are read of the prompt {text[:60]!r}...", error=True)


def tell_namesakes(root: str, names: list[str] | None) -> None:
    """A warning for each of these names that several people have, of whom the newest is meant, or that is as well what
    another one's file is called."""
    from factory.store.called import as_their_files, namesakes
    from factory.store.tables import Store

    for name, ids in namesakes(Store(root), names).items() if names else ():
        others = ", ".join(ids[1:4])
        say(f"warning: {len(ids)} people are called {name!r}; this is {ids[0]}, the newest, not {others}", error=True)
    for name, others_names in as_their_files(Store(root), names).items() if names else ():
        also = ", ".join(map(repr, others_names[:3]))
        say(f"warning: {name!r} is a further face of another photo; whose file is called so is {also}", error=True)


def on_disk(out: Path) -> Path:
    """What --out names. Raises ValueError if that is on a store: only tables are written there."""
    if found := _STORED.match(str(out)):
        raise ValueError(f"--out {found[1]}://... is no folder of this machine; give one, and copy the files there")
    return out


def made_folder(out: Path | None, root: str) -> None:
    """Makes the folder of --out, and looks whether what is written there can be signed, so that a job does not end
    where it was to write. Raises OSError, which names it, and ValueError as `on_disk` and `Credentials.load`."""
    if out is None:
        return
    try:
        on_disk(out).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"--out {out} is no folder, and cannot be made one: {error.strerror}") from None
    from factory.provenance.marks import Marker

    Marker.of(root)


def photo_bytes(photo: str) -> tuple[str, bytes]:
    """A photo's id, and its bytes unless the id is all that was given."""
    if len(photo) == 64 and not set(photo) - set("0123456789abcdef"):
        return photo, b""
    from factory.files import filesystem
    from factory.ids import content_id

    files, path = filesystem(photo)
    with files.open_input_stream(path) as stream:
        content = stream.read()
    return content_id(content), content
