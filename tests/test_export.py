"""Files for other tools: names that every file system takes, tokens that diffusers' own loader finds in a prompt."""

from __future__ import annotations

import unicodedata
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from factory.pack import Pack
from factory.records import TEXT_ENCODER, Identity
from factory.store.export import SUFFIXES, ExportFormat, export_identities, export_identity, file_stem, token_of
from tests.test_tables import identity

NAMES = [
    *("Ada Lovelace", "ADA", "ada", "Zoë Müller", "Zoe Muller", "agent 007", "7", "O'Brien", "李雷", "Ада", "😀", "ß"),
    *("ada-1", "Ada Lovelace II", "photo of <person>", "x" * 300, "x" * 299 + "y", "a\x1b[31m\nb", "van  den Berg, J."),
]


def people(width: int) -> list[Identity]:
    rng = np.random.default_rng(0)
    return [
        replace(identity(name, f"{number:016x}"), words={TEXT_ENCODER: rng.standard_normal((2, width), np.float32)})
        for number, name in enumerate(NAMES)
    ]


def test_diffusers_finds_both_words_of_everybody_in_a_prompt(tiny_pack: Pack, tmp_path: Path) -> None:
    """All of them in one pipeline, as diffusers' mixin loads them, and each by the key that its file has."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pack.folder(tiny_pack.base), safety_checker=None)
    everybody = people(32)
    files = export_identities(everybody, tmp_path, "diffusers")
    for file in files:
        pipe.load_textual_inversion(str(file))
    weight = pipe.text_encoder.get_input_embeddings().weight.detach()
    for who, (file, token) in zip(everybody, files.items(), strict=True):
        assert list(load_file(file)) == [token]
        for prompt in (f"a photo of {token} smiling", f"A photo of {token}, in the snow", f"{token}", f"({token}.)"):
            ids = pipe.tokenizer(pipe.maybe_convert_prompt(prompt, pipe.tokenizer)).input_ids
            own = [number for number in ids if number >= len(weight) - 2 * len(files)]
            assert len(own) == 2, (who.name, prompt, pipe.tokenizer.convert_ids_to_tokens(ids))
            torch.testing.assert_close(weight[own], torch.from_numpy(who.words[TEXT_ENCODER]), msg=who.name)


def test_one_person_alone_is_called_as_among_others(tmp_path: Path) -> None:
    for name in ("Ada Lovelace", "Ada (2)", "Zoë, Ann"):
        who = identity(name, "a" * 16)
        [file] = export_identities([who], tmp_path / "many", "a1111")
        alone = export_identity(who, tmp_path, "a1111")
        assert alone.name == file.name and alone.read_bytes() == file.read_bytes()


def test_the_same_words_are_the_same_bytes(tmp_path: Path) -> None:
    """safetensors alone writes the entries of a header in any order."""
    who = people(32)[0]
    for format in ("kohya", "diffusers"):
        made = {export_identity(who, tmp_path / f"{number}.safetensors", format).read_bytes() for number in range(9)}
        assert len(made) == 1
        (words,) = load_file(tmp_path / "0.safetensors").values()
        np.testing.assert_array_equal(words.numpy(), who.words[TEXT_ENCODER])


@pytest.mark.parametrize("format", ["a1111", "release"])
def test_a_pt_file_has_no_part_that_a_check_for_what_is_safe_does_not_know(
    format: ExportFormat, tmp_path: Path
) -> None:
    who = identity("Ada", "a" * 16)
    file = export_identity(who, tmp_path, format)
    with zipfile.ZipFile(file) as parts:
        names = sorted(name.partition("/")[2] for name in parts.namelist())
    assert names == ["data.pkl", "data/0", "version"]
    read = torch.load(file, weights_only=True)
    words = read["string_to_param"]["*"] if format == "a1111" else read[0]
    assert torch.equal(words.detach(), torch.from_numpy(who.words[TEXT_ENCODER]))


def test_two_people_in_one_prompt_keep_apart(tiny_pack: Pack, tmp_path: Path) -> None:
    pipe = StableDiffusionPipeline.from_pretrained(tiny_pack.folder(tiny_pack.base), safety_checker=None)
    first, second = (who for who in people(32) if who.name in ("ada", "ada-1"))
    for who in (first, second):
        pipe.load_textual_inversion(str(export_identity(who, tmp_path, "diffusers")))
    prompt = f"{token_of(second)} and {token_of(first)}"
    ids = pipe.tokenizer(pipe.maybe_convert_prompt(prompt, pipe.tokenizer), add_special_tokens=False).input_ids
    weight = pipe.text_encoder.get_input_embeddings().weight.detach()
    assert len(ids) == 5  # two words, "and", two words
    for words, who in ((ids[:2], second), (ids[3:], first)):
        torch.testing.assert_close(weight[words], torch.from_numpy(who.words[TEXT_ENCODER]))


def test_a_token_reads_like_the_name_where_it_can() -> None:
    tokens = {name: token_of(identity(name, "c0ffee")) for name in NAMES}
    assert tokens["Ada Lovelace"] == "<ada-lovelace>" and tokens["Zoë Müller"] == "<zoe-muller>"
    assert tokens["agent 007"] == "<agent-007>" and tokens["O'Brien"] == "<o-brien>"
    assert tokens["李雷"] == tokens["😀"] == "<c0ffee>"


@pytest.mark.parametrize("format", SUFFIXES)
def test_files_never_overwrite_one_another_and_their_names_do_everywhere(format: ExportFormat, tmp_path: Path) -> None:
    everybody = people(4)
    files = list(export_identities(everybody, tmp_path, format))
    names = [file.name for file in files]
    assert len({unicodedata.normalize("NFD", name).casefold() for name in names}) == len(NAMES)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(names)
    assert all(len(unicodedata.normalize(form, name).encode()) <= 255 for name in names for form in ("NFC", "NFD"))
    # with these ComfyUI and AUTOMATIC1111 end a name, or weigh what is in them
    assert not any(char in name for name in names for char in " ,()[]{}\n\x1b")
    again = identity(f"ada-{everybody[2].identity_id}", "f" * 16)  # who is called as another one's file would be
    assert len(export_identities([*everybody[1:3], again], tmp_path / "again", format)) == 3


@pytest.mark.parametrize("format", SUFFIXES)
def test_another_file_that_is_there_is_not_replaced_unasked(format: ExportFormat, tmp_path: Path) -> None:
    ada, bob = identity("Ada", "a" * 16), identity("Bob", "b" * 16)
    for _ in range(2):  # the same again is no other file
        export_identities([ada], tmp_path, format)
    other = replace(ada, words={TEXT_ENCODER: ada.words[TEXT_ENCODER] + 1})
    before = (tmp_path / f"Ada{SUFFIXES[format]}").read_bytes()
    with pytest.raises(FileExistsError, match=r"Ada.* is another file; give another --out, or --overwrite"):
        export_identities([bob, other], tmp_path, format)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [before], "nothing is written then"
    export_identities([bob, other], tmp_path, format, overwrite=True)
    assert (tmp_path / f"Ada{SUFFIXES[format]}").read_bytes() != before and len(list(tmp_path.iterdir())) == 2


def test_what_is_told_to_be_written_in_prompts_means_the_file(tmp_path: Path) -> None:
    people = [
        identity(name, f"{n:016x}") for n, name in enumerate(("Ada (2)", "Bob [x]", "Eve:1.2", "(CON)", "a {b|c}"))
    ]
    told = export_identities(people, tmp_path, "a1111")
    assert list(told.values()) == ["Ada_2", "Bob_x", "Eve_1.2", "_CON", "a_b_c"]
    assert sorted(file.stem for file in tmp_path.iterdir()) == sorted(told.values())
    for file, name in told.items():
        assert torch.load(file, weights_only=True)["name"] == name, "also for what goes by the name inside"
    for format, start in (("a1111", ""), ("kohya", "embedding:")):
        [called] = export_identities(people[:1], tmp_path / f"Ada(2){SUFFIXES[format]}", format).values()
        assert called.startswith(start + r"Ada\(2\)"), "a file that somebody named themselves is asked for so"


def test_names_of_files() -> None:
    assert file_stem("Ann/B") == "Ann_B" and file_stem("Zoe\u0308") == "Zo\xeb" and file_stem("...") == "_"
    assert file_stem("con") == "_con" and file_stem("NUL.tar") == "_NUL.tar" and file_stem("console") == "console"
    assert file_stem("lpt1 .x") == "_lpt1 .x" and file_stem("trailing. .") == "trailing"
    assert file_stem("caf\udce9") == "caf_" and file_stem("a\x85b\x7f") == "a_b_"
    for name in ("é" * 300, "😀" * 300, "x" * 199 + "é", "a" * 300):
        assert len(file_stem(name).encode()) <= 200 and file_stem(name) in name
    assert file_stem("a" * 199 + ". b") == "a" * 199  # cut, it ends in a dot: Windows would drop that in silence


def test_of_files_that_are_made_one_by_one_none_is_in_anothers_way(tmp_path: Path) -> None:
    """Long names that differ where a file's name is cut, and names that some file systems take for the same."""
    names = ["王" * 80 + "甲", "王" * 80 + "乙", "Ada", "ADA", "Bob"]
    for number, name in enumerate(names):
        export_identities([identity(name, f"{number:016x}")], tmp_path, "kohya", beside=names)
    stems = sorted(file.stem for file in tmp_path.iterdir())
    cut = "王" * 66
    assert stems == ["ADA-0000000000000003", "Ada-0000000000000002", "Bob", f"{cut}-{0:016x}", f"{cut}-{1:016x}"]


def test_of_files_that_are_made_one_by_one_no_two_are_asked_for_alike(tmp_path: Path) -> None:
    """In a root with Ada, ADA, ada! and cat; of the others the file's name is told, which is what stands for them."""
    names = ["Ada", "ADA", "ada!", "cat"]
    asked = {}
    for number, name in enumerate(names):
        who = identity(name, f"{number:016x}")
        [(file, token)] = export_identities(
            [who], tmp_path / f"{number}.safetensors", "diffusers", beside=names
        ).items()
        assert list(load_file(file)) == [token]
        asked[name] = token
    assert asked == {
        "Ada": "<ada-0000000000000000>",
        "ADA": "<ada-0000000000000001>",
        "ada!": "<ada-0000000000000002>",
        "cat": "<cat>",
    }
    cat = identity("my cat", "c" * 16)
    told = {
        kind: next(iter(export_identities([cat], tmp_path / kind, kind).values()))
        for kind in ("kohya", "a1111", "release")
    }
    assert told == {"kohya": "embedding:my_cat in ComfyUI", "a1111": "my_cat", "release": ""}
