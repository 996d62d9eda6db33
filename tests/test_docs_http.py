"""What the documentation says to a running server, as it is written there: curl, the openai client, webuiapi."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest

from factory.pack import Pack
from factory.store.tables import Store
from serve.app import _announce
from tests.page_server import served
from tests.serving import people_store
from tests.test_docs import REPO
from tests.test_hostile_routes import wired
from tests.uploading import FakeLearner

ADDRESS = "http://127.0.0.1:8000"  # the documentation's
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
BLOCKS = [
    pytest.param(code, id=f"{page.name}-{number}")
    for page in PAGES
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL))
    if "client" in code or "api" in code
]  # fmt: skip


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Iterator[str]:
    root = tmp_path_factory.mktemp("root")
    learner = FakeLearner(Store(root), tiny_pack)
    learner.go.set()
    with wired(root, tiny_pack, learner) as app, served(app) as url:
        yield url


@pytest.fixture(autouse=True)
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ada.jpg", "zoe_1.jpg", "zoe_2.jpg"):
        Path(name).write_bytes(f"{name} {request.node.name}".encode())  # photos of each test's own


def curl(command: str, work: str, url: str) -> dict[str, Any]:
    """What a command of the documentation is answered, which must be no error."""
    words = shlex.split(command.replace(ADDRESS, url).replace("WORK_ID", work), comments=True)
    done = subprocess.run([*words, "--fail-with-body", "-sS"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, (command, done.stdout, done.stderr)
    return dict(json.loads(done.stdout))


def commands(text: str) -> list[str]:
    return re.findall(r"^curl .*$", text, re.MULTILINE) + re.findall(r"`(curl [^`]*)`", text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_every_curl_command_is_answered(url: str) -> None:
    found = [command for page in PAGES for command in commands(page.read_text(encoding="utf-8"))]
    assert len([one for one in found if ADDRESS in one]) >= 5 and any("WORK_ID" in one for one in found)
    work = learned = ""
    for command in found:
        if ADDRESS not in command:
            continue  # of a kind of its own, such as an installer's
        if "DELETE" in command:  # another one in this root is called so
            command = command.replace("identities/ada", f"identities/{learned}")
        told = curl(command, work, url)
        work = told["id"] if "status" in told else work
        while told.get("status") in ("queued", "in_progress"):
            told = httpx.get(f"{url}/v1/work/{work}").json()
        assert told.get("status", "completed") == "completed", told
        learned = told.get("result_id") or learned


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_what_serve_says_can_be_asked_is_answered(
    url: str, tiny_pack: Pack, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _announce(people_store(tmp_path / "people", tiny_pack), tiny_pack, url)
    said = commands(capsys.readouterr().out)
    assert len(said) == 2
    listed, drawn = (curl(command, "", url) for command in said)
    assert listed["data"] and drawn["data"][0]["b64_json"] and drawn["data"][0]["seed"] == 0
    _announce(Store(tmp_path / "none"), tiny_pack, url)
    assert "holds no identities yet" in capsys.readouterr().err


@pytest.mark.parametrize("code", BLOCKS)
def test_every_python_example_of_a_client_runs(code: str, url: str) -> None:
    port = url.rpartition(":")[2]
    assert "8000" in code or "client." in code
    code = code.replace(ADDRESS, url).replace("port=8000", f"port={port}")
    hasty = SimpleNamespace(sleep=lambda _: time.sleep(0.05))
    given: dict[str, Any] = {"json": json, "time": hasty, "prompts": ["<person> in the snow", "<person> on the beach"]}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        exec(compile(code, "the documentation", "exec"), given | {"client": client})


def test_there_are_examples_of_each_client() -> None:
    text = "".join(str(block.values[0]) for block in BLOCKS)
    for call in ("images.generate", "images.edit", "batches.create", "files.content", "webuiapi.WebUIApi"):
        assert call in text
