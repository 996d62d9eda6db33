"""Fetching packs, against a server on loopback and a hub client that copies from a folder."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from factory.errors import PackError
from factory.pack import Pack, load_pack
from factory.supply.fetch import fetch_pack
from factory.supply.pickles import PICKLES, convert, safe_name
from factory.supply.verify import verify_pack
from tests import fetching
from tests.fetching import Files, stand_in, zipped

server, bare, hub = fetching.server, fetching.bare, fetching.hub  # fixtures


@pytest.mark.usefixtures("hub")
def test_fetch_completes_a_bare_pack_once(bare: Pack, tiny_pack: Pack) -> None:
    said: list[str] = []
    fetch_pack(bare, said.append)
    assert verify_pack(bare) == []
    assert bare.fingerprint() == tiny_pack.fingerprint()
    licences = [line for line in said if "licence" in line]
    assert len(licences) == 5 and said[:5] == licences, "every licence is shown before anything is downloaded"
    assert not list(bare.root.rglob("*.part")) and not list(bare.root.rglob("*.unpacking"))
    requests = len(Files.log)
    said.clear()
    fetch_pack(bare, said.append)
    assert len(Files.log) == requests and sum("already in" in line for line in said) == 5


@pytest.mark.usefixtures("hub")
def test_interrupted_download_goes_on_where_it_stopped(bare: Pack) -> None:
    Files.cut["/release/faces.zip"] = 1000
    with pytest.raises(PackError, match=r"ended after 1,000 of .* Run the command again"):
        fetch_pack(bare, print)
    fetch_pack(bare, print)
    assert ("/release/faces.zip", "bytes=1000-") in Files.log
    assert verify_pack(bare) == []


@pytest.mark.usefixtures("hub")
def test_file_brought_by_hand_is_taken(bare: Pack) -> None:
    (bare.root / "faces.zip.part").write_bytes(Files.content["/release/faces.zip"])
    fetch_pack(bare, print)
    assert verify_pack(bare) == []


@pytest.mark.usefixtures("hub")
def test_download_with_another_hash_is_not_kept(bare: Pack) -> None:
    Files.content["/release/parsing.safetensors"] += b"!"
    with pytest.raises(PackError, match=r"parsing.safetensors has sha256 .*, expected"):
        fetch_pack(bare, print)
    assert not list((bare.root / "parser").iterdir())


@pytest.mark.usefixtures("hub")
def test_zip_with_a_top_folder_lands_in_the_same_place(bare: Pack, tiny_pack: Pack) -> None:
    data = zipped(tiny_pack.root / "faces", top="buffalo_l/")
    file = bare.root / "pack.toml"
    old = hashlib.sha256(Files.content["/release/faces.zip"]).hexdigest()
    file.write_text(file.read_text().replace(old, hashlib.sha256(data).hexdigest()))
    Files.content["/release/faces.zip"] = data
    fetch_pack(load_pack(file), print)
    assert (bare.root / "faces" / "det_yunet.onnx").is_file()


@pytest.mark.usefixtures("hub")
def test_change_after_the_fetch_is_noticed_and_repaired(bare: Pack) -> None:
    fetch_pack(bare, print)
    weights = bare.root / "base" / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"!")
    (problem,) = verify_pack(bare)
    assert problem.part == "base" and "has changed" in problem.message
    fetch_pack(bare, print)
    assert verify_pack(bare) == []


def test_mirror_serves_when_the_repository_is_gone(
    bare: Pack, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch, tiny_pack.root, "copy")
    fetch_pack(bare, print)
    assert verify_pack(bare) == []


def test_hub_file_with_another_hash_is_set_aside(bare: Pack, hub: None) -> None:
    file = bare.root / "pack.toml"
    listed = f'sha256 = {{ "unet/diffusion_pytorch_model.safetensors" = "{"0" * 64}" }}\n'
    file.write_text(file.read_text().replace('path = "base"\n', f'path = "base"\n{listed}'))
    edited = load_pack(file)
    with pytest.raises(PackError, match=r"base: .*has changed: .*set aside as .*\.rejected"):
        fetch_pack(edited, print)
    assert not (bare.root / "base" / "unet" / "diffusion_pytorch_model.safetensors").exists()
    assert not (bare.root / "hashes.json").exists()


def test_without_a_network_the_error_says_what_to_do(bare: Pack) -> None:
    with pytest.raises(PackError, match=r"base could not be fetched \(owner/base: .*copy/base: .*copy the repository"):
        fetch_pack(bare, print)  # the real client, which HF_HUB_OFFLINE keeps from the network


class _Touches:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (Path.touch, (self.file,))


@pytest.fixture
def pickled(bare: Pack, tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Pack, Path]:
    """The bare pack, whose face ViT and parser are published as pickles, and CLIP as both; and what is published."""
    source = shutil.copytree(tiny_pack.root, tmp_path / "published")
    weights = source / "fr_vit" / "model.safetensors"
    torch.save(load_file(weights), source / "fr_vit" / "pytorch_model.bin")
    weights.unlink()
    (source / "clip" / "pytorch_model.bin").write_bytes(b"not to be fetched")
    stand_in(monkeypatch, source, "owner")
    buffer = io.BytesIO()
    torch.save({"params_ema": load_file(source / "parser" / "parsing.safetensors")}, buffer)
    Files.content["/release/parsing.pth"] = buffer.getvalue()
    file = bare.root / "pack.toml"
    old = hashlib.sha256(Files.content["/release/parsing.safetensors"]).hexdigest()
    text = file.read_text().replace("/release/parsing.safetensors", "/release/parsing.pth")
    file.write_text(text.replace(old, hashlib.sha256(buffer.getvalue()).hexdigest()))
    return load_pack(file), source


def test_pickles_become_safetensors_as_they_are_fetched(pickled: tuple[Pack, Path], tiny_pack: Pack) -> None:
    pack, said = pickled[0], list[str]()
    fetch_pack(pack, said.append)
    assert not [file for suffix in PICKLES for file in pack.root.rglob(f"*{suffix}")]
    assert "pytorch_model.bin: a pickle; its tensors are model.safetensors now" in said
    assert verify_pack(pack) == [], "it is complete, loads, and its hashes are recorded"
    for part in ("fr_vit/model.safetensors", "parser/parsing.safetensors"):
        ours, theirs = load_file(pack.root / part), load_file(tiny_pack.root / part)
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    requests = len(Files.log)
    fetch_pack(pack, said.append)
    assert len(Files.log) == requests and sum("already in" in line for line in said) == 5


def test_a_pickle_that_is_a_program_is_set_aside(pickled: tuple[Pack, Path], tmp_path: Path) -> None:
    pack, source = pickled
    torch.save({"weight": _Touches(tmp_path / "ran")}, source / "fr_vit" / "pytorch_model.bin")
    with pytest.raises(PackError, match=r"more than tensors.*pytorch_model\.bin\.rejected"):
        fetch_pack(pack, print)
    assert not (tmp_path / "ran").exists() and not list((pack.root / "fr_vit").glob("*.safetensors*"))
    torch.load(pack.root / "fr_vit" / "pytorch_model.bin.rejected", weights_only=False)
    assert (tmp_path / "ran").exists(), "it would have run"


def test_tied_weights_and_what_is_no_state(tmp_path: Path) -> None:
    weight = torch.arange(6.0).reshape(2, 3)
    torch.save({"state_dict": {"a": weight, "b": weight, "c": weight.T}}, tmp_path / "tied.pt")
    convert(tmp_path / "tied.pt", tmp_path / "tied.safetensors")
    kept = load_file(tmp_path / "tied.safetensors")
    assert torch.equal(kept["a"], weight) and torch.equal(kept["b"], weight) and torch.equal(kept["c"], weight.T)
    torch.save({"a": weight, "epoch": 3}, tmp_path / "more.pt")
    with pytest.raises(PackError, match="no dictionary of tensors"):
        convert(tmp_path / "more.pt", tmp_path / "more.safetensors")
    torch.save({"a": weight}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    convert(tmp_path / "old.pt", tmp_path / "old.safetensors")
    assert torch.equal(load_file(tmp_path / "old.safetensors")["a"], weight)
    names = {"pytorch_model.bin": "model", "diffusion_pytorch_model.bin": "diffusion_pytorch_model", "x.pth": "x"}
    assert {name: safe_name(Path(name)).stem for name in names} == names


@pytest.mark.usefixtures("hub")
def test_unreachable_server_is_a_clear_error(bare: Pack, server: ThreadingHTTPServer) -> None:
    del Files.content["/release/faces.zip"]
    with pytest.raises(PackError, match=r"faces\.zip could not be fetched: .*404"):
        fetch_pack(bare, print)


@pytest.mark.usefixtures("hub")
def test_record_lists_every_file(bare: Pack) -> None:
    fetch_pack(bare, print)
    record = json.loads((bare.root / "hashes.json").read_text())
    assert set(record) == {part.path for part in bare.parts().values()}
    assert list(record["parser/parsing.safetensors"]) == [""] and "unet/config.json" in record["base"]


def test_the_parts_of_poses_are_fetched_like_others(
    tiny_pack_posed: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(tiny_pack_posed.root, tmp_path / "pack")
    shutil.rmtree(root / "control")
    file, said = root / "pack.toml", list[str]()
    for name in ("pose", "estimator"):
        old = f'path = "control/{name}"\n'
        file.write_text(file.read_text().replace(old, f'{old}hub = "owner/{name}"\n'))
    source = tiny_pack_posed.root / "control"
    stand_in(monkeypatch, source, "owner")
    missing = verify_pack(load_pack(file))
    assert {problem.level for problem in missing} == {"warning"} and "(owner/pose; none: " in missing[0].remedy
    fetch_pack(load_pack(file), said.append)
    assert [line.partition(": licence")[0] for line in said[:7]][-2:] == ["control.pose", "control.pose.estimator"]
    assert verify_pack(load_pack(file)) == []
    (root / "control" / "estimator" / "yolox.onnx").write_bytes(b"changed")
    assert any("has changed" in problem.message for problem in verify_pack(load_pack(file)))
