"""Fetching packs, against a server on loopback and a hub client that copies from a folder."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from factory.errors import PackError
from factory.pack import Pack, load_pack
from factory.supply import fetch as pack_fetch
from factory.supply.fetch import fetch_pack
from factory.supply.verify import verify_pack


class Files(BaseHTTPRequestHandler):
    """Serves a dictionary, with byte ranges; the first answer of a path in `cut` ends after that many bytes."""

    content: dict[str, bytes]
    cut: dict[str, int]
    log: list[tuple[str, str | None]]

    def do_GET(self) -> None:
        wanted = self.headers["Range"]
        self.log.append((self.path, wanted))
        data = self.content.get(self.path)
        if data is None:
            self.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.wfile.write(data[start : self.cut.pop(self.path, len(data))])

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    Files.content, Files.cut, Files.log = {}, {}, []
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as running:
        threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True).start()
        yield running
        running.shutdown()


def zipped(folder: Path, *, top: str = "") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{top}{file.name}")
    return buffer.getvalue()


@pytest.fixture
def bare(tiny_pack: Pack, tmp_path: Path, server: ThreadingHTTPServer) -> Pack:
    """The tiny pack as a description only: three parts on the hub, a zip and a file on a server."""
    where = f"http://127.0.0.1:{server.server_port}"
    faces = zipped(tiny_pack.root / "faces")
    parser = (tiny_pack.root / "parser" / "parsing.safetensors").read_bytes()
    Files.content = {"/release/faces.zip": faces, "/release/parsing.safetensors": parser}
    text = (tiny_pack.root / "pack.toml").read_text()
    for name in ("base", "fr_vit", "clip"):
        text = text.replace(f'path = "{name}"\n', f'path = "{name}"\nhub = "owner/{name}"\nmirrors = ["copy/{name}"]\n')
    for path, file, data in (
        ("faces", "faces.zip", faces),
        ("parser/parsing.safetensors", "parsing.safetensors", parser),
    ):
        source = f'url = "{where}/release/{file}"\nurl_sha256 = "{hashlib.sha256(data).hexdigest()}"\n'
        text = text.replace(f'path = "{path}"\n', f'path = "{path}"\n{source}')
    root = tmp_path / "bare"
    root.mkdir()
    (root / "pack.toml").write_text(text)
    shutil.copy(tiny_pack.root / "celebrities.txt", root)
    return load_pack(root)


def copying_hub(
    source: Path,
    repositories: tuple[str, ...],
    repo_id: str,
    *,
    revision: str | None,
    allow_patterns: list[str] | None,
    local_dir: Path,
) -> str:
    """Stands in for `snapshot_download`: copies the folder named like the repository."""
    owner, name = repo_id.split("/")
    if owner not in repositories:
        raise ConnectionError(f"{repo_id} cannot be reached")
    shutil.copytree(source / name, local_dir, dirs_exist_ok=True)
    return str(local_dir)


@pytest.fixture
def hub(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack_fetch, "snapshot_download", partial(copying_hub, tiny_pack.root, ("owner",)))


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
    monkeypatch.setattr(pack_fetch, "snapshot_download", partial(copying_hub, tiny_pack.root, ("copy",)))
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
    monkeypatch.setattr(pack_fetch, "snapshot_download", partial(copying_hub, source, ("owner",)))
    missing = verify_pack(load_pack(file))
    assert {problem.level for problem in missing} == {"warning"} and "(owner/pose; none: " in missing[0].remedy
    fetch_pack(load_pack(file), said.append)
    assert [line.partition(": licence")[0] for line in said[:7]][-2:] == ["control.pose", "control.pose.estimator"]
    assert verify_pack(load_pack(file)) == []
    (root / "control" / "estimator" / "yolox.onnx").write_bytes(b"changed")
    assert any("has changed" in problem.message for problem in verify_pack(load_pack(file)))
