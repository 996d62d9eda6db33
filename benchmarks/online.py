"""People who are learned from uploads, on this machine: how long one takes, ten at once, and what drawing loses.

    python -m benchmarks.online --out benchmarks/online_MACHINE_YYYY-MM

Held-out people of the studio world are uploaded to the product as `identity-factory serve` starts it: the first one
with a learner that is not there yet, then one, then ten at once, each until there is a picture of them. Then clients
draw somebody, before and while another person is learned. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import httpx
import ray
import torch
from PIL import Image

import serve.app
from benchmarks.measure import hardware, markdown
from serve.proxy import set_environment
from studio.demo.people import portrait
from studio.demo.port import free_port

FIRST_PERSON: Final = 300  # of the held-out people
AT_ONCE: Final = 10
PROMPT: Final = "a photo of <person> in the snow"
_TIMEOUT_S: Final = 3600.0
_WAIT_S: Final = 60  # for an answer, which comes as soon as the work is over


def main() -> None:
    """Prints the table, and writes it and its numbers to OUT.md and OUT.json."""
    arguments = _arguments()
    with endpoint(arguments.threads) as url:
        result = {
            "hardware": hardware("cpu"),
            "cpus": os.cpu_count(),
            "load_average_before": os.getloadavg()[1],
            "torch": torch.__version__,
            "at_once": arguments.at_once,
            "clients": arguments.clients,
            **measure(url, arguments.at_once, arguments.clients, arguments.seconds),
        }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = report(result)
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def measure(url: str, at_once: int, clients: int, seconds: float) -> dict[str, Any]:
    """All of it: seconds from the upload to the first picture, and pictures a second."""
    numbers = count(FIRST_PERSON)
    photos = [_photo(next(numbers)) for _ in range(at_once + 3)]
    first_s, one_s = (upload_to_picture(url, photos.pop()) for _ in range(2))
    with ThreadPoolExecutor(at_once) as pool:
        began = time.monotonic()
        each_s = list(pool.map(lambda photo: upload_to_picture(url, photo), photos[:at_once]))
        ten_s = time.monotonic() - began
    with Drawing(url, clients) as drawing:
        time.sleep(seconds)
        before = drawing.pictures_per_s()
        learning_s = upload_to_picture(url, photos[at_once])
        meanwhile = drawing.pictures_per_s()
    return {
        "first_s": first_s,
        "one_s": one_s,
        "each_of_ten_s": each_s,
        "ten_s": ten_s,
        "learning_beside_drawing_s": learning_s,
        "pictures_per_s_before": before,
        "pictures_per_s_meanwhile": meanwhile,
        "errors": drawing.errors,
    }


def upload_to_picture(url: str, photo: bytes) -> float:
    """Uploads a new face, waits until it is learned, and has one picture drawn; seconds of all that."""
    with httpx.Client(base_url=f"{url}/v1", timeout=_TIMEOUT_S, trust_env=False) as client:
        began = time.monotonic()
        answer = client.post("/identities", files={"image": ("photo.jpg", photo)})
        assert answer.status_code == 202, answer.text
        work = answer.json()
        while work["status"] in ("queued", "in_progress"):
            work = client.get(f"/work/{work['id']}", params={"wait": _WAIT_S}).json()
        assert work["status"] == "completed", work
        picture = client.post("/images/generations", json=_body(work["result_id"], 0))
        assert picture.status_code == 200, picture.text
        return time.monotonic() - began


class Drawing:
    """Clients who always ask for the next picture of the newest identity, until the `with` ends."""

    def __init__(self, url: str, clients: int) -> None:
        self.errors: list[str] = []
        self._url, self._num, self._seeds = url, 0, count(1000)
        self._last = (0, time.monotonic())
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._draw) for _ in range(clients)]

    def __enter__(self) -> Drawing:
        with httpx.Client(base_url=f"{self._url}/v1", trust_env=False) as client:
            self._who = client.get("/models?limit=1").json()["data"][0]["identity_id"]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def pictures_per_s(self) -> float:
        """Since it was last asked, or since the start."""
        (num, at), now = self._last, (self._num, time.monotonic())
        self._last = now
        return (now[0] - num) / (now[1] - at)

    def _draw(self) -> None:
        with httpx.Client(base_url=f"{self._url}/v1", timeout=_TIMEOUT_S, trust_env=False) as client:
            while not self._over.is_set():
                answer = client.post("/images/generations", json=_body(self._who, next(self._seeds)))
                if answer.status_code == 200:
                    self._num += 1  # a lost count would need two at the same instant
                else:
                    self.errors.append(f"{answer.status_code}: {answer.text[:200]}")


def report(result: dict[str, Any]) -> str:
    """The table."""
    kept = result["pictures_per_s_meanwhile"] / result["pictures_per_s_before"]
    at_once, clients = result["at_once"], result["clients"]
    rows = [
        ["upload to first picture, the learner not there yet, s", f"{result['first_s']:.1f}", ""],
        ["upload to first picture, s", f"{result['one_s']:.1f}", "<= 20"],
        [f"{at_once} uploads at once, until all have a picture, s", f"{result['ten_s']:.1f}", ""],
        [f"{at_once} at once / one", f"{result['ten_s'] / result['one_s']:.2f}", "<= 3"],
        [f"pictures / s of {clients} clients before", f"{result['pictures_per_s_before']:.2f}", ""],
        ["the same while one is learned / before", f"{kept:.2f}", ">= 0.6"],
        ["upload to first picture meanwhile, s", f"{result['learning_beside_drawing_s']:.1f}", ""],
        ["answers that were errors", str(len(result["errors"])), "0"],
    ]
    return (
        "# People learned from uploads, studio\n\n"
        f"{result['hardware']}; torch {result['torch']}; clients and server on the same {result['cpus']} CPUs "
        f"(load average of 5 minutes before it began {result['load_average_before']:.1f}).\n\n"
        + markdown(["", "measured", "bar"], rows)
    )


@contextmanager
def endpoint(threads: int) -> Iterator[str]:
    """The product on a root of its own, which is empty."""
    with tempfile.TemporaryDirectory() as root:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `identity-factory serve` does
        set_environment()
        ray.init(address="local", num_cpus=max(2, threads), include_dashboard=False, log_to_driver=False)
        try:
            yield serve.app.start(root, port=free_port(20300))
        finally:
            serve.app.stop()
            ray.shutdown()


def _photo(index: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(portrait(index)).save(buffer, "JPEG", quality=93)
    return buffer.getvalue()


def _body(who: str, seed: int) -> dict[str, Any]:
    return {"model": who, "prompt": PROMPT, "seed": seed}



def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where to write, without suffix")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="uploads at a time")
    parser.add_argument("--clients", type=int, default=8, help="who draw meanwhile")
    parser.add_argument("--seconds", type=float, default=60.0, help="of drawing before somebody is learned beside it")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="CPUs of Ray")
    return parser.parse_args()


if __name__ == "__main__":
    main()
