"""The page by keyboard, by a slow hand, and heard: what has the focus stays, and what is wrong is said.

What the server would answer is given here, so that it takes seconds.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import pytest

from tests import browsing
from tests.browsing import Visit, choose, faults, playwright
from tests.page_server import photo_of

browser, store, app, address, visit = (  # fixtures
    *(browsing.browser, browsing.store, browsing.app),
    *(browsing.address, browsing.visit),
)
pytestmark = [pytest.mark.page, pytest.mark.timeout(300)]
# what a browser cannot show, as most cannot show HEIC
HEIC = {"name": "ida_and_jon.heic", "mimeType": "image/heic", "buffer": b"\0\0\0\x18ftypheic"}


def answers(body: dict[str, Any], status: int = 200) -> Callable[[Any], None]:
    return lambda route: route.fulfill(status=status, content_type="application/json", body=json.dumps(body))


def found(page: Any, num_faces: int) -> list[str]:
    """Answers that so many faces are on each photo, and gives the list of the forms that are sent."""
    sent = list[str]()
    face = {"box": [0, 0, 9, 9], "thumbnail": "R0lGODlhAQABAAAAACw=", "photo_quality": {"score": 0.9, "faults": []}}
    faces = [{"face": number, **face} for number in range(num_faces)]

    def answer(route: Any) -> None:
        sent.append(route.request.post_data_buffer.decode(errors="replace"))
        answers({"faces": faces})(route)

    page.route("**/v1/identities", answer)
    return sent


def test_who_skips_to_the_content_stays_in_the_view(visit: Visit) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.locator("h1")).to_have_text("People")
    assert page.evaluate("document.activeElement.id") == "main"


def test_a_seed_that_is_none_is_told_where_it_was_folded_away(visit: Visit) -> None:
    page = visit.page
    choose(page, "Ada")
    fine = page.locator(".composer details")
    fine.locator("summary").click()
    page.locator("#fine-seed").fill("-5")
    fine.locator("summary").click()
    page.locator(".send .button").click()
    playwright.expect(fine).to_have_js_property("open", True)
    playwright.expect(page.locator("#fine-seed")).to_be_focused()
    playwright.expect(page.locator(".batch")).to_have_count(0)


def test_the_button_of_work_that_goes_on_keeps_the_focus(visit: Visit) -> None:
    page = visit.page
    work = {"id": "w1", "kind": "video", "status": "in_progress", "created_at": 1, "seconds_left": 60, "name": "Ada"}
    asked = 0

    def list_work(route: Any) -> None:
        nonlocal asked
        asked += 1
        answers({"data": [{**work, "progress": asked}]})(route)

    page.route("**/v1/work?*", list_work)
    page.locator(".tabs a", has_text="Activity").click()
    cancel = page.get_by_role("button", name="Cancel")
    cancel.focus()
    bar = page.locator(".line .meter i")
    playwright.expect(bar).to_have_attribute("style", "width: 3%;")
    playwright.expect(cancel).to_be_focused()
    page.route("**/cancel", answers({"error": {"message": "this key may not"}}, 422))
    page.keyboard.press("Enter")
    playwright.expect(page.locator(".toast")).to_have_text("this key may not")
    visit.refusals = 1


def test_pictures_are_walked_through_wherever_the_focus_is(visit: Visit) -> None:
    page = visit.page
    tiny = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
    drawn = [
        {"id": str(n), "src": tiny, "prompt": f"number {n}", "people": [], "names": {}, "seed": n} for n in range(3)
    ]
    page.evaluate("(all) => sessionStorage.setItem('session', JSON.stringify(all))", drawn)
    page.reload()
    page.locator(".tabs a", has_text="Gallery").click()
    page.locator(".tiles .tile").first.click()
    dialog = page.locator("dialog")
    page.keyboard.press("ArrowRight")
    playwright.expect(dialog.locator(".prompt")).to_have_text("number 1")
    dialog.get_by_role("button", name="Next picture").click()
    playwright.expect(dialog.locator(".prompt")).to_have_text("number 2")
    dialog.locator(".prompt").click()  # no longer on anything
    page.keyboard.press("ArrowLeft")
    playwright.expect(dialog.locator(".prompt")).to_have_text("number 1")
    assert faults(page) == []
    page.keyboard.press("Escape")
    playwright.expect(dialog).to_have_count(0)


def test_a_photo_that_no_browser_shows_has_its_faces_shown_and_enter_learns_one(visit: Visit) -> None:
    page = visit.page
    sent = found(page, 2)
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    page.locator("dialog #photos").set_input_files(HEIC)
    card = page.locator("dialog .card.upload")
    playwright.expect(card.locator(".row .button img")).to_have_count(2)
    playwright.expect(card.locator(".box")).to_have_count(0)
    assert faults(page) == []
    card.get_by_role("button", name="Face 2").click()
    playwright.expect(card.locator("input")).to_have_value("ida and jon")
    card.locator("input").press("Enter")
    playwright.expect(card).to_contain_text("the learning was")  # what is answered here is no work
    assert len(sent) == 2 and 'name="face"\r\n\r\n1' in sent[1] and "dry_run" not in sent[1]


def test_what_is_too_large_or_no_photo_is_told_before_it_is_sent(visit: Visit) -> None:
    page = visit.page
    sent = found(page, 1)
    page.evaluate(
        """() => {
            const all = new DataTransfer();
            all.items.add(new File([new Uint8Array(64 * 2 ** 20)], "wall.tif", {type: "image/tiff"}));
            all.items.add(new File(["PK"], "photos.zip", {type: "application/zip"}));
            document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: all, bubbles: true, cancelable: true}));
        }"""
    )
    playwright.expect(page.locator("dialog [role=alert]")).to_contain_text("64 MB, and 63 are the most")
    toast = page.locator(".toast")
    playwright.expect(toast).to_contain_text("photos.zip: no photo")
    assert sent == [] and toast.evaluate("(one) => one.closest('dialog') !== null"), "it is not heard elsewhere"
    page.keyboard.press("Escape")
    playwright.expect(page.locator("dialog")).to_have_count(0)
    playwright.expect(page.locator("body > #toasts")).to_have_count(1)


def test_who_selects_a_text_and_lets_go_outside_keeps_the_dialog(visit: Visit) -> None:
    page = visit.page
    found(page, 1)
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person.add").click()
    photo = {"name": "Ida.png", "mimeType": "image/png", "buffer": photo_of(107)}
    page.locator("dialog #photos").set_input_files(photo)
    box = page.locator("dialog .card.upload input").bounding_box()
    page.mouse.move(box["x"] + 20, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(5, 400)
    page.mouse.up()
    playwright.expect(page.locator("dialog")).to_have_count(1)
    page.mouse.click(5, 400)
    playwright.expect(page.locator("dialog")).to_have_count(0)


def test_who_is_chosen_by_keyboard_stays_in_their_place(visit: Visit) -> None:
    page = visit.page
    face = b64decode("R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7")
    page.route("**/thumbnail", lambda route: route.fulfill(content_type="image/gif", body=face))
    page.route("**/v1/models?*", answers({"data": [somebody(number) for number in range(30)], "has_more": False}))
    page.reload()
    page.get_by_role("button", name="All 30").click()
    page.locator("dialog .who").nth(20).focus()
    asked = len(visit.asked)
    page.keyboard.press("Space")
    playwright.expect(page.locator("dialog .who[aria-pressed=true]")).to_have_text("person 20")
    playwright.expect(page.locator("dialog .who").nth(20)).to_be_focused()
    thumbnails = [url for url in visit.asked[asked:] if url.endswith("/thumbnail")]
    assert len(thumbnails) <= 1, "of who comes in front, no other"


def somebody(number: int) -> dict[str, Any]:
    """As GET /v1/models tells of them; nobody has their photo."""
    return {"id": str(number), "identity_id": f"{number:016x}", "name": f"person {number}", "created": 1, "pack": "x"}


def test_faces_are_asked_for_once_while_a_name_is_typed(visit: Visit) -> None:
    page = visit.page
    page.locator(".tabs a", has_text="People").click()
    cards = page.locator(".card.person:not(.add)")
    first = cards.first.locator("img")
    playwright.expect(first).to_have_js_property("complete", True)
    page.evaluate("document.querySelector('.card.person:not(.add)').known = true")
    name = cards.first.locator("b").inner_text()
    page.locator("input[type=search]").fill(name)
    playwright.expect(cards).to_have_count(1)
    assert page.evaluate("document.querySelector('.card.person:not(.add)').known === true")


def test_a_key_is_asked_for_once_and_it_is_said_what_was_wrong_with_it(browser: Any, address: str) -> None:
    page = browser.new_page()
    page.clock.install()
    page.route("**/v1/**", answers({"error": {"message": "there is no such key", "code": "invalid_api_key"}}, 401))
    page.goto(address)
    dialog = page.locator("dialog")
    playwright.expect(dialog).to_contain_text("there is no such key")
    page.locator("#key-text").fill("idf_b\u00fc")
    page.keyboard.press("Enter")
    playwright.expect(dialog).to_contain_text("only letters, digits")
    assert faults(page) == []
    page.locator("#key-text").fill("Bearer idf_a_b\u200b")
    with page.expect_request(lambda request: request.headers.get("authorization") == "Bearer idf_a_b"):
        page.keyboard.press("Enter")
    playwright.expect(dialog).to_contain_text("there is no such key")
    page.keyboard.press("Escape")
    playwright.expect(dialog).to_have_count(0)
    with page.expect_response("**/v1/stats"):
        page.clock.fast_forward(7000)
    playwright.expect(page.locator("#state")).to_have_text("needs a key")
    page.wait_for_timeout(100)
    playwright.expect(dialog).to_have_count(0)
    page.close()
