"""What the tests of fetching share: a server of files, a hub, and a pack whose weights lie there."""

from __future__ import annotations

import hashlib
import io
import shutil
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from factory.pack import Pack, load_pack
from factory.supply import fetch as pack_fetch


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
    assert allow_patterns is not None
    for file in listing_hub(source, repositories, repo_id, revision=revision):
        if file in allow_patterns:
            target = local_dir / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / repo_id.split("/")[1] / file, target)
    return str(local_dir)


def listing_hub(source: Path, repositories: tuple[str, ...], repo_id: str, *, revision: str | None) -> list[str]:
    """Stands in for `list_repo_files`."""
    owner, name = repo_id.split("/")
    if owner not in repositories:
        raise ConnectionError(f"{repo_id} cannot be reached")
    return [str(file.relative_to(source / name)) for file in (source / name).rglob("*") if file.is_file()]


def stand_in(monkeypatch: pytest.MonkeyPatch, source: Path, *owners: str) -> None:
    monkeypatch.setattr(pack_fetch, "snapshot_download", partial(copying_hub, source, owners))
    monkeypatch.setattr(pack_fetch, "list_repo_files", partial(listing_hub, source, owners))


@pytest.fixture
def hub(tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tiny_pack.root, "owner")
