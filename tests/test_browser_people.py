"""What is learned and kept already, on the page in a real browser: more photos of somebody, pictures of jobs."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest

from factory.store.rows import encode_png
from factory.store.tables import Store
from tests import browsing
from tests.browsing import WAIT_MS, Visit, faults, playwright
from tests.page_server import photo_of

browser, store, app, address, visit = (  # fixtures
    *(browsing.browser, browsing.store, browsing.app),
    *(browsing.address, browsing.visit),
)
pytestmark = [pytest.mark.page, pytest.mark.timeout(400)]
FAR = 2**60 + 1  # no number of JavaScript's is this one


@pytest.mark.slow  # what learns must load
def test_more_photos_of_somebody_are_learned_with_those_that_are_there(visit: Visit, store: Store) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person", has_text="Ada").click()
    page.locator("dialog .button", has_text="More photos").click()
    playwright.expect(page.locator("dialog h2")).to_have_text("More photos of Ada")
    give = page.locator("dialog #photos").set_input_files
    give([{"name": f"{seed}.png", "mimeType": "image/png", "buffer": photo_of(who, seed=seed)} for who, seed in SENT])
    card = page.locator("dialog .card.upload")
    button = card.get_by_role("button", name="Add 2 photos to Ada")
    playwright.expect(button).to_be_enabled(timeout=WAIT_MS)
    assert faults(page) == [] and card.locator("input.input").count() == 0, "they have a name"
    button.click()
    playwright.expect(card.locator("li").nth(1)).to_contain_text("Somebody else?", timeout=WAIT_MS)
    card.get_by_role("button", name="Leave it out").click()
    playwright.expect(card.locator(".pill")).to_have_text("learned", timeout=WAIT_MS)
    playwright.expect(card).to_contain_text("Ada, from 1 more photo")
    rows = store.read("identities", columns=["more_faces"], where="name = 'Ada'").to_pylist()
    assert sorted(len(row["more_faces"] or ()) for row in rows) == [0, 1]
    visit.refusals = 1  # of somebody else


SENT = ((100, 9), (124, 10))  # another photo of Ada, and one of somebody else


def test_a_seed_of_the_command_line_keeps_all_its_digits(visit: Visit, store: Store) -> None:
    row: dict[str, Any] = {"image_id": "ab" * 8, "identity_id": f"{100:016x}", "name": "Ada", "seed": FAR, "pose": ""}
    row |= {"prompt": "<person> far away", "config": "{}", "created_at": "2026-01-01"}
    store.upsert("images", [row | {"image": encode_png(np.zeros((8, 8, 3), np.uint8))}])
    page = visit.page
    page.locator(".tabs a", has_text="Gallery").click()
    tile = page.locator(".tiles .tile", has_text="far away")
    playwright.expect(tile).to_contain_text(f"seed {FAR}")
    tile.click()
    dialog = page.locator("dialog")
    playwright.expect(dialog).to_contain_text(str(FAR))
    playwright.expect(dialog).to_contain_text("Only identity-factory generate draws this seed again")
    playwright.expect(dialog.get_by_role("button", name="Draw again")).to_have_count(0)
    assert faults(page) == []


def test_a_list_that_comes_late_is_not_shown_in_the_place_of_another(visit: Visit) -> None:
    page, held = visit.page, []
    page.route("**/v1/images?*", lambda route: held.append(route))
    page.locator(".tabs a", has_text="Gallery").click()  # asks for what is on the server
    page.locator(".segments label", has_text="This session").click()
    playwright.expect(page.locator(".empty h2")).to_have_text("Nothing drawn in this tab yet")
    with page.expect_response("**/v1/images?*"):
        held[0].continue_()
    page.wait_for_timeout(300)
    playwright.expect(page.locator(".empty h2")).to_have_text("Nothing drawn in this tab yet")
    playwright.expect(page.locator(".tiles .tile")).to_have_count(0)
    page.unroute("**/v1/images?*")


def test_an_address_that_is_dropped_leads_nowhere(visit: Visit) -> None:
    page = visit.page
    playwright.expect(page.locator(".who[data-who]").first).to_be_visible()
    taken = page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.setData("text/uri-list", "https://elsewhere.example/a.jpg");
            const event = (kind) => new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true});
            const prompt = document.getElementById("prompt");
            return [[document.body, "dragover"], [document.body, "drop"], [prompt, "drop"]].map(
                ([at, kind]) => !at.dispatchEvent(event(kind)));
        }"""
    )
    assert taken == [True, True, False], "a text may be dropped into a field"
    playwright.expect(page.locator(".toast")).to_contain_text("a picture's address, not the picture")


def test_a_proxy_that_answers_in_the_servers_place_is_told_in_words(visit: Visit) -> None:
    page = visit.page
    page.route("**/v1/models?*", lambda route: route.fulfill(status=200, content_type="text/html", body="<h1>Hi</h1>"))
    page.locator(".tabs a", has_text="People").click()
    playwright.expect(page.locator("[role=alert]")).to_contain_text("sign in if you are asked to")
    page.unroute("**/v1/models?*")


def test_a_phone_does_not_zoom_in_on_fields(browser: Any, address: str) -> None:
    visit = Visit(browser, address, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    playwright.expect(visit.page.locator(".who[data-who]").first).to_be_visible()
    fields = "[...document.querySelectorAll('input:not([type=radio]), textarea, select')]"
    sizes = visit.page.evaluate(f"{fields}.map((one) => getComputedStyle(one).fontSize)")
    assert sizes and {float(size.removesuffix("px")) for size in sizes} == {16.0}
    visit.close()


MANY = 601


def test_a_list_of_many_people_goes_on_to_the_last_of_them(visit: Visit) -> None:
    page = visit.page
    many = [
        {"id": f"p{number:03}", "identity_id": f"{number:016x}", "name": f"p{number:03}", "created": 1, "pack": "x"}
        for number in range(MANY)
    ]
    page.route(
        "**/thumbnail",
        lambda route: route.fulfill(content_type="image/svg+xml", body="<svg xmlns='http://www.w3.org/2000/svg'/>"),
    )
    page.route("**/v1/models?*", lambda route: route.fulfill(json={"data": many, "has_more": False}))
    page.reload()
    page.get_by_role("button", name=f"All {MANY}").click()
    in_dialog, more = page.locator("dialog .who"), page.get_by_role("button", name="Show more")
    playwright.expect(more).to_contain_text(re.compile(r"\d+ are left"))
    assert in_dialog.count() < MANY, "not all at once"
    while in_dialog.count() < MANY:
        before = in_dialog.count()
        page.locator("dialog").evaluate("dialog => dialog.scrollTo(0, dialog.scrollHeight)")
        playwright.expect(in_dialog).not_to_have_count(before)
    playwright.expect(more).to_be_hidden()
    in_dialog.last.click()
    playwright.expect(page.locator("dialog .who[aria-pressed=true]")).to_have_text(f"p{MANY - 1}")
    page.locator("dialog .button", has_text="Done").click()

    page.locator(".tabs a", has_text="People").click()
    cards = page.locator(".card.person:not(.add)")
    playwright.expect(cards.first).to_be_visible()
    assert cards.count() < MANY
    while cards.count() < MANY:
        before = cards.count()
        page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
        playwright.expect(cards).not_to_have_count(before)
    playwright.expect(cards.last).to_contain_text(f"p{MANY - 1}")
    assert faults(page) == []


def test_clips_and_work_beyond_the_first_answer_are_shown_when_asked_for(visit: Visit) -> None:
    page = visit.page

    def clip(number: int) -> dict[str, Any]:
        done = {"kind": "video", "status": "completed", "progress": 100, "created_at": 1000 - number, "model": "Ada"}
        return {"id": f"c{number}", **done, "prompt": f"clip {number}", "seed": number, "size": "64x64"}

    def answer(route: Any) -> None:
        asked = parse_qs(urlsplit(route.request.url).query)
        first = int(asked.get("after", ["c-1"])[0][1:]) + 1
        shown = range(first, min(first + int(asked["limit"][0]), 90))
        data = [clip(number) for number in shown]
        route.fulfill(json={"data": data, "last_id": data[-1]["id"], "has_more": shown.stop < 90})

    page.route("**/v1/videos?*", answer)
    page.route("**/v1/work?*", answer)
    page.route("**/v1/videos/*/content", lambda route: route.fulfill(body=b""))
    page.locator(".tabs a", has_text="Gallery").click()
    page.locator(".segments label", has_text="Clips and heads").click()
    tiles = page.locator(".tiles .tile", has_text="clip")
    playwright.expect(tiles).to_have_count(60)
    page.get_by_role("button", name="Show more").click()
    playwright.expect(tiles).to_have_count(90)
    playwright.expect(page.get_by_role("button", name="Show more")).to_have_count(0)
    page.locator(".tabs a", has_text="Activity").click()
    lines = page.locator(".lines .line", has_text="Clip")
    playwright.expect(lines).to_have_count(40)
    page.get_by_role("button", name="Show more").click()
    playwright.expect(lines).to_have_count(80)
    page.get_by_role("button", name="Show more").click()
    playwright.expect(lines).to_have_count(90)
