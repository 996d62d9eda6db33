"""Other tools, and the command line."""

from __future__ import annotations

from typing import Any

import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file

from benchmarks.cases.desk import STEPS, Desk, Got, Ran, outcome_of, rejects_of, short
from factory.pack import load_pack
from factory.store.tables import Store


def x01(desk: Desk) -> Got:
    """`--format diffusers` of a name with capitals, by diffusers' own mixin: both words in the prompt."""
    file = desk.folder("x01") / "ada.safetensors"
    desk.cli("identities", "export", "Ada Lovelace", "--root", desk.people, "--format", "diffusers", "--out", file)
    pipe, (token,) = _pipeline(), list(load_file(file))
    pipe.load_textual_inversion(str(file))
    return _both_words(pipe, token)


def x03(desk: Desk) -> Got:
    """kohya and a1111 files in diffusers with a given token: two tokens."""
    found = []
    for format, suffix in (("kohya", "safetensors"), ("a1111", "pt")):
        file = desk.folder(f"x03{format}") / f"ada.{suffix}"
        desk.cli("identities", "export", "Ada Lovelace", "--root", desk.people, "--format", format, "--out", file)
        pipe = _pipeline()
        pipe.load_textual_inversion(str(file), token="<ada>")
        found.append(_both_words(pipe, "<ada>"))
    return Got(all(got.ok for got in found), "; ".join(got.text for got in found))


def c01(desk: Desk) -> Got:
    """A prompts file with a byte order mark: the same prompt."""
    file = desk.folder("c01") / "prompts.txt"
    file.write_bytes("\ufeffa photo of <person>\r\na sketch of <person>\r\n".encode())
    ran = desk.cli("generate", "--root", desk.people, "--identity", "ada", "--prompts", file, "--steps", "2")
    prompts = sorted(set(Store(desk.people).read("images", columns=["prompt"])["prompt"].to_pylist()))
    return Got(prompts == ["a photo of <person>", "a sketch of <person>"], f"{prompts} {ran.crash}")


def c03(desk: Desk) -> Got:
    """`--photos A --photos B`: both, or an error."""
    folders = [desk.folder(f"c03{letter}") for letter in "ab"]
    for number, folder in enumerate(folders):
        (folder / f"{number}.jpg").write_bytes(desk.encoded(desk.portrait.rotate(number)))
    root = desk.root / "c03.root"
    ran = desk.cli("prepare", "--photos", folders[0], "--photos", folders[1], "--root", root)
    store = Store(root)
    return Got(store.count("faces") == 2 or (ran.code != 0 and not ran.crash), short(outcome_of(ran, store)))


def c05(desk: Desk) -> Got:
    """consent.csv as a spreadsheet writes it (semicolons, capitals, ./): read, and a row of no file is told."""
    folder = desk.folder("c05")
    (folder / "ada.jpg").write_bytes(desk.encoded())
    (folder / "consent.csv").write_text(
        "\ufeffFile;Consent;consent_expires\r\n./ada.jpg;form 1;2031-05-01\r\ngone.jpg;form 2;\r\n", encoding="utf-8"
    )
    ran, store = desk.prepared(folder)
    consents = store.read("faces", columns=["consent"])["consent"].to_pylist()
    told = "file is not there" in ran.output
    return Got(consents == ["form 1"] and told, f"{consents}, told: {told}; {outcome_of(ran, store)}")


def c06(desk: Desk) -> Got:
    """settings.toml with a byte order mark (Windows' editors): `require_consent` is obeyed."""
    folder, root = desk.folder("c06"), desk.folder("c06.root")
    (folder / "ada.jpg").write_bytes(desk.encoded())
    (root / "settings.toml").write_bytes("\ufeffrequire_consent = true\r\n".encode())
    ran, store = desk.prepared(folder)
    reasons = [row["reason"] for row in rejects_of(store)]
    return Got(reasons == ["no_consent"] and not ran.crash, f"{reasons}; {outcome_of(ran, store)}")


def c07(desk: Desk) -> Got:
    """`identities export ada --format parquet`: her row alone, or told; never everybody's."""
    out = desk.folder("c07")
    ran = desk.cli("identities", "export", "ada", "--root", desk.people, "--format", "parquet", "--out", out / "ada")
    rows = sum(pq.read_metadata(file).num_rows for file in out.rglob("*.parquet"))
    return Got(rows == 1 or (rows == 0 and _refused(ran)), f"{rows} rows; exit {ran.code} {ran.crash}")


def c08(desk: Desk) -> Got:
    """A blank prompt, and `--out` that is a file: told in a line before anything is drawn."""
    blank = desk.cli("generate", "--root", desk.people, "--identity", "ada", "--prompt", "  ", *STEPS)
    file = desk.folder("c08") / "out"
    file.write_text("mine")
    taken = desk.cli(
        *("generate", "--root", desk.people, "--identity", "ada", "--prompt", "<person> at sea", *STEPS, "--out", file)
    )
    drawn = Store(desk.people).read("images", columns=["prompt"])["prompt"].to_pylist()
    right = _refused(blank) and _refused(taken) and "<person> at sea" not in drawn and file.read_text() == "mine"
    return Got(right, short(f"exit {blank.code} and {taken.code}; {taken.said}", 200))


def _refused(ran: Ran) -> bool:
    """Whether it was told, in a line or as wrong usage (status 2, in a box)."""
    return ran.clear or (ran.code == 2 and not ran.crash)


def _pipeline() -> Any:
    from diffusers import StableDiffusionPipeline  # after factory, which makes it importable
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()

    pack = load_pack("studio")
    base = pack.folder(pack.base)
    pipe = StableDiffusionPipeline.from_pretrained(base, safety_checker=None, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _both_words(pipe: Any, token: str) -> Got:
    prompt = pipe.maybe_convert_prompt(f"a photo of {token} in the snow", pipe.tokenizer)
    added = set(pipe.tokenizer.get_added_vocab()) - set(pipe.tokenizer.all_special_tokens)
    words = [word for word in pipe.tokenizer.tokenize(prompt) if word in added]
    return Got(len(words) == 2, f"{len(words)} words: {prompt}")


CASES = (x01, x03, c01, c03, c05, c06, c07, c08)
