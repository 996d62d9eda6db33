"""S3, Ray and the machine: each in a process of its own, for the environment decides."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
from moto.server import ThreadedMotoServer

from benchmarks.cases.desk import REPO, Desk, Got, Ran, faces_of, surroundings
from factory.store.tables import Store

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
ODD_KEYS = (
    "a+b.jpg",
    "a%20b.jpg",
    "a b.jpg",
    "a#b.jpg",
    "a?b.jpg",
    "Zoë.jpg",
    "a:b.jpg",
    "a&c=d.jpg",
    "a;b.jpg",
    "~'.jpg",
)


def s01(desk: Desk) -> Got:
    """One key with // under the prefix: the other photo is prepared, it is one too or a row."""
    with _bucket(desk, ["photos/ok.jpg", "photos/a//b.jpg"]) as where:
        ran, faces, rejects = _from_bucket(desk, "s01", "photos", where)
    return Got("ok" in faces and len(faces) + rejects == 2 and not ran.crash, f"{faces}, {rejects} refused; {ran.said}")


def s03(desk: Desk) -> Got:
    """Ten keys with + % space # ? unicode : & = ; ' ~: read."""
    with _bucket(desk, [f"odd/{key}" for key in ODD_KEYS]) as where:
        ran, faces, _ = _from_bucket(desk, "s03", "odd", where)
    return Got(len(faces) == len(ODD_KEYS), f"{len(faces)} of {len(ODD_KEYS)}; {ran.said}")


def s04(desk: Desk) -> Got:
    """Prefix `pre` beside `pre2`: only its own photos."""
    with _bucket(desk, ["pre/a.jpg", "pre2/b.jpg"]) as where:
        ran, faces, _ = _from_bucket(desk, "s04", "pre", where)
    return Got(faces == ["a"], f"{faces}; {ran.said}")


def s05(desk: Desk) -> Got:
    """AWS_ENDPOINT_URL_S3 alone: that server is used, for photos and for tables."""
    with _bucket(desk, ["photos/a.jpg"]) as where:
        environment = {**KEYS, "AWS_ENDPOINT_URL": None, "AWS_ENDPOINT_URL_S3": where["AWS_ENDPOINT_URL"]}
        ran = desk.process(
            "prepare",
            "--photos",
            "s3://cases/photos",
            "--root",
            "s3://cases/people",
            environment=environment,
            limit_s=90,
        )
        client = boto3.client("s3", endpoint_url=where["AWS_ENDPOINT_URL"])
        found = client.list_objects_v2(Bucket="cases", Prefix="people/faces.lance").get("KeyCount", 0)
    return Got(ran.code == 0 and found > 0, ran.said)


def r01(desk: Desk) -> Got:
    """RAY_ADDRESS=127.0.0.1:PORT, nobody there: an error that names it, within 40 s."""
    address = f"127.0.0.1:{_free_port()}"
    ran = _prepare(desk, "r01", {"RAY_ADDRESS": address}, limit_s=90)
    return Got(ran.clear and address in ran.output and ran.seconds < 40, f"{ran.said} ({ran.seconds:.0f} s)")


def r03(desk: Desk) -> Got:
    """`ray start --head` runs here, no RAY_ADDRESS: a cluster of its own, or joined."""
    with _ray_head(desk.folder("r03ray")) as environment:
        ran = _prepare(desk, "r03", environment)
    return Got(ran.code == 0, ran.said)


def r04(desk: Desk) -> Got:
    """Started in a folder with factory.py, pipelines.py, random.py, queue.py, torch.py, cv2.py: works."""
    shadows = desk.folder("r04shadows")
    for name in ("factory", "pipelines", "random", "queue", "torch", "cv2"):
        (shadows / f"{name}.py").write_text("raise RuntimeError('a file of the user was imported')\n")
    ran = _prepare(desk, "r04", {}, cwd=shadows)
    return Got(ran.code == 0, ran.said)


def r07(desk: Desk) -> Got:
    """`submit` to a cluster that wants a token: one line."""
    with _dashboard(401, b"Unauthorized: Missing authentication token") as url:
        ran = desk.process("submit", "--address", url, "train", "--root", "s3://b/people")
    return Got(ran.clear and "token" in ran.output.lower(), ran.said)


def r08(desk: Desk) -> Got:
    """`submit --working-dir` of a folder that is too large: what to exclude."""
    folder = desk.folder("r08")
    (folder / "weights.bin").write_bytes(os.urandom(2**20))
    with _dashboard(413, b"Maximum request body size 524288000 exceeded, actual body size 734003200") as url:
        ran = desk.process("submit", "--address", url, "--working-dir", folder, "train", "--root", "s3://b/people")
    told = re.search(r"exclude|leave out|smaller|weights\.bin|install", ran.output)
    return Got(ran.clear and told is not None, ran.said)


def r09(desk: Desk) -> Got:
    """Dead proxies set, one CPU, no HOME: works."""
    dead = {f"{name}_proxy": "http://127.0.0.1:9" for name in ("http", "https", "all")}
    dead |= {name.upper(): url for name, url in dead.items()}
    cpu = str(min(os.sched_getaffinity(0)))
    ran = _prepare(desk, "r09", {**dead, "HOME": None}, before=("taskset", "-c", cpu), limit_s=180)
    return Got(ran.code == 0, ran.said)


def r10(desk: Desk) -> Got:
    """24 TIFF scans of 42 MB against the same as JPEG: at most twice the time."""
    from PIL import Image

    seconds = {}
    for kind, format in (("jpg", "JPEG"), ("tif", "TIFF")):
        folder = desk.folder(f"r10{kind}")
        for number in range(24):
            scan = Image.new("RGB", (4000, 3500), (number * 5, 90, 120))
            scan.paste(desk.portrait.resize((1500, 1500)), (900, 900))
            (folder / f"scan{number:02d}.{kind}").write_bytes(desk.encoded(scan, format))
        ran, store = desk.prepared(folder)
        seconds[kind] = ran.seconds
        if store.count("faces") != 24:
            return Got(False, ran.said)
    return Got(seconds["tif"] <= 2 * seconds["jpg"], f"{seconds['tif']:.0f} s against {seconds['jpg']:.0f} s")


def r11(desk: Desk) -> Got:
    """RAY_ADDRESS=auto without a cluster: unset it, or start one."""
    desk.close()
    if any(path.read_text().startswith("gcs_server") for path in Path("/proc").glob("[0-9]*/comm")):
        return Got(None, "somebody else's Ray runs on this machine")
    ran = _prepare(desk, "r11", {"RAY_ADDRESS": "auto", "RAY_TMPDIR": str(desk.folder("r11ray"))})
    right = ran.clear and "RAY_ADDRESS" in ran.output and "--address" not in ran.said
    return Got(right, ran.said)


def _prepare(
    desk: Desk, name: str, environment: dict[str, str | None], *, limit_s: int = 120, cwd: Path | None = None,
    before: tuple[str, ...] = (),
) -> Ran:  # fmt: skip
    folder = desk.folder(name)
    (folder / "ada.jpg").write_bytes(desk.encoded())
    ran = desk.process(
        "prepare", "--photos", folder, "--root", f"{folder}.root", environment=environment, limit_s=limit_s, cwd=cwd,
        before=before,
    )  # fmt: skip
    if ran.code == 0 and faces_of(Store(f"{folder}.root")) != ["ada"]:
        return Ran(code=1, output=ran.output, seconds=ran.seconds, crash="no face prepared")
    return ran


def _from_bucket(desk: Desk, name: str, prefix: str, where: dict[str, str | None]) -> tuple[Ran, list[str], int]:
    root = desk.root / f"{name}.root"
    ran = desk.process("prepare", "--photos", f"s3://cases/{prefix}", "--root", root, environment=where)
    store = Store(root)
    return ran, faces_of(store), store.count("rejects")


@contextmanager
def _bucket(desk: Desk, keys: list[str]) -> Iterator[dict[str, str | None]]:
    """A loopback S3 with portraits under these keys of the bucket `cases`; gives the environment that finds it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    os.environ.update(KEYS)
    url = "http://{}:{}".format(*server.get_host_and_port())
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1")
    with suppress(client.exceptions.BucketAlreadyOwnedByYou):
        client.create_bucket(Bucket="cases")
    for number, key in enumerate(keys):
        client.put_object(Bucket="cases", Key=key, Body=desk.encoded(desk.portrait.rotate(number / 2)))
    try:
        yield {**KEYS, "AWS_ENDPOINT_URL": url}
    finally:
        server.stop()


@contextmanager
def _dashboard(status: int, body: bytes) -> Iterator[str]:
    """What answers as Ray's dashboard does where a request is refused: 401 at once, 413 where a package is sent."""

    class Answers(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("content-length") or 0))
            version = self.path.endswith("/version") and status != 401
            known = version or status == 401 or self.command == "PUT"
            text = (
                b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "x"}' if version else body if known else b"no"
            )
            self.send_response(200 if version else status if known else 404)
            self.send_header("content-length", str(len(text)))
            self.send_header("content-type", "application/json" if version else "text/plain")
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = do_PUT = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextmanager
def _ray_head(folder: Path) -> Iterator[dict[str, str | None]]:
    """A cluster that somebody started by hand, known to processes with this environment alone."""
    environment: dict[str, str | None] = {"RAY_TMPDIR": str(folder), "RAY_ADDRESS": None}
    command = ["start", "--head", "--block", "--num-cpus=1", f"--port={_free_port()}", "--include-dashboard=false"]
    head = subprocess.Popen(
        [str(Path(sys.executable).with_name("ray")), *command, "--object-store-memory=100000000"],
        env=surroundings(environment), cwd=REPO, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    started = time.monotonic()
    while not list(folder.rglob("ray_current_cluster")) and time.monotonic() < started + 60:
        time.sleep(0.5)
    time.sleep(3)
    try:
        yield environment
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


CASES = (s01, s03, s04, s05, r01, r03, r04, r07, r08, r09, r10, r11)
