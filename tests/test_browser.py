"""The page in a real browser: a newcomer's path, what it asks of whom, and whether everybody can use it.

Runs where playwright and a Chromium are installed; `make test-page` installs them.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from fastapi import FastAPI

from factory.store.keys import KeyRing, create_key, revoke_key
from factory.store.tables import Store
from serve.access import Gate, Rooms
from tests import browsing
from tests.browsing import WAIT_MS, Visit, choose, draw, erase, faults, playwright, shoot
from tests.page_server import served

browser, store, app, address, visit = (  # fixtures
    *(browsing.browser, browsing.store, browsing.app),
    *(browsing.address, browsing.visit),
)
pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]


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


@pytest.mark.slow
def test_the_best_of_two_is_kept_with_its_likeness(visit: Visit) -> None:
    page = visit.page
    choose(page, "Ada", "Bob")
    playwright.expect(page.get_by_role("radiogroup", name="Best of")).to_be_hidden()  # two people are not compared
    choose(page, "Bob")
    page.locator(".segments label", has=page.locator("input[name=best-of][value='2']")).click()
    assert faults(page) == []
    draw(page, 2).locator("button.tile").first.click()
    dialog = page.locator("dialog")
    playwright.expect(dialog).to_contain_text("Text match")
    assert re.search(r"Likeness\s+-?[01]\.\d\d", dialog.inner_text()) and faults(page) == []
    shoot(page, "best")


@pytest.mark.slow
def test_a_clip_is_drawn_seen_and_taken_away(visit: Visit) -> None:
    page = visit.page
    choose(page, "Ada")
    playwright.expect(page.get_by_role("radiogroup", name="Pose")).to_be_visible()
    page.locator(".segments label", has_text="Clip").click()
    for part in ("Pose", "Shape", "Number of pictures"):  # a clip has none
        playwright.expect(page.get_by_role("radiogroup", name=part)).to_be_hidden()
    page.locator("#prompt").fill("a photo of <person> turning the head")
    page.locator(".send .button").click()
    video = page.locator(".batch button.tile video")
    playwright.expect(video).to_have_count(1, timeout=WAIT_MS)
    playwright.expect(video).to_have_js_property("videoWidth", 128)
    assert faults(page) == []
    shoot(page, "clip")
    page.locator(".batch button.tile").click()
    assert faults(page) == []
    with page.expect_download() as download:
        page.locator("dialog .button", has_text="Download").click()
    assert download.value.suggested_filename.endswith(".mp4") and b"ftyp" in download.value.path().read_bytes()[:16]
    page.keyboard.press("Escape")
    page.locator(".tabs a", has_text="Gallery").click()
    page.locator(".segments label", has_text="Clips and heads").click()
    kept = page.locator(".tiles .tile[aria-label*='turning the head'] video")  # beside the head of before
    playwright.expect(kept).to_have_count(1)
    playwright.expect(page.locator(".tiles .tile img")).to_have_count(0)


@pytest.mark.slow
def test_a_picture_is_taken_away_as_a_file(visit: Visit) -> None:
    page = visit.page
    choose(page, "Bob")
    draw(page, 1).locator("button.tile").click()
    with page.expect_download() as download:
        page.locator("dialog .button", has_text="Download").click()
    assert download.value.suggested_filename.startswith("Bob-")
    assert download.value.path().read_bytes().startswith(b"\x89PNG")


def test_somebody_is_erased(visit: Visit, store: Store) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    erase(page, "Cleo")
    playwright.expect(page.locator(".card.person:not(.add)")).to_have_count(2, timeout=WAIT_MS)
    assert {identity.name for identity in store.identities()} == {"Ada", "Bob"}
