"""The documentation says what the code does: names exist, columns agree, the README's example runs."""

from __future__ import annotations

import importlib
import re
import shlex
import subprocess
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image
from typer.main import get_command

from cli.__main__ import app
from factory.errors import REASONS
from factory.pack import Pack
from factory.store.schemas import SCHEMAS

REPO = Path(__file__).resolve().parent.parent
README = (REPO / "README.md").read_text(encoding="utf-8")
METHOD = (REPO / "docs" / "method.md").read_text(encoding="utf-8")
TABLES = (REPO / "docs" / "tables.md").read_text(encoding="utf-8")


def _rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]


def _defined(file: str, name: str) -> bool:
    thing: object = importlib.import_module(file.removesuffix(".py").replace("/", "."))
    for part in name.split("."):
        if not hasattr(thing, part):
            return False
        thing = getattr(thing, part)
    return True


@pytest.mark.parametrize("text", [README, METHOD], ids=["README.md", "docs/method.md"])
def test_functions_named_in_tables_exist_in_their_file(text: str) -> None:
    checked = 0
    for row in _rows(text):
        where = [at for at, cell in enumerate(row) if re.fullmatch(r"`(factory|pipelines|serve)/[\w/]+\.py`", cell)]
        if not where:
            continue
        file, beside = row[where[0]].strip("`"), row[where[0] - 1 : where[0] + 2]
        for name in (name for cell in beside for name in re.findall(r"`(_?[A-Za-z]\w+(?:\.\w+)*)`", cell)):
            assert _defined(file, name), f"{file} has no {name}"
            checked += 1
    assert checked > 8


def test_the_annotated_tree_names_what_is_there() -> None:
    tree = README.partition("## The house")[2].split("```")[1]
    folder = inner = ""
    for line in tree.strip().splitlines():
        first, indent = line.split()[0], len(line) - len(line.lstrip())
        if indent == 0:
            folder, inner = (first if first.endswith("/") else ""), ""
            assert (REPO / first).exists(), first
        elif indent == 2:
            inner = first if first.endswith("/") else ""
            assert not inner or (REPO / folder / inner).is_dir(), folder + inner
        for name in re.findall(r"[\w/]*\w\.(?:py|yaml|md)\b", line):
            places = (REPO / folder / inner / name, REPO / folder / name, REPO / name)
            assert any(place.exists() for place in places), f"{folder}{inner}{name}"
    for file in (REPO / "factory").rglob("[a-z]*.py"):
        assert re.search(rf"\b{file.name}\b", tree), f"{file.name} is not in the README's tree"


def test_every_column_and_reason_is_documented() -> None:
    for table, schema in SCHEMAS.items():
        section = re.split(r"^## ", TABLES.partition(f"## `{table}`")[2], flags=re.MULTILINE)[0]
        documented = [row[0].split("`")[1] for row in _rows(section) if row[0].startswith("`")]
        assert documented == schema.names, table
    reasons = [row[0].strip("`") for row in _rows(TABLES.partition("## Reasons")[2]) if row[0].startswith("`")]
    assert reasons == list(REASONS)


def test_links_lead_somewhere() -> None:
    num = 0
    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)[)#]", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
            num += 1
    assert num > 20


def test_the_pictures_of_the_pages_are_small() -> None:
    """Everybody who clones the repository loads them; a grid of pictures is no PNG."""
    results = [file for file in (REPO / "docs" / "results").iterdir() if file.suffix in (".png", ".jpg", ".webp")]
    assert len(results) >= 5 and sum(file.stat().st_size for file in results) <= 2_000_000
    assert (REPO / "docs" / "demo.jpg").stat().st_size <= 400_000


def test_make_alone_lists_every_target() -> None:
    listed = subprocess.run(["make", "-C", str(REPO)], capture_output=True, text=True, check=True).stdout
    targets = re.search(r"^\.PHONY: (.*)$", (REPO / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    for target in targets[1].split():
        assert re.search(rf"make {target}\s+\S", listed), target


def test_every_program_of_the_makefile_exists() -> None:
    makefile = (REPO / "Makefile").read_text()
    modules = set(re.findall(r"python -m ([\w.]+)", makefile)) - {"pip", "pytest", "playwright"}
    assert "benchmarks.prepare" in modules and "studio" in modules
    for module in modules:
        path = REPO / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"identity-factory (\w+)", makefile)) - {"needs"} <= commands


def test_every_command_line_of_the_docs_is_one() -> None:
    """Each option exists and takes what it is given; nothing is run."""
    found = 0
    for page in [REPO / "README.md", *(REPO / "docs").glob("*.md")]:
        blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for line in re.findall(r"^(?:\.venv/bin/)?identity-factory (.*)$", "".join(blocks), re.MULTILINE):
            words, context, command = shlex.split(line, comments=True), None, get_command(app)
            while True:
                context = command.make_context(command.name, words, parent=context)  # raises UsageError
                if not isinstance(command, click.Group):
                    break
                _, chosen, words = command.resolve_command(context, [*context._protected_args, *context.args])
                assert chosen is not None, line
                command = chosen
            found += 1
    assert found >= 15


def test_the_readme_example_runs(tiny_pack: Pack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from studio.demo.people import portrait

    code = README.split("```python\n")[1].split("```")[0]
    assert len(code.strip().splitlines()) < 20
    code = code.replace('"studio"', repr(str(tiny_pack.root)))
    code = code.replace('"paper")', '"paper", {"num_steps": 2})', 1)
    Image.fromarray(portrait(0)).save(tmp_path / "ada.jpg")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    picture = np.asarray(Image.open(tmp_path / "ada_in_the_snow.png"))
    assert picture.shape == (tiny_pack.resolution, tiny_pack.resolution, 3)
