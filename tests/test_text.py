"""Where an identity's words go in a prompt, and that nothing of the placeholder is left."""

import re

import pytest
import torch
from transformers import CLIPTextModel, CLIPTokenizer

from cli.options import tell_unread
from factory.base.diffusion import DiffusionBase
from factory.base.text import inject, tokenise
from factory.learn.celebs import celeb_prior
from factory.pack import Pack
from factory.prompts import PERSON, TEMPLATES, with_person


@pytest.fixture(scope="module")
def base(tiny_pack: Pack) -> DiffusionBase:
    return DiffusionBase.load(tiny_pack, dtype=torch.float32)


def test_prompt_without_a_person_gets_one_in_front() -> None:
    assert with_person("wearing a red hat ") == f"{PERSON} wearing a red hat"
    assert with_person(f"a photo of {PERSON}") == f"a photo of {PERSON}"
    assert with_person("") == PERSON


def test_there_are_57_distinct_templates_each_with_one_person() -> None:
    assert len(set(TEMPLATES)) == len(TEMPLATES) == 57
    assert all(template.count(PERSON) == 1 for template in TEMPLATES)


def test_text_around_the_words_is_tokenised_as_usual(base: DiffusionBase) -> None:
    tokenizer: CLIPTokenizer = base.tokenizer
    prompts = tokenise([f"a photo of {PERSON} in the snow", "a photo"], tokenizer)
    first, last = base.pack.celebrities[0]
    plain = tokenizer(f"a photo of {first} {last} in the snow", padding="max_length", return_tensors="pt")
    same = prompts.slots_BL[0] < 0
    assert torch.equal(prompts.ids_BL[0][same], plain["input_ids"][0][same])
    assert prompts.slots_BL[0][~same].tolist() == [0, 1]
    assert (prompts.slots_BL[1] == -1).all()


def test_a_celebritys_own_words_give_the_celebritys_own_encoding(base: DiffusionBase) -> None:
    """Injecting the embeddings of a name equals writing the name: the hook replaces the text completely."""
    encoder: CLIPTextModel = base.text_encoder
    first, last = base.pack.celebrities[3]
    written = base.tokenizer(f"a photo of {first} {last} in the snow", padding="max_length", return_tensors="pt")
    words = celeb_prior(base.pack.celebrities, base.tokenizer, base.token_embedding).words_NVD[3:4]
    injected = base.encode_text(tokenise([f"a photo of {PERSON} in the snow"], base.tokenizer), words)
    torch.testing.assert_close(injected, encoder(written["input_ids"]).last_hidden_state, atol=1e-6, rtol=1e-6)


def test_encoding_leaves_the_encoder_as_it_was(base: DiffusionBase) -> None:
    rows = base.token_embedding.weight.shape[0]
    prompts = tokenise([f"{PERSON}"], base.tokenizer)
    before = base.encode_text(prompts)
    words = torch.ones(1, 2, base.text_width)
    assert not torch.equal(base.encode_text(prompts, words), before)
    assert torch.equal(base.encode_text(prompts), before)
    assert base.token_embedding.weight.shape[0] == rows


def test_gradients_reach_each_identitys_words_only() -> None:
    embeds = torch.zeros(2, 4, 3)
    slots = torch.tensor([[-1, 0, 1, -1], [0, 1, 0, 1]])
    words = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    placed = inject(embeds, slots, words)
    assert torch.equal(placed[0, 1:3], words[0]) and torch.equal(placed[1, 2:], words[1])
    assert not placed[0, 0].any() and not placed[0, 3].any()
    placed[0].sum().backward()
    assert words.grad is not None and words.grad[0].eq(1).all() and not words.grad[1].any()


def test_an_overlong_prompt_is_cut_but_never_the_person(base: DiffusionBase, caplog: pytest.LogCaptureFixture) -> None:
    length = base.tokenizer.model_max_length
    prompts = tokenise([PERSON + " photo" * length], base.tokenizer)
    assert prompts.ids_BL.shape == (1, length)
    assert prompts.ids_BL[0, -1] == base.tokenizer.eos_token_id
    assert "cut" in caplog.text
    with pytest.raises(ValueError, match="front"):
        tokenise(["photo " * length + PERSON], base.tokenizer)


def test_prompts_that_are_cut_are_told_with_numbers(tiny_pack: Pack, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [f"a photo of {PERSON}", f"{PERSON} " + "snow " * 500]
    tell_unread(texts, tiny_pack)
    [line] = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"warning: \d+ of [\d,]{3,} tokens are read of the prompt '<person> snow snow.*'\.\.\.", line)
    tell_unread([f"{PERSON} <lora:film:1> BREAK"], tiny_pack)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: lora, BREAK of the prompt '<person> <lora:film:1> BREAK' ")
    tell_unread(texts[:1], tiny_pack)
    assert capsys.readouterr().err == ""
