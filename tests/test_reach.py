"""What a command needs on a network, told in seconds where it is not there."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from typer.testing import CliRunner

from cli.__main__ import app
from factory import reach
from factory.reach import check_stores, fault_at
from factory.storage import STORAGE
from serve.app import _check_free

runner = CliRunner()


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith(("AWS_", "GOOGLE_", "RAY_ADDRESS")):
            monkeypatch.delenv(name)
    monkeypatch.setenv(STORAGE, "")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setattr(reach, "_LIMIT_S", 0.3)


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that takes connections and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0))) as deaf:
        yield deaf.getsockname()[1]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def test_nobody_a_silent_one_and_somebody_are_told_apart(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "refused" in fault_at(f"http://127.0.0.1:{free_port()}")
    assert fault_at(f"http://127.0.0.1:{port}") == "no answer within 0.3 s"
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # 501 to whatever is asked: it is there
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    here = f"127.0.0.1:{server.server_port}"
    assert fault_at(f"http://{here}") == "" and "ssl" in fault_at(f"https://{here}").lower()
    server.shutdown()
    for wrong in (here, "ray://head:10001", "http://", "http://host:many"):
        with pytest.raises(ValueError):
            fault_at(wrong)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert fault_at(f"http://nobody.invalid:{port}") == "", "what a proxy reaches is not known here"


def test_stores_that_do_not_answer_are_told_with_the_remedy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check_stores(["/a", "relative", "memory://x"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(OSError, match=r"the S3 server http://127.0.0.1:\d+ does not answer .*AWS_ENDPOINT_URL"):
        check_stores(["/a", "s3://bucket/x"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(ValueError, match="minio:9000 is no URL: write http://HOST:PORT"):
        check_stores(["s3://bucket/x"])
    monkeypatch.setenv("GCE_METADATA_HOST", f"127.0.0.1:{port}")
    with pytest.raises(OSError, match="gs:// has no credentials here: set GOOGLE_APPLICATION_CREDENTIALS"):
        check_stores(["gs://bucket/x"])
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json")
    with pytest.raises(OSError, match=r"/nowhere\.json: there is no such file"):
        check_stores(["gs://bucket/x"])
    monkeypatch.setenv(STORAGE, "anonymous=true")
    check_stores(["gs://bucket/x"])


class Refusing(BaseHTTPRequestHandler):
    """S3 that answers everybody with one error."""

    code = ""

    def do_GET(self) -> None:
        body = f"<Error><Code>{self.code}</Code><Message>no</Message></Error>".encode()
        self.send_response(403)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_HEAD(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "of_photos", "says"),
    [
        ("AccessDenied", False, "let them list, read and write there"),
        ("InvalidAccessKeyId", True, "AWS_ACCESS_KEY_ID, or the profile in use, is not known there"),
        ("SignatureDoesNotMatch", True, "AWS_SECRET_ACCESS_KEY is not that of the key"),
        ("ExpiredToken", True, "the session is over: log in again"),
        ("AuthorizationHeaderMalformed", True, "set AWS_REGION, or --storage region"),
    ],
)
def test_credentials_that_are_refused_are_told_as_such(
    monkeypatch: pytest.MonkeyPatch, code: str, of_photos: bool, says: str
) -> None:
    handler = type("Handler", (Refusing,), {"code": code})
    server = HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(reach, "_LIMIT_S", 5.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    root = "s3://people/root"
    with pytest.raises(
        OSError, match=rf"s3://people, asked at http\S+, with the key test of \S+ refuses it \({code}\): .*{says}"
    ):
        check_stores([root], tables=[root])
    if of_photos:
        with pytest.raises(OSError, match=says):
            check_stores([root])
    else:
        check_stores([root])
    server.shutdown()


class Portal(Refusing):
    """A proxy's page for whatever is asked."""

    body = b"<!DOCTYPE html><html><br>Log in first</html>"

    def do_GET(self) -> None:
        body = self.body
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def test_what_is_no_s3_server_and_a_certificate_of_its_own_are_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(reach, "_LIMIT_S", 5.0)
    for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    tidy = type("Tidy", (Portal,), {"body": b"<!DOCTYPE html><html><p>Log in first</p></html>"})  # XML, too
    for scheme, handler, told in (
        ("http", Portal, "is no S3 server, or a proxy"),
        ("http", tidy, "is no S3 server, or a proxy"),
        ("https", Portal, "certificate is not one that is trusted"),
    ):
        server = HTTPServer(("127.0.0.1", 0), handler)
        if scheme == "https":
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate(tmp_path))
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"{scheme}://127.0.0.1:{server.server_port}")
        with pytest.raises(OSError, match=rf"s3://people cannot be reached .*{told}"):
            check_stores(["s3://people/photos"])
        server.shutdown()


def certificate(folder: Path) -> Path:
    """One that nobody signed, with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + timedelta(days=1))
    file = folder / "own.pem"
    file.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)
    )
    return file


def test_no_credentials_are_told_where_tables_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = HTTPServer(("127.0.0.1", 0), Refusing)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setattr(reach, "_LIMIT_S", 5.0)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(OSError, match=r"NoCredentialsError\): there are none: set AWS_ACCESS_KEY_ID"):
        check_stores(["s3://people/root"], tables=["s3://people/root"])
    check_stores(["s3://people/photos"])
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "alone")
    with pytest.raises(OSError, match="one of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY is missing"):
        check_stores(["s3://people/photos"])
    server.shutdown()


def test_commands_tell_it_in_one_line(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    for words, says in (
        (["identities", "list", "--root", "s3://bucket/people"], "does not answer (no answer within 0.3 s)"),
        (["keys", "create", "--root", "s3://bucket/people", "--scope", "draw"], "does not answer"),
        (["serve", "--root", "s3://bucket/people"], "does not answer"),
        (["run", "--photos", "s3://bucket/x", "--root", str(tmp_path)], "correct AWS_ENDPOINT_URL"),
        (["submit", "--address", "head:8265", "train", "--root", "s3://b/x"], "head:8265 is no URL: write http://"),
        (["submit", "--address", f"http://127.0.0.1:{port}", "train", "--root", "x"], "takes no job: no answer"),
    ):
        result = runner.invoke(app, words)
        assert result.exit_code == 1 and says in result.stderr and result.stderr.count("\n") == 1, result.output


def test_a_taken_port_is_told_before_ray_starts(port: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with pytest.raises(OSError, match=rf"127.0.0.1:{port} cannot be served: Address already in use.*; end what"):
        _check_free("127.0.0.1", port)
    with pytest.raises(OSError, match=r"203.0.113.7:8000 cannot be served: .*; choose another --host"):
        _check_free("203.0.113.7", 8000)  # of no machine
    _check_free("127.0.0.1", free_port())
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    _check_free("127.0.0.1", port)  # whose cluster may serve there itself


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["ednpoint=http://h:9000", "identities", "list", "--root", "ROOT"], "did you mean endpoint?"),
        (["color=blue", "run", "--photos", "/a", "--root", "ROOT"], "on a store, and none has such a setting; there"),
        (["color=blue", "run", "--photos=gs://b/a", "--root", "ROOT"], "no store of this command has such a setting"),
        (["account_key=x", "submit", "--address", "http://h:1", "train", "--root", "s3://b/x"], "no store of this"),
        (["region=x", "serve", "--cors", "https://h", "--port", "99999", "--root", "ROOT"], "nothing reads --storage"),
    ],
)
def test_a_setting_that_nothing_reads_is_told(words: list[str], says: str, tmp_path: Path) -> None:
    given = [str(tmp_path) if word == "ROOT" else word for word in words]
    result = runner.invoke(app, ["--storage", *given])
    assert result.exit_code and says in result.stderr, result.output


def test_settings_of_other_packages_are_their_own(tmp_path: Path) -> None:
    result = runner.invoke(app, ["--storage", "token=x", "prepare", "--photos", "nowhere://x", "--root", str(tmp_path)])
    assert result.exit_code == 1 and "nowhere:// is not read" in result.stderr, result.output


def test_accents_are_right_where_the_locale_knows_none(tmp_path: Path) -> None:
    (tmp_path / "Zoë").mkdir()
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": str(Path(__file__).parents[1])}
    listed = [sys.executable, "-m", "cli", "jobs", "show", "Müller", "--root", str(tmp_path / "Zoë")]
    result = subprocess.run(listed, env=environment, capture_output=True, check=False)
    assert result.returncode == 1 and result.stderr.decode().count("\n") == 1
    assert "Müller" in result.stderr.decode() and "Zoë" in result.stderr.decode()


def test_who_insists_on_the_locale_gets_it_and_an_end() -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    asked = [sys.executable, "-X", "utf8=0", "-m", "cli", "--version"]
    assert subprocess.run(asked, env=environment, capture_output=True, check=False, timeout=60).returncode == 0
