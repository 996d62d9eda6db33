"""People who are added on the page in a real browser: by file, camera, paste and drop; clips; with a key."""

from __future__ import annotations

import io
import re
import time
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

from factory.store.keys import KeyRing, create_key, revoke_key
from factory.store.tables import Store
from serve.access import Gate, Rooms
from tests import browsing
from tests.browsing import (
    WAIT_MS,
    Visit,
    draw,
    erase,
    faults,
    learn,
    playwright,
    png,
    shoot,
    upload,
    upload_several,
)
from tests.page_server import photo_of, served

browser, store, app, address, visit = (  # fixtures
    *(browsing.browser, browsing.store, browsing.app),
    *(browsing.address, browsing.visit),
)
_BYTES = "Uint8Array.from(atob(data), (one) => one.charCodeAt(0))"
pytestmark = [pytest.mark.page, pytest.mark.slow, pytest.mark.timeout(400)]  # what learns and moves must load


def test_a_photo_becomes_a_person_who_can_be_erased(visit: Visit, store: Store) -> None:
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
    playwright.expect(card).to_contain_text("A good photo to learn from")
    assert faults(page) == [] and store.count("faces") == 3, "nothing is kept before it is to be learned"
    learn(card, "Dana")
    playwright.expect(card.locator(".pill")).to_have_text("learned", timeout=WAIT_MS)
    playwright.expect(people).to_have_count(4)
    page.keyboard.press("Escape")
    wait_for(page, lambda: store.count("quality") == 3)  # by themselves
    page.locator(".tabs a", has_text="Draw").click()
    page.locator(".tabs a", has_text="People").click()
    playwright.expect(page.locator(".card.person", has_text="Dana").locator(".pill")).to_have_text(re.compile("[a-z]"))
    erase(page, "Dana")
    playwright.expect(people).to_have_count(3, timeout=WAIT_MS)
    visit.refusals = 1


def wait_for(page: Any, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_MS / 1000
    while not true():
        assert time.monotonic() < deadline
        page.wait_for_timeout(200)


def test_a_poor_photo_is_told_before_it_is_learned_and_the_learning_can_be_stopped(visit: Visit, store: Store) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    blurred = cv2.GaussianBlur(np.asarray(Image.open(io.BytesIO(photo_of(114)))), (0, 0), 2.3)
    card = upload(page, "Fay", png(blurred))
    playwright.expect(card.locator(".advice.poor")).to_contain_text("blurred", timeout=WAIT_MS)
    assert faults(page) == []
    shoot(page, "photo")
    work = store.count("work")
    learn(card, "Fay")
    card.get_by_role("button", name="Stop").dispatch_event("click")  # `click` waits until nothing around it moves
    playwright.expect(card.locator("[role=alert]")).to_contain_text("nothing of this photo is kept", timeout=WAIT_MS)
    assert store.count("faces") == 3 and store.count("work") == work + 1
    assert faults(page) == []


def test_where_a_consent_is_required_the_page_asks_for_one(visit: Visit, store: Store) -> None:
    page, settings = visit.page, Path(store.root) / "settings.toml"
    settings.write_text("require_consent = true\n")
    try:
        page.locator(".tabs a", has_text="People").click()
        page.locator(".card.person.add").click()
        card = upload(page, "Gil", photo_of(115))
        card.get_by_label("Where it is written down that they agreed").fill("form 7")
        assert faults(page) == []
        card.get_by_role("button", name="Go on").click()
        playwright.expect(card).to_contain_text("A good photo to learn from", timeout=WAIT_MS)
    finally:
        settings.unlink()
    visit.refusals = 1


@pytest.mark.parametrize("width", [1280, 390])
def test_several_photos_of_one_person_are_learned_together(
    browser: Any, address: str, store: Store, width: int
) -> None:
    visit = Visit(browser, address, viewport={"width": width, "height": 860})
    page, faces = visit.page, store.count("faces")
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    blank, two = png(np.full((128, 128, 3), 90, np.uint8)), photo_of(118, 119)
    question = upload_several(page, *(photo_of(118, seed=width + number) for number in range(2)), two, blank)
    playwright.expect(question).to_contain_text("4 photos")
    assert faults(page) == []
    page.keyboard.press("Enter")  # the first answer has the focus: "One person"
    card, lines = page.locator("dialog .card.upload"), page.locator("dialog .shots li")
    button = card.get_by_role("button", name="Learn one person from 2 photos")
    playwright.expect(button).to_be_enabled(timeout=WAIT_MS)
    playwright.expect(lines).to_have_count(4)
    playwright.expect(lines.nth(2)).to_contain_text("Left out. 2 faces")
    playwright.expect(lines.nth(3)).to_contain_text("Left out. No face was found")
    assert faults(page) == [] and store.count("faces") == faces, "nothing is kept before it is to be learned"
    card.get_by_role("button", name="Take photo 3 away").click()
    playwright.expect(lines).to_have_count(3)
    with page.expect_file_chooser() as chooser:
        card.get_by_role("button", name="More photos of them").click()
    others = (photo_of(118, seed=width + 2), photo_of(124))  # the last one shows somebody else
    chooser.value.set_files([{"name": "c.png", "mimeType": "image/png", "buffer": data} for data in others])
    button = card.get_by_role("button", name="Learn one person from 4 photos")
    playwright.expect(button).to_be_enabled(timeout=WAIT_MS)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    card.get_by_label("Name").fill("Hal")
    if width == 1280:
        shoot(page, "photos")
    button.click()
    playwright.expect(lines.nth(4)).to_contain_text("Somebody else?", timeout=WAIT_MS)
    playwright.expect(lines).to_have_count(5)
    playwright.expect(card.get_by_role("button", name="It is one person all the same")).to_be_enabled()
    assert faults(page) == [] and store.count("faces") == faces, "nor where it does not fit"
    card.get_by_role("button", name="Leave it out").click()
    playwright.expect(card.locator(".pill")).to_have_text("learned", timeout=WAIT_MS)
    playwright.expect(card).to_contain_text("Hal, from 3 photos")
    hal = store.read("identities", columns=["more_faces"], where="name = 'Hal'").to_pylist()
    assert [len(row["more_faces"]) for row in hal] == [2] and store.count("faces") == faces + 3
    page.keyboard.press("Escape")
    erase(page, "Hal")
    visit.refusals = 2  # the blank one, and the one of somebody else
    visit.close()


def test_photos_of_several_people_are_learned_one_by_one(visit: Visit) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    question = upload_several(page, photo_of(120), photo_of(121))
    question.get_by_role("button", name="Each a person").click()
    cards = page.locator("dialog .card.upload")
    playwright.expect(cards).to_have_count(2)
    for number in range(2):
        playwright.expect(cards.nth(number)).to_contain_text("A good photo to learn from", timeout=WAIT_MS)
    assert faults(page) == []
    upload_several(page, photo_of(120), photo_of(121)).get_by_role("button", name="Not these").click()
    playwright.expect(page.locator("dialog .card.whose")).to_have_count(0)


def learned(page: Any, name: str, how: str = "learned") -> None:
    """Gives the first card a name, has the face learned, and waits for that."""
    card = page.locator("dialog .card.upload").first
    field = card.locator("input")
    if not field.input_value():
        card.get_by_role("button", name="Learn this face").click()
        playwright.expect(card.locator("input:invalid")).to_have_count(1)  # a photo without a name is asked for one
    field.fill(name)
    card.get_by_role("button", name="Learn this face").click()
    playwright.expect(card.locator(".pill")).to_have_text(how, timeout=WAIT_MS)


def test_the_camera_takes_a_photo_that_is_learned(browser: Any, address: str) -> None:
    visit = Visit(browser, address, permissions=["camera"])
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    page.get_by_role("button", name="Use the camera").click()
    camera = page.locator("dialog[aria-label=Camera]")
    playwright.expect(camera.get_by_role("button", name="Take the photo")).to_be_enabled()
    assert faults(page) == []
    shoot(page, "camera")
    camera.get_by_role("button", name="Take the photo").click()
    playwright.expect(camera).to_have_count(0)
    learned(page, "Eve")
    page.keyboard.press("Escape")
    playwright.expect(page.locator(".card.person", has_text="Eve")).to_have_count(1)
    erase(page, "Eve")
    visit.close()


def test_without_a_camera_it_is_said_why(browser: Any, address: str) -> None:
    visit = Visit(browser, address)  # nobody allowed it
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    page.get_by_role("button", name="Use the camera").click()
    playwright.expect(page.locator("dialog [role=alert]")).to_contain_text("The camera cannot be used")
    playwright.expect(page.get_by_role("button", name="Take the photo")).to_be_disabled()
    assert faults(page) == []
    visit.close()


def test_photos_are_pasted_and_dropped(browser: Any, address: str) -> None:
    visit = Visit(browser, address, permissions=["clipboard-read", "clipboard-write"])
    page = visit.page
    again = b64encode(photo_of(107)).decode()
    page.evaluate(
        f"async (data) => {{ const photo = new Blob([{_BYTES}], {{type: 'image/png'}});"
        " await navigator.clipboard.write([new ClipboardItem({'image/png': photo})]); }",
        b64encode(photo_of(109)).decode(),
    )
    page.keyboard.press("Control+V")
    playwright.expect(page.locator("dialog .card.upload")).to_have_count(1)
    learned(page, "Pasted")
    files = page.evaluate_handle(
        "(data) => { const all = new DataTransfer();"
        f" all.items.add(new File([{_BYTES}], 'rob_again.png', {{type: 'image/png'}}));"
        " all.items.add(new File(['text'], 'notes.txt', {type: 'text/plain'})); return all; }",
        again,
    )
    drop = page.locator("dialog .drop")
    drop.dispatch_event("dragover", {"dataTransfer": files})
    playwright.expect(drop).to_have_class("drop over")
    drop.dispatch_event("drop", {"dataTransfer": files})
    playwright.expect(page.locator("dialog .card.upload")).to_have_count(2)  # the text is none
    playwright.expect(page.locator("dialog .card.upload input").first).to_have_value("rob again", timeout=WAIT_MS)
    learned(page, "Robert")
    drop.dispatch_event("drop", {"dataTransfer": files})
    learned(page, "Rob", "known already")
    playwright.expect(page.locator("dialog .card.upload").first).to_contain_text("Robert")
    page.keyboard.press("Escape")
    text = page.evaluate_handle("() => { const all = new DataTransfer(); all.setData('text/plain', 'x'); return all; }")
    page.evaluate("addEventListener('drop', (event) => { window.taken = event.defaultPrevented; })")
    page.locator("#main").dispatch_event("drop", {"dataTransfer": text})
    assert page.evaluate("window.taken") is False, "a text may be dropped into a field"
    page.locator(".tabs a", has_text="People").click()
    erase(page, "Pasted")
    erase(page, "Robert")
    visit.close()


def test_with_a_key_a_person_is_added_drawn_and_erased(browser: Any, app: FastAPI, store: Store) -> None:
    key, made = create_key(store, ["draw", "learn", "erase"])
    try:
        gate = Gate(app, KeyRing(store.root, ttl_s=0.0), Rooms(lambda tenant: app), keyless="refuse")
        with served(gate) as address:
            page = browser.new_page()
            page.set_default_timeout(WAIT_MS)
            page.goto(address)
            page.locator("#key-text").fill(key)
            page.locator("dialog button", has_text="Use this key").click()
            page.locator(".tabs a", has_text="People").click()
            page.locator(".card.person.add").click()
            card = upload(page, "Dora", photo_of(111))
            learn(card, "Dora")
            playwright.expect(card.locator(".pill")).to_have_text("learned", timeout=WAIT_MS)
            playwright.expect(card.locator(".photo img").first).to_have_js_property("naturalWidth", 128)
            card.get_by_role("button", name="Draw Dora").click()
            batch = draw(page, 1)
            batch.locator("button.tile").click()
            with page.expect_download() as download:
                page.locator("dialog .button", has_text="Download").click()
            assert download.value.path().read_bytes().startswith(b"\x89PNG")
            page.keyboard.press("Escape")
            assert key not in page.content()
            page.locator(".tabs a", has_text="People").click()
            erase(page, "Dora")
            page.close()
    finally:
        revoke_key(store, made.key_id)
