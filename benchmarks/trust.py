"""What keys, marks and signatures cost a request beside the picture itself: CPU time of this process.

    OMP_NUM_THREADS=1 python -m benchmarks.trust --out benchmarks/trust_MACHINE_YYYY-MM

A picture of the studio pack, alone in its batch, against: the gate in front of all routes (key looked up and compared,
scope, counters of open requests), a key's counter of pictures, consent and erasure asked of the catalogue, and XMP and
content credentials on its PNG. CPU time, as other work on the machine changes it least. Writes OUT.json and OUT.md.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

import factory  # noqa: F401  (before torchvision, transformers and diffusers: see factory/__init__.py)

# isort: split
import torch
from fastapi import FastAPI
from PIL import Image

import serve.ingress  # noqa: F401  (how a name stands in a path)
from benchmarks.measure import hardware, markdown
from benchmarks.setting import bench_pack, noise_requests
from factory.draw.images import ImageGenerator
from factory.provenance.marks import Marker
from factory.settings import generate_settings
from factory.store.keys import KeyRing, create_key
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.access import Gate, Rooms
from serve.catalog import Catalog
from serve.needs import NEEDS
from serve.openai.pictures import PNG_LEVEL
from serve.quotas import Quotas, asking, counted_here

KEYS: Final = 50  # of the root
_CALLS: Final = 300  # of what takes little
_PATH: Final = "/v1/models"


def main() -> None:
    """Prints the table, and writes it and its numbers to OUT.md and OUT.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="without a suffix")
    parser.add_argument("--pictures", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        costs_ms = measure(folder, arguments.pictures)
    picture = costs_ms.pop("a picture, alone")
    total = sum(costs_ms.values())
    rows = [["a picture, alone", f"{picture:.1f}", ""]]
    rows += [[what, f"{cost:.3f}", f"{cost / picture:.2%}"] for what, cost in costs_ms.items()]
    rows += [["keys, consents and marks together", f"{total:.2f}", f"{total / picture:.2%} (bar 3 %)"]]
    result = {"hardware": hardware("cpu"), "torch": torch.__version__, "keys": KEYS, "routes": len(NEEDS)}
    result |= {"picture_ms": picture, "costs_ms": costs_ms, "share": total / picture}
    arguments.out.with_suffix(".json").write_text(json.dumps(result, indent=2) + "\n")
    text = "# What trust costs a request\n\n" + markdown(["", "CPU ms, median", "of a picture"], rows)
    text += (
        f"\n{result['hardware']}; one thread; {KEYS} keys, {len(NEEDS)} routes; PNG of 128 px, one key with limits.\n"
    )
    arguments.out.with_suffix(".md").write_text(text)
    print(text)


def measure(root: str, num_pictures: int) -> dict[str, float]:
    """CPU time of each, ms, medians."""
    pack = bench_pack("studio", Path("packs"))
    generator, store = ImageGenerator(pack), Store(root)
    request = noise_requests(generator.base, 1, generate_settings(pack))[0]
    store.upsert("identities", [identity_row(request.identity)])
    images = generator.generate([request])
    costs = {"a picture, alone": _ms(lambda: generator.generate([request]), num_pictures)}
    buffer = io.BytesIO()
    Image.fromarray(images[0]).save(buffer, "PNG", compress_level=PNG_LEVEL)
    png, marker, catalog = buffer.getvalue(), Marker.of(root), Catalog(root)
    made = {"prompt": request.prompt, "seed": 1, "num_inference_steps": 10, "guidance_scale": 5.0, "size": "128x128"}
    costs |= asyncio.run(_of_requests(store))
    who = [request.identity.identity_id]
    costs["consent and erasure, asked twice"] = 2 * _ms(lambda: catalog.check_consents(who), _CALLS)
    costs["XMP and content credentials"] = _ms(lambda: marker.mark(png, made), _CALLS)
    return costs


async def _of_requests(store: Store) -> dict[str, float]:
    """The gate, less the app behind it; a counter in this process (Ray's actor adds a call that waits elsewhere)."""
    keys = [create_key(store, ["draw"], pictures_per_minute=10**6, max_waiting=10**6) for _ in range(KEYS)]
    text, key = keys[KEYS // 2]
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    async def answer() -> dict[str, str]:
        return {}

    for method, path in NEEDS:
        app.add_api_route(path, answer, methods=[method])
    gate = Gate(app, KeyRing(store.root), Rooms(lambda _: app), keyless="refuse")
    headers = [(b"authorization", f"Bearer {text}".encode()), (b"host", b"localhost")]
    quotas = Quotas(counted_here(), lasts_s=60.0)

    async def ask(asgi: Any) -> None:
        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(_message: Any) -> None:
            pass

        scope = {"type": "http", "method": "GET", "path": _PATH, "raw_path": _PATH.encode(), "query_string": b""}
        scope |= {"headers": list(headers), "scheme": "http", "server": ("localhost", 80), "http_version": "1.1"}
        await asgi(scope | {"client": ("127.0.0.1", 1), "root_path": "", "asgi": {"version": "3.0"}}, receive, send)

    async def count() -> None:
        async with quotas.pictures(1):
            pass

    asking.set(key)
    behind = await _ms_of(partial(ask, app))
    return {
        "gate: key, scope": await _ms_of(partial(ask, gate)) - behind,
        "limits of the key": await _ms_of(count),
    }


def _ms(call: Callable[[], object], times: int) -> float:
    call()
    taken = []
    for _ in range(times):
        began = time.process_time()
        call()
        taken.append(time.process_time() - began)
    return 1000 * statistics.median(taken)


async def _ms_of(call: Callable[[], Awaitable[None]]) -> float:
    await call()
    taken = []
    for _ in range(_CALLS):
        began = time.process_time()
        await call()
        taken.append(time.process_time() - began)
    return 1000 * statistics.median(taken)


if __name__ == "__main__":
    main()
