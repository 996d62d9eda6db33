"""The certificate by which a root signs: made once, the operator's, another user's."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.__main__ import app
from factory.errors import OutputError
from factory.pack import Pack
from factory.provenance.credentials import Credentials, make_self_signed
from factory.provenance.marks import Marker
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve import app as serving_app
from tests.serving import person


def test_the_certificate_is_made_once_and_read_by_nobody_else(tmp_path: Path) -> None:
    first, again = Credentials.of(str(tmp_path)), Credentials.of(str(tmp_path))
    assert first == again and "BEGIN PRIVATE" not in repr(first)
    assert (tmp_path / "credentials" / "c2pa.pem").stat().st_mode & 0o777 == 0o600
    assert Marker.of(str(tmp_path)) is Marker.of(str(tmp_path / "tenants" / "acme")), "the operator's signs"


def test_an_operators_certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = make_self_signed()
    (tmp_path / "own.pem").write_bytes(own.pem())
    monkeypatch.setenv("IDENTITY_FACTORY_CERTIFICATE", str(tmp_path / "own.pem"))
    assert Credentials.of(str(tmp_path / "root")) == own and not (tmp_path / "root").exists()
    (tmp_path / "own.pem").write_bytes(make_self_signed().chain + own.key)
    with pytest.raises(ValueError, match="not the key's"):
        Credentials.of(str(tmp_path / "root"))


def test_a_certificate_that_cannot_be_read_is_told_before_anything_is_drawn(
    store: Store, tmp_path: Path, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.upsert("identities", [identity_row(person(1, "ada", tiny_pack.fingerprint()))])
    monkeypatch.setenv("IDENTITY_FACTORY_CERTIFICATE", str(tmp_path / "gone.pem"))
    base = ["--root", store.root, "--pack", str(tiny_pack.root), "--prompt", "<person>", "--out", str(tmp_path / "out")]
    for command in ("generate", "sculpt"):
        told = CliRunner().invoke(app, [command, *base])
        assert told.exit_code == 1 and told.stderr.count("\n") == 1, told.output
        assert f"{tmp_path}/gone.pem, the certificate by which files are signed: it is not there" in told.stderr
    with pytest.raises(OutputError, match=r"gone\.pem, the certificate"):
        serving_app.start(store.root, str(tiny_pack.root), host="127.0.0.1", port=20311)
    assert not Path(store.root, "jobs").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root may become somebody else")
def test_another_users_certificate_is_told(for_anyone: Path) -> None:
    Credentials.of(str(for_anyone))
    code = "import os, sys; os.setuid(61042); from factory.provenance.credentials import Credentials\n"
    code += "try:\n    Credentials.of(sys.argv[1])\nexcept OSError as error:\n    print(type(error).__name__, error)"
    for mode in (0o755, 0o700):  # of the folder that it is in
        (for_anyone / "credentials").chmod(mode)
        done = subprocess.run(
            [sys.executable, "-c", f"import factory.provenance.credentials; {code}", str(for_anyone)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
            capture_output=True,
            text=True,
        )
        assert done.stdout.startswith(f"OutputError {for_anyone}/credentials/c2pa.pem, the certificate"), done.stderr
        assert "this user may not read it" in done.stdout and done.stdout.count("\n") == 1
