"""How much a key may ask for, and that tenants take turns."""

import asyncio
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from factory.config import SculptConfig
from factory.pack import Pack
from factory.store.keys import Key, create_key
from factory.store.tables import Store
from serve.openai.errors import told
from serve.quotas import BeyondQuota, Counts, QuotaExceeded, Quotas, asking, counted_here, head_pictures
from serve.turns import Turns
from serve.work import Kind, Once, Work, WorkBook
from tests import serving
from tests.serving import FakeGenerator, ask, error_of, people_store
from tests.test_access import a_gate

store, fake = serving.store, serving.fake  # fixtures
KEY = Key(key_id="k", label="", tenant=None, scopes=["draw"], created_at=0.0, expires_at=None)


def test_tenants_take_turns() -> None:
    turns: Turns[str] = Turns()
    for number in range(3):
        turns.add(f"a{number}", "a")
    turns.add("b0", "b")
    assert len(turns) == 4 and set(turns) == {"a0", "a1", "a2", "b0"}
    assert [turns.take(), turns.take()] == ["a0", "b0"]
    turns.add("c0", "c")
    turns.add("b1", "b")
    assert [turns.take() for _ in range(4)] == ["a1", "c0", "b1", "a2"]
    with pytest.raises(IndexError):
        turns.take()


def test_pictures_a_minute() -> None:
    counts = Counts()
    assert [counts.spend("k", "picture", 3, num) for num in (2, 1)] == [0.0, 0.0]
    assert 1.0 <= counts.spend("k", "picture", 3, 1) <= 60.0
    assert counts.spend("other", "picture", 3, 1) == 0.0 and counts.spend("k", "identity", 3, 1) == 0.0


def test_what_costs_more_than_a_minutes_pictures_is_paid_off_afterwards() -> None:
    now = [0.0]
    counts = Counts(clock=lambda: now[0])
    assert counts.spend("k", "picture", 60, 240) == 0.0, "a head: four minutes of this key"
    assert counts.spend("k", "picture", 60, 1) == 240.0 and counts.spend("other", "picture", 60, 1) == 0.0
    now[0] = 200.0
    assert counts.spend("k", "picture", 60, 16) == 40.0
    assert counts.spend("k", "identity", 3, 4) > 0 and counts.spend("k", "identity", 3, 3) == 0.0, "no such thing here"


def test_what_a_head_costs() -> None:
    assert head_pictures(SculptConfig()) == 240
    assert head_pictures(SculptConfig(objective="ism", num_iterations=10)) == 30


def test_what_is_under_way_is_held_until_it_ends_or_lapses() -> None:
    now = [0.0]
    counts = Counts(clock=lambda: now[0])
    lease = counts.enter("k", 3, 2, lasts_s=10.0)
    assert lease is not None and counts.enter("k", 3, 2, lasts_s=10.0) is None
    counts.leave("k", lease)
    assert counts.enter("k", 3, 3, lasts_s=10.0) is not None
    now[0] = 10.0  # the server that held it was lost
    assert counts.enter("k", 3, 3, lasts_s=10.0) is not None


async def _use(quotas: Quotas, key: Key | None, num: int) -> None:
    asking.set(key)
    async with quotas.pictures(num):
        pass


def test_whom_limits_are_for() -> None:
    quotas = Quotas(counted_here(), lasts_s=10.0, tenants_share=4)
    limited = replace(KEY, pictures_per_minute=3)

    async def use() -> None:
        for key in (None, KEY, limited):
            await asyncio.create_task(_use(quotas, key, 3))
        with pytest.raises(QuotaExceeded, match="try again in"):
            await asyncio.create_task(_use(quotas, limited, 1))
        for key in (replace(KEY, max_waiting=2), replace(KEY, tenant="acme", key_id="t")):
            most = key.max_waiting or 4
            await asyncio.create_task(_use(quotas, key, most))
            with pytest.raises(BeyondQuota, match=f"{most + 1} pictures at once: this key may have {most} waiting"):
                await asyncio.create_task(_use(quotas, key, most + 1))
            asking.set(key)
            async with quotas.pictures(1):
                with pytest.raises(QuotaExceeded):
                    await asyncio.create_task(_use(quotas, key, most))
        asking.set(replace(KEY, identities_per_day=2))
        with pytest.raises(BeyondQuota, match="3 people at once: this key may learn 2 a day") as told:
            await quotas.identities(3)
        assert told.value.param == "all", "an upload has no n"
        await quotas.identities(2)
        with pytest.raises(QuotaExceeded):
            await quotas.identities()

    asyncio.run(use())


def test_keys_of_one_tenant_share_the_room() -> None:
    quotas = Quotas(counted_here(), lasts_s=10.0, tenants_share=4)

    async def use() -> None:
        asking.set(replace(KEY, tenant="acme", key_id="one"))
        async with quotas.pictures(3):
            with pytest.raises(QuotaExceeded):
                await asyncio.create_task(_use(quotas, replace(KEY, tenant="acme", key_id="two"), 2))
            await asyncio.create_task(_use(quotas, replace(KEY, tenant="other"), 4))

    asyncio.run(use())


def test_it_survives_a_replica() -> None:
    status, body, headers = told(pickle.loads(pickle.dumps(QuotaExceeded(30.0))))
    assert (status, body["error"]["code"], headers["retry-after"]) == (429, "rate_limit_exceeded", "30")


def test_a_key_with_limits_over_http(store: Store, fake: FakeGenerator, tiny_pack: Pack) -> None:
    text, _ = create_key(store, ["draw"], pictures_per_minute=3)
    free, _ = create_key(store, ["draw"])
    with TestClient(a_gate(store.root, tiny_pack, fake)) as http:
        http.headers["authorization"] = f"Bearer {text}"
        assert ask(http, n=2).status_code == 200
        refused = ask(http, n=2)
        assert refused.status_code == 429 and error_of(refused)["code"] == "rate_limit_exceeded"
        assert 0 < int(refused.headers["retry-after"]) <= 60 and len(fake.jobs) == 2
        assert ask(http, stream=True).status_code == 200 and ask(http, stream=True).status_code == 429
        http.headers["authorization"] = f"Bearer {free}"
        assert ask(http, n=10).status_code == 200


def test_work_that_is_answered_later_waits_as_one_and_is_paid_when_it_is_taken_in(store: Store) -> None:
    async def use() -> None:
        go, quotas = asyncio.Event(), Quotas(counted_here(), lasts_s=10.0)

        async def do(_work: Work, _on_progress: Callable[[float], None]) -> str:
            await go.wait()
            return "done"

        book, once = WorkBook(store, {"head": Kind(do=do)}, lambda error: {}, quotas=quotas), Once.of("a key", {})
        asking.set(replace(KEY, max_waiting=2, pictures_per_minute=100))
        first = await book.submit("head", {"n": 1}, ["ada"], once, pictures=40)
        assert (await book.submit("head", {"n": 1}, ["ada"], once, pictures=40)).work_id == first.work_id
        second = await book.submit("head", {"n": 2}, ["ada"], pictures=40)
        with pytest.raises(QuotaExceeded):  # two wait
            await book.submit("head", {"n": 3}, ["ada"], pictures=20)
        await book.cancel(second.work_id)
        await book.submit("head", {"n": 4}, ["ada"], pictures=20)
        go.set()
        while book._mine:
            await asyncio.sleep(0.01)
        with pytest.raises(QuotaExceeded):  # nobody waits, and 100 pictures are spent
            await book.submit("head", {"n": 5}, ["ada"], pictures=1)
        assert store.count("work") == 3 and not book._held
        asking.set(None)
        await book.submit("head", {"n": 6}, ["ada"], pictures=1000)

    asyncio.run(use())


def test_heads_and_clips_cost_pictures_over_http(tmp_path: Path, fake: FakeGenerator, tiny_pack_moving: Pack) -> None:
    store = people_store(tmp_path, tiny_pack_moving)
    text, _ = create_key(store, ["draw"], pictures_per_minute=100)
    short, _ = create_key(store, ["draw"], pictures_per_minute=5)
    with TestClient(a_gate(store.root, tiny_pack_moving, fake)) as http:
        http.headers["authorization"] = f"Bearer {short}"
        clip = {"model": "ada", "prompt": "<person> nodding", "num_frames": 4}
        assert http.post("/v1/videos", json=clip).status_code == 200 and ask(http).status_code == 200
        gif = {"output_format": "gif", "frame_count": 4}
        for refused in (http.post("/v1/videos", json=clip), ask(http), ask(http, **gif)):
            assert error_of(refused)["code"] == "rate_limit_exceeded"
        http.headers["authorization"] = f"Bearer {text}"
        head = {"model": "ada", "num_iterations": 200}
        made = http.post("/v1/heads", json=head, headers={"idempotency-key": "a"})
        assert made.status_code == 202, made.text
        again = http.post("/v1/heads", json=head, headers={"idempotency-key": "a"})
        assert again.json()["id"] == made.json()["id"], "paid once"
        for refused in (http.post("/v1/heads", json=head), ask(http)):
            assert error_of(refused)["code"] == "rate_limit_exceeded"
            assert 100 < int(refused.headers["retry-after"]) <= 120
