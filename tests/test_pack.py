"""Reading, fingerprinting and verifying model packs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from factory import pack as pack_module
from factory.config import GenerateConfig, MethodConfig, TrainConfig
from factory.errors import PackError
from factory.pack import Pack, file_sha256, list_packs, load_pack, read_names
from factory.supply.verify import Problem, verify_pack
from tests.make_pack import make_pack


@pytest.fixture
def pack(tiny_pack: Pack, tmp_path: Path) -> Pack:
    """A copy of the tiny pack that a test may damage."""
    return load_pack(shutil.copytree(tiny_pack.root, tmp_path / "copy"))


def errors(pack: Pack) -> list[Problem]:
    return [problem for problem in verify_pack(pack) if problem.level == "error"]


def edit_json(file: Path, **fields: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def edit_description(pack: Pack, old: str, new: str) -> Path:
    file = pack.root / "pack.toml"
    text = file.read_text()
    assert text.count(old) == 1, f"{old!r} is {text.count(old)} times in {file}"
    file.write_text(text.replace(old, new))
    return file


# --- the packs that ship ---


def test_shipped_packs_are_described_completely() -> None:
    assert {"sd21", "studio"} <= set(list_packs())
    sd21 = load_pack("sd21")
    assert sd21.resolution == 512
    assert [round(512 * side) for side in sd21.crop_box] == [64, 70, 440, 446]
    assert sd21.parser.hair_classes == [17] and sd21.parser.face_classes == [*range(1, 9), *range(10, 14)]
    assert "NON-COMMERCIAL" in sd21.faces.licence
    assert all(part.licence and (part.hub or part.url) for part in sd21.parts().values())
    assert len(sd21.celebrities) == len(set(sd21.celebrities)) > 326


@pytest.mark.parametrize("name", ["sd21", "studio"])
def test_settings_of_shipped_packs_are_valid_configs(name: str) -> None:
    pack = load_pack(name)
    method = {key: value for key, value in pack.train.items() if key in MethodConfig.model_fields}
    MethodConfig.model_validate(method)
    TrainConfig.model_validate({key: value for key, value in pack.train.items() if key not in method})
    GenerateConfig.model_validate(pack.generate)


# --- reading ---


def test_pack_is_found_by_name_folder_and_file(tiny_pack: Pack) -> None:
    assert load_pack("sd21").root == pack_module.PACKS / "sd21"
    assert load_pack(tiny_pack.root) == load_pack(tiny_pack.root / "pack.toml") == tiny_pack


def test_unknown_pack_names_those_there_are() -> None:
    with pytest.raises(PackError, match=r"no pack 'sd12'; there are .*sd21.*studio"):
        load_pack("sd12")


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("det_size = 320", "det_size = 300", r"faces\.det_size: .*multiple of 32"),
        ("input_px = 64\n", "", r"parser\.input_px: Field required"),
        ("resolution = 64", "resolution = 64\nresolutoin = 64", r"resolutoin: Extra inputs"),
        ('network = "ParseNet"', 'network = "UNet"', r"parser\.network: .*'ParseNet' or 'BiSeNet'"),
        ("num_inference_steps = 2", "num_inference_step = 2", r"generate: .*no such setting: num_inference_step;"),
        ("[generate]", "[train]\nlr = 1e-3\n[generate]", r"train: .*no such setting: lr; there are .*learning_rate"),
        ("crop_box = [0.125,", "crop_box = [0.9,", r"crop_box: .*x0 < x1"),
        ("resolution = 64", 'resolution = 64\nprompt_templates = ["a photo"]', r"prompt_templates: .*'a photo' needs"),
        ("resolution = 64", "resolution = ", r"not valid TOML"),
        ('celebrities = "celebrities.txt"', 'celebrities = "who.txt"', r"who\.txt is missing"),
    ],
)
def test_faults_are_named_with_file_and_field(pack: Pack, old: str, new: str, complaint: str) -> None:
    file = edit_description(pack, old, new)
    with pytest.raises(PackError, match=complaint) as raised:
        load_pack(file)
    assert str(pack.root) in str(raised.value)


def test_a_byte_order_mark_is_no_part_of_a_description(pack: Pack) -> None:
    file = pack.root / "pack.toml"
    file.write_text("\ufeff" + file.read_text())
    assert load_pack(pack.root).name == pack.name


def test_names_are_exactly_two_words(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("# people\n\nAda  Lovelace\nGrace Hopper\n")
    assert read_names(file) == [("Ada", "Lovelace"), ("Grace", "Hopper")]
    file.write_text("\ufeffAda Lovelace\r\n")  # as Windows' editors write it
    assert read_names(file) == [("Ada", "Lovelace")]
    file.write_text("Ada Lovelace\nGrace Brewster Hopper\n")
    with pytest.raises(PackError, match=r"line 2: 'Grace Brewster Hopper' is not exactly two words"):
        read_names(file)


def test_missing_part_says_how_to_get_it(pack: Pack) -> None:
    shutil.rmtree(pack.root / "clip")
    assert pack.clip is not None
    with pytest.raises(PackError, match=r"no clip .* pack\.toml"):
        pack.folder(pack.clip)
    assert "packs fetch sd21" in load_pack("sd21").remedy(load_pack("sd21").faces)


# --- fingerprint ---


def test_fingerprint_follows_text_encoder_and_tokenizer_only(pack: Pack, tiny_pack: Pack) -> None:
    before = pack.fingerprint()
    assert before == tiny_pack.fingerprint() and len(before) == 16 and int(before, 16)
    (pack.root / "base" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"another UNet")
    assert pack.fingerprint() == before
    weights = pack.root / "base" / "text_encoder" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = pack.fingerprint()
    assert changed != before
    (pack.root / "base" / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    assert pack.fingerprint() not in (before, changed)


def test_another_unet_draws_other_pictures_and_learns_other_words(pack: Pack) -> None:
    words, drawing, learning = pack.fingerprint(), pack.model_fingerprint(), pack.learning_fingerprint()
    assert len({words, drawing, learning}) == 3
    names = pack.model_copy(update={"celebrities": pack.celebrities[::-1]})
    assert names.model_fingerprint() == drawing and names.learning_fingerprint() != learning
    texts = pack.model_copy(update={"prompt_templates": ["a {}"]})
    assert texts.model_fingerprint() == drawing and texts.learning_fingerprint() != learning
    seen = {drawing}
    for part in ("unet/diffusion_pytorch_model.safetensors", "vae/config.json", "scheduler/scheduler_config.json"):
        file = pack.root / "base" / part
        file.write_bytes(file.read_bytes() + b" ")
        assert pack.fingerprint() == words and pack.model_fingerprint() not in seen
        assert pack.learning_fingerprint() != learning
        seen.add(pack.model_fingerprint())
    shutil.rmtree(pack.root / "base" / "unet")
    with pytest.raises(PackError, match="no weights in unet"):
        pack.model_fingerprint()


def test_digests_of_big_files_survive_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pack_module, "_DIGESTS", {})
    big = tmp_path / "weights.bin"
    with big.open("wb") as stream:
        stream.truncate(65 * 2**20)
    heard: list[int] = []
    digest = file_sha256(big, heard.append)
    assert heard[-1] == 65 * 2**20
    monkeypatch.setattr(pack_module, "_DIGESTS", {})  # as a new process starts
    heard.clear()
    assert file_sha256(big, heard.append) == digest and not heard


def test_same_seed_builds_the_same_pack(tiny_pack: Pack, tiny_pack_v: Pack, tmp_path: Path) -> None:
    again = make_pack(tmp_path / "tiny")
    files = sorted(tiny_pack.root.rglob("*.safetensors"))
    assert len(files) > 3
    for file in files:
        first, second = load_file(file), load_file(again / file.relative_to(tiny_pack.root))
        assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
    assert load_pack(again).fingerprint() == tiny_pack.fingerprint() != tiny_pack_v.fingerprint()


# --- verify ---


def test_complete_packs_verify(tiny_pack: Pack, tiny_pack_v: Pack) -> None:
    assert verify_pack(tiny_pack) == []
    assert verify_pack(tiny_pack_v) == []


def test_verify_names_what_is_missing_and_where_to_get_it() -> None:
    sd21 = load_pack("sd21")
    if sd21.place(sd21.base).exists():
        pytest.skip("the weights were fetched")
    problems = {problem.part: problem for problem in verify_pack(sd21)}
    needed = {"base", "fr_vit", "clip", "faces", "parser"}
    optional = {"control.pose", "control.pose.estimator", "video"}
    assert set(problems) == needed | optional
    assert {name for name, problem in problems.items() if problem.level == "warning"} == optional
    assert "yolox_l.onnx, dw-ll_ucoco_384.onnx" in problems["control.pose.estimator"].message
    assert "unet/*.safetensors" in problems["base"].message and "det_10g.onnx" in problems["faces"].message
    assert "packs fetch sd21" in problems["faces"].remedy and "buffalo_l.zip" in problems["faces"].remedy


@pytest.mark.parametrize(
    ("path", "part", "named"),
    [
        ("base/tokenizer/tokenizer_config.json", "base", "tokenizer/tokenizer_config.json"),
        ("base/vae/diffusion_pytorch_model.safetensors", "base", "vae/*.safetensors"),
        ("fr_vit/preprocessor_config.json", "fr_vit", "preprocessor_config.json"),
        ("clip/model.safetensors", "clip", "*.safetensors"),
        ("faces/det_yunet.onnx", "faces", "det_yunet.onnx"),
        ("parser/parsing.safetensors", "parser", "weights file"),
    ],
)
def test_every_missing_file_is_found(pack: Pack, path: str, part: str, named: str) -> None:
    (pack.root / path).unlink()
    (problem,) = errors(pack)
    assert problem.part == part and named in problem.message


def test_listed_hashes_are_compared(pack: Pack) -> None:
    listed = f'path = "parser/parsing.safetensors"\nsha256 = {{ "" = "{"0" * 64}" }}'
    edited = load_pack(edit_description(pack, 'path = "parser/parsing.safetensors"', listed))
    (problem,) = errors(edited)
    assert problem.part == "parser" and "has changed" in problem.message


@pytest.mark.parametrize(
    ("file", "fields", "part", "complaint"),
    [
        ("unet/config.json", {"cross_attention_dim": 768}, "base", "text width 32 but the UNet attends to 768"),
        ("unet/config.json", {"in_channels": 9}, "base", "4 latent channels, the UNet takes 9"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "base", "'sample'"),
        ("vae/config.json", {"block_out_channels": [8] * 8}, "resolution", "not divisible by the VAE's factor of 128"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    pack: Pack, file: str, fields: dict[str, object], part: str, complaint: str
) -> None:
    edit_json(pack.root / "base" / file, **fields)
    (problem,) = errors(pack)
    assert problem.part == part and complaint in problem.message and problem.remedy


def test_damaged_configuration_is_a_problem_not_a_traceback(pack: Pack) -> None:
    (pack.root / "base" / "vae" / "config.json").write_text("{")
    (problem,) = errors(pack)
    assert problem.part == "base" and "cannot be used" in problem.message


def test_other_resolution_than_trained_is_a_warning(pack: Pack) -> None:
    edited = load_pack(edit_description(pack, "resolution = 64", "resolution = 96"))
    (problem,) = verify_pack(edited)
    assert problem.level == "warning" and "trained at 64 px" in problem.message


def test_names_of_more_tokens_are_counted(pack: Pack) -> None:
    names = pack.root / "celebrities.txt"
    names.write_text(names.read_text() + "Zbigniew Xqw\n")
    (problem,) = verify_pack(load_pack(pack.root))
    assert problem.level == "warning" and "12 of 13 names" in problem.message and "Zbigniew" in problem.message
    names.write_text("Zbigniew Xqw\nada abel\n")
    (problem,) = verify_pack(load_pack(pack.root))
    assert problem.level == "error" and "1 of 2 names" in problem.message


@pytest.mark.parametrize("field", ["det_file", "judge"])
def test_detector_and_recogniser_are_what_they_claim(pack: Pack, field: str) -> None:
    right, wrong = {"det_file": ("det_yunet", "judge"), "judge": ("judge", "det_yunet")}[field]
    swapped = edit_description(pack, f'{field} = "{right}.onnx"', f'{field} = "{wrong}.onnx"')
    assert {problem.part for problem in errors(load_pack(swapped))} == {"faces"}


@pytest.mark.parametrize(
    ("path", "part"),
    [("faces/judge.onnx", "faces"), ("parser/parsing.safetensors", "parser"), ("fr_vit/model.safetensors", "fr_vit")],
)
def test_damaged_weights_are_a_problem_of_their_part(pack: Pack, path: str, part: str) -> None:
    (pack.root / path).write_bytes(b"not what it was")
    found = errors(pack)
    assert {problem.part for problem in found} == {part}
    assert all(problem.remedy for problem in found)


def test_parser_options_must_fit_the_weights(pack: Pack) -> None:
    (problem,) = errors(load_pack(edit_description(pack, "res_depth = 1", "res_depth = 2")))
    assert problem.part == "parser" and "do not fit ParseNet" in problem.message


def test_class_lists_are_checked(pack: Pack) -> None:
    edited = load_pack(edit_description(pack, "hair_classes = [17]", "hair_classes = [13, 19]"))
    messages = [problem.message for problem in errors(edited)]
    assert len(messages) == 2 and "[19] do not exist" in messages[0] and "[13] are both" in messages[1]
