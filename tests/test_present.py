"""Who waits for work asks often, and costs little."""

import asyncio

import pytest

from factory.store.tables import Store
from serve.refusals import UnknownWork
from tests.working import Doer, book_of, run, until


def test_who_waits_costs_a_look_at_the_version_while_nothing_changes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, read = list[str](), Store.read
    monkeypatch.setattr(Store, "read", lambda own, table, **how: reads.append(table) or read(own, table, **how))

    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer, at_once=2)
        works = [await book.submit("video", {"n": n}, ["ada"]) for n in range(2)]
        await until(lambda: len(doer.begun) == 2)
        await asyncio.gather(*(book.find(work.work_id) for work in works))
        await asyncio.sleep(0.05)
        await book.find(works[0].work_id)
        reads.clear()
        for share in (0.5, 0.75):
            doer.told[1](share)
            assert (await book.find(works[1].work_id)).progress == share
        assert reads == []
        store.purge("work", f"work_id = '{works[1].work_id}'")
        with pytest.raises(UnknownWork):
            await book.find(works[1].work_id)
        await book.cancel(works[0].work_id)

    run(test)
