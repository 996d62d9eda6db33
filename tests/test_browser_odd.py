"""The page where things are odd: names, double clicks, a server that is gone, another tab, a proxy with a path.

Pictures are a fake's, so that it takes seconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from factory.pack import Pack
from factory.store.rows import identity_row
from factory.store.tables import Store
from serve.app import create_app
from serve.catalog import Catalog
from serve.client import ImageClient
from serve.openai.images import Endpoint
from serve.stopping import Door
from tests import browsing
from tests.browsing import playwright
from tests.page_server import served
from tests.serving import FakeGenerator, person

browser = browsing.browser  # fixture
pytestmark = [pytest.mark.page, pytest.mark.timeout(300)]
TAG, LONG, TURNED = '"><img src=x onerror=alert(1)>', "Wolfeschlegelsteinhausen" * 12, "anna\u202egnp.exe"
NAMES = [TAG, LONG, TURNED, "O'Brien", "a/b?c#d%20", "Zoë 🙂", "שרה"]
PATH = "/faces"
WAIT_MS = 20_000


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, tiny_pack: Pack) -> Store:
    store = Store(tmp_path_factory.mktemp("odd"))
    people = [person(number, name, tiny_pack.fingerprint()) for number, name in enumerate(NAMES, 1)]
    store.upsert("identities", [identity_row(one) for one in people])
    return store


@pytest.fixture(scope="module")
def address(store: Store, tiny_pack: Pack) -> Iterator[str]:
    """The page's, below a path that a proxy takes off."""
    fake = FakeGenerator()
    client = ImageClient(fake.submit, fake.submit_with_previews, fake.submit_clip, timeout_s=20.0)
    app = create_app(Endpoint(tiny_pack, Catalog(store.root), client, fake.stats), Door())
    with served(below(app)) as address:
        yield f"{address}{PATH}/"


def below(app: ASGIApp) -> ASGIApp:
    async def proxied(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not scope["path"].startswith(f"{PATH}/"):
            await PlainTextResponse("not here", status_code=404)(scope, receive, send)
        elif scope["type"] == "http":
            await app({**scope, "path": scope["path"].removeprefix(PATH)}, receive, send)
        else:
            await app(scope, receive, send)

    return proxied


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A tab; what it asks of another place than the path fails the test."""
    context = browser.new_context(viewport={"width": 390, "height": 800})
    page = context.new_page()
    page.set_default_timeout(WAIT_MS)
    asked, broken = list[str](), list[str]()
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: broken.append(str(error)))
    page.goto(address)
    playwright.expect(page.locator(".who[data-who]")).to_have_count(len(NAMES))
    yield page
    context.close()
    assert not [url for url in asked if not url.startswith((address, "data:", "blob:"))] and not broken


def test_odd_names_are_text_are_drawn_and_push_nothing_aside(page: Any) -> None:
    for name in NAMES:
        shown = name.replace("\u202e", "")
        who = page.locator(".who[data-who]").filter(has_text=shown).first
        who.click()
        send = page.locator(".send .button")
        playwright.expect(send).to_contain_text(f"Draw {shown}"[:100])
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        assert send.bounding_box()["width"] <= 390, name
        who.click()
    assert page.locator("main img[src='x']").count() == 0
    page.locator(".tabs a", has_text="People").click()
    page.locator(".card.person").filter(has_text=LONG).click()
    box = page.locator("dialog").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert page.locator("dialog").evaluate("(one) => one.scrollWidth <= one.clientWidth")


def test_a_double_click_draws_once_and_the_prompt_outlives_a_reload(page: Any) -> None:
    drawn: list[Any] = []
    page.on("request", lambda request: drawn.append(request) if request.url.endswith("generations") else None)
    page.locator(".who[data-who]").filter(has_text="Brien").click()
    page.locator("#prompt").fill("<person> in the rain")
    page.locator("input[name=count][value='1']").locator("..").click()
    page.locator(".send .button").dblclick()
    playwright.expect(page.locator(".batch button.tile img")).to_have_count(1)
    assert len(drawn) == 1 and "in the rain" in drawn[0].post_data
    page.reload()
    playwright.expect(page.locator("#prompt")).to_have_value("<person> in the rain")


def test_a_server_that_goes_away_is_told_and_can_be_asked_again(page: Any) -> None:
    page.locator(".who[data-who]").filter(has_text="Brien").click()
    send, notice = page.locator(".send .button"), page.locator(".batch .notice")
    page.route("**/generations", lambda route: route.fulfill(content_type="text/event-stream", body=""))
    send.click()
    playwright.expect(notice).to_have_count(1)
    playwright.expect(notice).to_contain_text("broke off")
    assert page.locator(".batch .making").count() == 0
    page.wait_for_timeout(700)  # more than a double click
    page.route("**/generations", lambda route: route.abort())
    send.click()
    gone = notice.filter(has_text="does not answer")
    playwright.expect(gone).to_have_count(1)
    playwright.expect(send).to_be_enabled()
    page.unroute("**/generations")
    gone.get_by_role("button", name="Try again").click()
    playwright.expect(page.locator(".batch button.tile img")).to_have_count(2)
    playwright.expect(page.locator(".batch [role=status]").first).to_have_text("2 pictures drawn")


def test_a_prompt_of_which_not_all_is_read_is_told_so(page: Any) -> None:
    page.locator(".who[data-who]").filter(has_text="Brien").click()
    page.locator("#prompt").fill("<person> " + "very " * 40 + "old")
    page.locator(".send .button").click()
    playwright.expect(page.locator(".batch .advice")).to_contain_text("the first 30 of its")


def test_what_a_prompt_asks_for_in_vain_is_told(page: Any) -> None:
    page.locator(".who[data-who]").filter(has_text="Brien").click()
    page.locator("#prompt").fill("<lora:film:0.8> <person> in the rain")
    page.locator(".send .button").click()
    playwright.expect(page.locator(".toast")).to_have_text("Left out, as nothing here follows it: prompt.lora")


def test_a_failure_of_the_server_is_told_with_its_number_in_the_log(page: Any) -> None:
    body = '{"error": {"message": "the server failed", "code": "internal_error"}}'
    number = {"x-request-id": "5f3a"}
    page.route("**/generations", lambda route: route.fulfill(status=500, headers=number, body=body))
    page.locator(".who[data-who]").filter(has_text="Brien").click()
    page.locator(".send .button").click()
    playwright.expect(page.locator(".batch .notice")).to_have_text("the server failed (5f3a) ")


def test_a_page_that_was_opened_too_early_shows_everybody_once_the_server_is_there(page: Any) -> None:
    page.clock.install()
    page.route("**/v1/**", lambda route: route.abort())
    page.reload()
    playwright.expect(page.locator("#state")).to_have_text("no answer")
    playwright.expect(page.locator(".empty")).to_contain_text("The people could not be listed")
    page.unroute("**/v1/**")
    page.clock.fast_forward(7000)
    playwright.expect(page.locator(".who[data-who]")).to_have_count(len(NAMES))


@pytest.mark.parametrize(("width", "height", "text_px"), [(320, 640, 15), (640, 360, 15), (390, 800, 30)])
def test_nothing_is_scrolled_sideways_and_the_button_is_in_reach(
    page: Any, width: int, height: int, text_px: int
) -> None:
    page.set_viewport_size({"width": width, "height": height})
    page.evaluate(f"document.documentElement.style.fontSize = '{text_px}px'")
    for view in ("People", "Gallery", "Activity", "Draw"):
        page.locator(".tabs a", has_text=view).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    page.locator(".who[data-who]").first.click()
    page.locator(".send .button").click(trial=True)  # nothing lies over it


def test_who_was_erased_in_another_tab_is_gone_from_this_one(page: Any, store: Store) -> None:
    page.locator(".who[data-who]").filter(has_text="Zoë").click()
    store.purge("identities", "name = 'Zoë 🙂'")  # as another tab does
    page.locator(".send .button").click()
    playwright.expect(page.locator(".batch .notice")).to_contain_text("no identity")
    playwright.expect(page.locator(".who[data-who]")).to_have_count(len(NAMES) - 1)
    row = identity_row(person(6, "Zoë 🙂", store.read("identities").to_pylist()[0]["fingerprint"]))
    store.upsert("identities", [row])
