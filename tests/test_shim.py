"""torchvision beside a CPU build of torch: usable after `import factory`, and `import factory` costs nothing."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

import factory


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_library_loads_no_heavy_package() -> None:
    heavy = "{'torch', 'torchvision', 'numpy', 'transformers', 'diffusers', 'ray', 'cv2'}"
    assert run(f"import factory, sys; print(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_torchvision_and_what_needs_it_can_be_imported() -> None:
    run("import factory, torchvision; from facexlib.parsing.parsenet import ParseNet; ParseNet(64, 64)")


def test_the_finder_is_installed_once_and_finds_nothing() -> None:
    finders = [finder for finder in sys.meta_path if isinstance(finder, factory._TorchvisionSchemas)]
    assert len(finders) == 1
    assert finders[0].find_spec("torchvision.ops") is None and finders[0].find_spec("json") is None


@pytest.mark.parametrize(("loaded", "declared"), [(True, 0), (False, 1)])
def test_schemas_are_declared_only_where_the_operators_did_not_load(
    loaded: bool, declared: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(factory, "_declare_missing", lambda: calls.append(None))
    extension = SimpleNamespace(_has_ops=lambda: loaded, _check_cuda_version=None)
    monkeypatch.setitem(sys.modules, "torchvision.extension", extension)
    factory._TorchvisionSchemas().find_spec("torchvision._meta_registrations")
    factory._TorchvisionSchemas().find_spec("torch._meta_registrations")
    assert len(calls) == declared


def test_a_half_imported_extension_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(factory, "_declare_missing", lambda: pytest.fail("too early"))
    monkeypatch.setitem(sys.modules, "torchvision.extension", SimpleNamespace())
    factory._TorchvisionSchemas().find_spec("torchvision._internally_replaced_utils")
