"""Other tools, and the command line."""

from __future__ import annotations

from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.cases.desk import Desk, Got, outcome_of, short
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


CASES = (x01, x03, c01, c03)
