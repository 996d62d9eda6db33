"""What the tests of the page share: a real browser, a visit that tells what it asked for, and what visitors do.

With PAGE_SCREENSHOTS=DIR what the documentation shows is written there.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from factory.store.tables import Store
from tests.page_server import local_app, served, studio_root, write_camera

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-page` installs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = (Path(__file__).parent / "data" / "axe" / "axe.min.js").read_text(encoding="utf-8")
WAIT_MS = 90_000  # for pictures on a busy machine; 2 s on a quiet one


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        if CHROMIUM is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed; `make test-page` brings one")
        # nothing but this machine has a name here; --no-sandbox: tests may run as root, as in a container
        only_here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        film = write_camera(tmp_path_factory.mktemp("camera") / "film.y4m")
        camera = ["--use-fake-device-for-media-stream", f"--use-file-for-fake-video-capture={film}"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", only_here, *camera])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return studio_root(tmp_path_factory.mktemp("page") / "root")


@pytest.fixture(scope="module")
def app(store: Store) -> FastAPI:
    return local_app(store)


@pytest.fixture(scope="module")
def address(app: FastAPI) -> Iterator[str]:
    with served(app) as address:
        yield address


class Visit:
    """A tab of its own, and all that it asked for and complained of."""

    def __init__(self, browser: Any, address: str, **context: Any) -> None:
        self._context = browser.new_context(**({"viewport": {"width": 1280, "height": 860}} | context))
        self.page = self._context.new_page()
        self.page.set_default_timeout(WAIT_MS)
        self.asked: list[str] = []
        self.complaints: list[str] = []
        self.refusals = 0  # answers 422 that are meant; the console tells them, too
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._heard)
        self.address = address
        self.page.goto(address)

    def _heard(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def close(self) -> None:
        """Fails if any request left the host, or the console has a word to say."""
        self._context.close()
        away = [url for url in self.asked if not url.startswith((self.address, "data:", "blob:" + self.address))]
        assert away == [] and len(self.asked) > 10
        told = [text for text in self.complaints if "status of 422" in text]
        assert len(told) == self.refusals and self.complaints == told


@pytest.fixture
def visit(browser: Any, address: str) -> Iterator[Visit]:
    visit = Visit(browser, address)
    yield visit
    visit.close()


def choose(page: Any, *names: str) -> None:
    for name in names:
        page.locator(".who", has_text=name).click()


def draw(page: Any, num: int) -> Any:
    """Asks for pictures, and gives the batch of them when they are drawn."""
    page.locator(".segments label", has=page.locator(f"input[name=count][value='{num}']")).click()
    page.locator(".send .button").click()
    batch = page.locator(".batch").first
    playwright.expect(batch.locator("button.tile img")).to_have_count(num, timeout=WAIT_MS)
    return batch


def faults(page: Any) -> list[str]:
    """What axe-core calls serious or critical on the page as it stands."""
    page.evaluate(AXE)
    page.evaluate(  # what is fading in is pale
        "Promise.allSettled(document.getAnimations().filter((one) => one.effect.getComputedTiming().endTime < Infinity)"
        ".map(({finished}) => finished))"
    )
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{fault['id']}: {node['html'][:120]}"
        for fault in found if fault["impact"] in ("serious", "critical") for node in fault["nodes"]
    ]  # fmt: skip


def shoot(page: Any, name: str) -> None:
    """A screenshot for the documentation, if it is wanted."""
    if folder := os.environ.get("PAGE_SCREENSHOTS"):
        file = Path(folder) / f"{name}.png"
        page.evaluate("document.querySelectorAll('.composer, .fields').forEach((one) => { one.scrollTop = 0; })")
        page.wait_for_timeout(500)  # what fades has faded
        page.screenshot(path=file)
        Image.open(file).convert("RGB").save(file.with_suffix(".webp"), quality=80, method=6)
        file.unlink()


def upload(page: Any, name: str, photo: bytes) -> Any:
    """Gives a photo to the open dialog, and the card of what becomes of it."""
    page.locator("dialog #photos").set_input_files({"name": f"{name}.png", "mimeType": "image/png", "buffer": photo})
    return page.locator("dialog .card.upload").first


def upload_several(page: Any, *photos: bytes) -> Any:
    """Gives photos to the open dialog together, and the question whose they are."""
    files = [{"name": f"IMG 1{number}.png", "buffer": photo} for number, photo in enumerate(photos)]
    page.locator("dialog #photos").set_input_files([{"mimeType": "image/png", **file} for file in files])
    return page.locator("dialog .card.whose")


def learn(card: Any, name: str) -> None:
    """Has the face learned that was found, under the file's name."""
    playwright.expect(card.locator("input")).to_have_value(name, timeout=WAIT_MS)
    card.get_by_role("button", name="Learn this face").click()


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def erase(page: Any, name: str) -> None:
    page.locator(".card.person", has_text=name).click()
    page.locator("dialog .button.danger").click()
    assert page.evaluate("document.activeElement.textContent") == "Keep", "not by an Enter too many"
    page.locator("dialog .button.danger", has_text=f"Erase {name}").click()
    playwright.expect(page.locator("dialog")).to_have_count(0, timeout=WAIT_MS)
