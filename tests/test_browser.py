"""The page in a real browser: a newcomer's path, what it asks of whom, and whether everybody can use it.

Runs where playwright and a Chromium are installed; `make test-page` installs them. With PAGE_SCREENSHOTS=DIR what the
documentation shows is written there.
"""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from factory.store.keys import KeyRing, create_key, revoke_key
from factory.store.tables import Store
from serve.access import Gate, Rooms
from tests.page_server import local_app, photo_of, served, studio_root

playwright = pytest.importorskip("playwright.sync_api", reason="`make test-page` installs playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = (Path(__file__).parent / "data" / "axe" / "axe.min.js").read_text(encoding="utf-8")
WAIT_MS = 90_000  # for pictures on a busy machine; 2 s on a quiet one
pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        if CHROMIUM is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("no Chromium is installed; `make test-page` brings one")
        # nothing but this machine has a name here; --no-sandbox: tests may run as root, as in a container
        only_here = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", only_here])
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


def test_a_picture_is_chosen_drawn_seen_in_the_making_and_kept_in_the_gallery(visit: Visit) -> None:
    page = visit.page
    playwright.expect(page.locator(".who[data-who]")).to_have_count(3)
    playwright.expect(page.locator(".send .button")).to_be_disabled()
    choose(page, "Ada")
    page.locator(".chip", has_text="golden crown").click()
    playwright.expect(page.locator("#sent")).to_contain_text("a photo of Ada wearing a golden crown")
    page.evaluate(
        "window.seen = new Set(); const look = (all) => all.forEach(({target}) => target.matches('.making img')"
        " && seen.add(target.src));"
        "new MutationObserver(look).observe(document, {subtree: true, attributes: true, attributeFilter: ['src']})"
    )
    batch = draw(page, 2)
    assert page.evaluate("seen.size") >= 2, "previews were shown while they were drawn"
    sizes = batch.locator("button.tile img").evaluate_all("all => all.map(one => one.naturalWidth)")
    assert sizes == [128, 128]
    assert faults(page) == []
    shoot(page, "draw")
    batch.locator("button.tile").first.click()
    dialog = page.locator("dialog")
    playwright.expect(dialog).to_contain_text("Ada")
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.locator(".tabs a", has_text="Gallery").click()
    playwright.expect(page.locator(".tiles .tile")).to_have_count(2)
    assert faults(page) == []


def test_two_people_with_poses_in_one_picture_by_keyboard_alone(visit: Visit) -> None:
    page = visit.page
    for name in ("Bob", "Cleo"):
        page.locator(".who", has_text=name).focus()
        page.keyboard.press("Space")
    playwright.expect(page.locator(".who[aria-pressed=true]")).to_have_count(2)
    page.locator("#prompt").fill("<person> on the beach")
    page.locator("input[name=pose][value=left]").focus()
    page.keyboard.press("Space")
    page.locator("input[name=count][value='1']").focus()
    page.keyboard.press("Space")
    page.keyboard.press("Control+Enter")
    tile = page.locator(".batch button.tile img")
    playwright.expect(tile).to_have_count(1, timeout=WAIT_MS)
    assert tile.evaluate("one => [one.naturalWidth, one.naturalHeight]") == [256, 128]
    text = page.locator(".batch header").inner_text()
    assert re.search("Bob and Cleo on the beach", text), text
    shoot(page, "two")


def test_people_are_searched_and_looked_at_with_their_masks(visit: Visit) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    playwright.expect(page.locator(".card.person:not(.add)")).to_have_count(3)
    assert faults(page) == []
    shoot(page, "people")
    page.locator("input[type=search]").fill("cle")
    playwright.expect(page.locator(".card.person:not(.add)")).to_have_count(1)
    page.locator(".card.person:not(.add)").click()
    page.locator("dialog input[type=checkbox]").check()
    mask = page.locator("dialog .picture img").last
    playwright.expect(mask).to_have_css("opacity", "1")
    playwright.expect(mask).to_have_js_property("naturalWidth", 128)
    assert faults(page) == []
    page.keyboard.press("Escape")
    page.locator(".tabs a", has_text="Activity").click()
    playwright.expect(page.locator("h1")).to_have_text("Activity")
    assert faults(page) == []
    page.evaluate("document.querySelector('h1').after(document.createElement('button'))")
    assert [fault.split(":")[0] for fault in faults(page)] == ["button-name"], "a fault would be found"


def upload(page: Any, name: str, photo: bytes) -> Any:
    """Gives a photo to the open dialog, and the card of what becomes of it."""
    page.locator("dialog #photos").set_input_files({"name": f"{name}.png", "mimeType": "image/png", "buffer": photo})
    card = page.locator("dialog .card.upload").first
    playwright.expect(card.locator("input")).to_have_value(name)
    card.get_by_role("button", name="Learn this face").click()
    return card


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def test_dark_and_as_wide_as_a_phone(browser: Any, address: str) -> None:
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    visit = Visit(browser, address, color_scheme="dark", **phone)
    page = visit.page
    playwright.expect(page.locator(".who[data-who]")).to_have_count(3)
    for tab in ("People", "Gallery", "Activity", "Draw"):
        page.locator(".tabs a", has_text=tab).tap()
        playwright.expect(page.locator("h1")).to_have_text(tab)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{tab} is wider than the phone"
        assert not re.search(r"\b(false|null|undefined|NaN)\b", page.locator("body").inner_text())
        assert faults(page) == []
    shoot(page, "phone")
    visit.close()


@pytest.mark.slow  # what learns must load
def test_a_photo_becomes_a_person_who_can_be_erased(visit: Visit) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    people = page.locator(".card.person:not(.add)")
    playwright.expect(people).to_have_count(3)
    page.locator(".card.person.add").click()
    assert faults(page) == []
    card = upload(page, "Nobody", png(np.full((128, 128, 3), 90, np.uint8)))
    playwright.expect(card.locator("[role=alert]")).to_contain_text("face", timeout=WAIT_MS)
    card = upload(page, "Dana", photo_of(107, 108))
    playwright.expect(card).to_contain_text("2 faces are in this photo", timeout=WAIT_MS)
    assert faults(page) == []
    shoot(page, "upload")
    card.locator(".box").first.click()
    playwright.expect(card.locator(".pill")).to_have_text("learned", timeout=WAIT_MS)
    playwright.expect(people).to_have_count(4)
    page.keyboard.press("Escape")
    erase(page, "Dana")
    playwright.expect(people).to_have_count(3, timeout=WAIT_MS)
    visit.refusals = 2


@pytest.mark.slow  # what sculpts must load
def test_a_head_is_sculpted_turns_and_is_taken_away_as_a_file(visit: Visit) -> None:
    page = visit.page
    choose(page, "Bob")
    page.locator(".segments label", has_text="Head in 3D").click()
    page.locator(".send .button").click()
    video = page.locator(".batch button.tile video")
    playwright.expect(video).to_have_count(1, timeout=WAIT_MS)
    playwright.expect(video).to_have_js_property("videoWidth", 128)
    page.locator(".tabs a", has_text="Gallery").click()
    page.locator(".segments label", has_text="Clips and heads").click()
    page.locator(".tiles .tile").click()
    with page.expect_download() as download:
        page.locator("dialog .button", has_text="GLTF").click()
    assert download.value.suggested_filename.startswith("Bob-") and download.value.path().read_bytes()[:4] == b"glTF"
    assert faults(page) == []


def test_a_server_with_keys_asks_for_one(browser: Any, app: FastAPI, store: Store) -> None:
    key, made = create_key(store, ["draw"])
    rooms = Rooms(lambda tenant: app)
    try:
        with served(Gate(app, KeyRing(store.root, ttl_s=0.0), rooms, keyless="refuse")) as address:
            page = browser.new_page()
            page.set_default_timeout(WAIT_MS)
            page.goto(address)
            for text in ("wrong", key):
                page.locator("#key-text").fill(text)
                assert faults(page) == []
                page.locator("dialog button", has_text="Use this key").click()
            faces = page.locator(".who[data-who] img")
            playwright.expect(faces).to_have_count(3)
            playwright.expect(faces.first).to_have_js_property("naturalWidth", 128)
            assert key not in page.content() and key not in page.url
            page.reload()
            playwright.expect(faces).to_have_count(3)  # kept until the tab is closed
            page.locator(".tabs a", has_text="Activity").click()
            playwright.expect(page.locator("body")).to_contain_text("this key lacks the scope admin")
            page.close()
    finally:
        revoke_key(store, made.key_id)


def test_somebody_is_erased(visit: Visit, store: Store) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    erase(page, "Cleo")
    playwright.expect(page.locator(".card.person:not(.add)")).to_have_count(2, timeout=WAIT_MS)
    assert {identity.name for identity in store.identities()} == {"Ada", "Bob"}


def erase(page: Any, name: str) -> None:
    page.locator(".card.person", has_text=name).click()
    page.locator("dialog .button.danger").click()
    assert page.evaluate("document.activeElement.textContent") == "Keep", "not by an Enter too many"
    page.locator("dialog .button.danger", has_text=f"Erase {name}").click()
    playwright.expect(page.locator("dialog")).to_have_count(0, timeout=WAIT_MS)
