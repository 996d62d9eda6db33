"""What somebody with a key, or with a page in a browser, may try: to stop the server, to fill it, to look at others."""

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from factory.draw.compose import Pose
from factory.pack import Pack
from factory.prompts import people_in, texts_by_person
from factory.store.keys import KeyRing, create_key
from factory.store.tables import Store
from serve import reading
from serve.a1111.infotext import _settings, parse
from serve.a1111.prompts import with_people
from serve.access import _MOST_INSIDE, Rooms
from serve.openai import files, videos
from serve.reading import PoseReader
from tests import serving
from tests.batching import as_jsonl, server, task
from tests.serving import FakeGenerator, error_of
from tests.test_a1111_texts import THEIRS
from tests.test_access import a_gate, fill

store, fake = serving.store, serving.fake  # fixtures


def within(seconds: float, call: Callable[[], Any]) -> Any:
    began = time.perf_counter()
    answer = call()
    assert time.perf_counter() - began < seconds
    return answer


@pytest.mark.parametrize(
    "prompt",
    [
        *(begin + " " * 30_000 for begin in ("<", "<person", "<person:", "<person: a")),
        "<person>" + " " * 30_000 + "x <person:bob>",
        *("<person>" + part * (30_000 // len(part)) + "<person:bob>" for part in ("and ", "and", ", ", "together ")),
        "<person:" * 4_000,
        "".join(f"<person:{name}>" for name in range(2_500)),
    ],
)
def test_a_prompt_costs_no_more_than_its_length(prompt: str) -> None:
    within(2.0, lambda: (people_in(prompt), texts_by_person(prompt)))


def test_what_joins_people_is_left_out() -> None:
    joined = "<person> in red, and  together with & <person: bob > in sand next to\t<PERSON:eve>at last"
    expected = {None: "<person> in redat last", "bob": "<person> in sandat last", "eve": "<person>at last"}
    assert texts_by_person(joined) == expected
    assert people_in("<person:>, < Person : bob>") == ["", "bob"]


@pytest.mark.parametrize("part", ["a", "a b", ' a:"', 'a:"\\",', ",", "a-", " "])
def test_an_infotext_costs_no_more_than_its_length(part: str) -> None:
    within(2.0, lambda: parse(part * (150_000 // len(part))))


def test_settings_are_those_of_their_own_pattern() -> None:
    quoted = 'Steps: 20, Sampler: "a, b: \\"c\\"", Seed: 1'
    for line in (quoted, "Model: x:y, Size: 8x8, A b/c-d: ,Ef: g", "ab, cd, ef: gh", 'ab:"c, de:f"g, hi: j', ",,", ""):
        assert _settings(line) == THEIRS.findall(line)


def test_names_are_looked_for_among_so_many_words_of_a_prompt_in_all() -> None:
    asked: list[int] = []
    with_people("a <x> " * 5000, lambda texts: asked.append(len(texts)) or {})
    with_people(" ".join(f"w{n} <x>" for n in range(5000)), lambda texts: asked.append(len(texts)) or {})
    assert asked[1] == 300
    for word in ("'", ".", "'s", "x"):  # what ends a sentence is left out of a name
        within(2.0, lambda word=word: with_people(f"a{word * (30_000 // len(word))}b", lambda _texts: set()))


def test_a_form_of_a_clip_ends_where_it_is_too_long(
    store: Store, tiny_pack: Pack, fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(videos, "MAX_BODY", 2**16)
    text, _ = create_key(store, ["draw"])
    http = TestClient(a_gate(store.root, tiny_pack, fake), headers={"authorization": f"Bearer {text}"})
    form = {"prompt": (None, "<person>"), "model": (None, "ada")}
    answer = http.post("/v1/videos", files=form | {"input_reference": ("a.png", bytes(2**17))})
    assert answer.status_code == 413
    assert http.post("/v1/videos", files=form).status_code == 404, "a pack without clips, as far as it is read"


def test_poses_that_hang_hold_up_no_other_route(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, lock, go = [0], [0], threading.Lock(), threading.Event()

    def hang(_self: PoseReader, _work: Any) -> Pose:
        with lock:
            at_once[0] += 1
            most[0] = max(most[0], at_once[0])
        go.wait(10)
        with lock:
            at_once[0] -= 1
        return np.zeros((8, 8, 3), np.uint8)

    monkeypatch.setattr(PoseReader, "_read", hang)
    monkeypatch.setattr(reading, "LIMIT_S", 0.2)

    async def ask() -> list[Any]:
        reader = PoseReader("no pack")
        asked = [asyncio.create_task(reader.read("photo", b"", (8, 8))) for _ in range(40)]
        await asyncio.sleep(0.05)
        async with asyncio.timeout(5.0):
            assert await asyncio.to_thread(lambda: "of the same threads") and most == [1]
        asked[0].cancel()  # whoever goes away leaves its thread at work: nobody else's begins beside it
        await asyncio.sleep(0.4)
        assert most == [1] and not asked[0].done()
        go.set()
        return await asyncio.gather(*asked, return_exceptions=True)

    outcomes = asyncio.run(ask())
    assert {type(outcome) for outcome in outcomes} == {asyncio.CancelledError, TimeoutError}


def test_a_page_elsewhere_does_not_see_who_is_here(store: Store, tiny_pack: Pack) -> None:
    """By whether a picture from here is shown: its own script cannot read it, but hears that it is there."""

    friend = "https://front.example"
    gates = [a_gate(store.root, tiny_pack, keyless="loopback", cors=cors) for cors in ([], [friend])]
    own, friendly = (TestClient(gate, base_url="http://127.0.0.1:8000") for gate in gates)

    def status(http: TestClient, path: str = "/v1/identities/ada", **headers: str) -> int:
        return int(http.get(path, headers={name.replace("_", "-"): text for name, text in headers.items()}).status_code)

    for path in ("/v1/identities/ada", "/v1/identities/nobody", "/v1/identities/ada/thumbnail", "/v1/jobs"):
        for site in ("cross-site", "same-site"):
            assert status(own, path, sec_fetch_site=site, sec_fetch_mode="no-cors") == 403
    assert status(own, sec_fetch_site="same-origin", sec_fetch_mode="cors") == 200
    assert status(own) == 200, "no browser"
    assert status(own, sec_fetch_site="cross-site", sec_fetch_mode="navigate") == 200, "a link, which shows it here"
    asked = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"}
    assert status(friendly, **asked, referer=f"{friend}/people") == 200
    assert status(friendly, **asked, referer=f"{friend}.evil.example/") == 403


def test_input_files_fill_no_disk(
    store: Store, tiny_pack: Pack, fake: FakeGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(store, tiny_pack, fake) as http:
        kept: Any = {"files": {"file": ("a.jsonl", as_jsonl([task("one")]))}, "data": {"purpose": "batch"}}
        ids = [http.post("/v1/files", **kept).json()["id"] for _ in range(2)]
        for limit, most in (("_MOST_FILES", 2), ("_MOST_BYTES", 300)):
            with monkeypatch.context() as patch:
                patch.setattr(files, limit, most)
                refused = http.post("/v1/files", **kept)
                assert refused.status_code == 413 and "delete some" in error_of(refused)["message"]
        assert http.delete(f"/v1/files/{ids[0]}").status_code == http.post("/v1/files", **kept).status_code == 200


def test_a_tenant_takes_no_more_than_its_part_of_the_places(store: Store, tiny_pack: Pack, fake: FakeGenerator) -> None:
    key, other = (create_key(store, ["draw"], tenant=tenant)[0] for tenant in ("acme", "other"))
    gate = a_gate(store.root, tiny_pack, fake)
    with TestClient(gate, headers={"authorization": f"Bearer {key}"}) as http:
        gate._inside["acme"] = _MOST_INSIDE
        refused = http.get("/v1/models")
        assert refused.status_code == 429 and refused.headers["retry-after"] == "1"
        assert http.get("/v1/models", headers={"authorization": f"Bearer {other}"}).status_code == 200
        gate._inside["acme"] -= 1
        assert http.get("/v1/models").status_code == 200 and gate._inside["acme"] == _MOST_INSIDE - 1


def test_a_tenant_whose_root_is_slow_holds_up_nobody() -> None:
    from fastapi import FastAPI

    go = threading.Event()

    def make(tenant: str) -> FastAPI:
        if tenant == "slow":
            go.wait(10)
        if tenant == "broken":
            raise OSError("its bucket is gone")
        return FastAPI()

    async def ask() -> None:
        rooms = Rooms(make)
        quick = await rooms.app("quick")
        slow = asyncio.create_task(rooms.app("slow"))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(1.0):
            assert await rooms.app("quick") is quick
        go.set()
        await slow
        with pytest.raises(OSError, match="bucket"):
            await rooms.app("broken")
        await rooms.close()

    asyncio.run(ask())


def test_a_tenants_root_that_cannot_be_opened_is_told_as_any_error(
    store: Store, tiny_pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _ = create_key(store, ["draw"], tenant="acme")

    async def broken(_self: Rooms, _tenant: str) -> Any:
        raise OSError(f"{store.root} is gone")

    monkeypatch.setattr(Rooms, "app", broken)
    http = TestClient(a_gate(store.root, tiny_pack), headers={"authorization": f"Bearer {key}"})
    answer = http.get("/v1/models")
    assert answer.status_code == 500 and store.root not in answer.text and error_of(answer)["code"] == "internal_error"


def test_work_is_taken_back_by_whoever_could_have_asked_for_it(store: Store, tiny_pack: Pack) -> None:
    fill(store)
    row = store.read("work").to_pylist()[0]
    learn = row | {"work_id": f"identity_{'a' * 24}", "kind": "identity"}
    store.upsert("work", [learn])
    keys = {scope: create_key(store, [scope])[0] for scope in ("draw", "learn")}
    http = TestClient(a_gate(store.root, tiny_pack))

    def cancel(work_id: str, scope: str) -> int:
        headers = {"authorization": f"Bearer {keys[scope]}"}
        return int(http.post(f"/v1/work/{work_id}/cancel", headers=headers).status_code)

    assert [cancel(row["work_id"], scope) for scope in ("draw", "learn")] == [200, 403]
    assert [cancel(learn["work_id"], scope) for scope in ("draw", "learn")] == [403, 200]


def test_a_question_of_keys_reads_nothing_while_the_last_look_is_fresh(store: Store) -> None:
    now = [0.0]
    create_key(store, ["draw"])
    ring = KeyRing(store.root, clock=lambda: now[0])
    assert not ring.is_fresh() and len(ring.keys()) == 1 and ring.is_fresh()
    _, second = create_key(store, ["draw"])
    assert ring.of_id(second.key_id) is None
    now[0] = 1.0
    assert not ring.is_fresh() and ring.of_id(second.key_id) == second
