"""The book of work: what is asked for is done once, survives its server, and is taken back when nobody wants it."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest

from factory.store.keys import Key
from factory.store.queries import find_work
from factory.store.tables import Store
from serve.quotas import QuotaExceeded, Quotas, asking, counted_here
from serve.refusals import KeyReused, TooMuchWork, UnknownWork
from serve.work import Kind, Once, Work, WorkBook
from tests.working import Doer, book_of, run, until


def test_done_in_the_order_of_its_coming(store: Store) -> None:
    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer)
        first, second, other = [
            await book.submit(kind, {"n": n}, ["ada"]) for n, kind in enumerate(["video", "video", "head"])
        ]
        await until(lambda: doer.begun == [first.work_id, other.work_id])  # of one kind one at a time
        assert book.position(await book.find(second.work_id)) == 0
        assert (await book.find(first.work_id)).progress == 0.25
        assert (await book.find(first.work_id, "video")).status == "in_progress"
        with pytest.raises(UnknownWork):
            await book.find(first.work_id, "head")
        doer.go.set()

        async def all_done() -> bool:
            return all([(await book.find(one.work_id)).status == "completed" for one in (first, second, other)])

        await until(all_done)
        assert (await book.find(second.work_id)).result_id == 'result of {"n": 1}'
        listed = [work.work_id for work in await book.page(2)]
        assert listed == [other.work_id, second.work_id]  # the newest first
        assert [work.work_id for work in await book.page(5, listed[-1])] == [first.work_id]
        assert [work.work_id for work in await book.page(5, kind="head", newest_first=False)] == [other.work_id]

    run(test)


def test_an_error_is_kept_and_what_follows_is_done(store: Store) -> None:
    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer)
        doer.error = ValueError("no such light")
        doer.go.set()
        failed = await book.submit("video", {}, ["ada"])

        async def over() -> bool:
            return not (await book.find(failed.work_id)).under_way

        await until(over)
        work = await book.find(failed.work_id)
        assert (work.status, work.error) == ("failed", '{"code": "broken", "message": "no such light"}')

    run(test)


def test_the_same_key_is_the_same_work(store: Store) -> None:
    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer, max_waiting=2)
        once = Once.of("a key", {"n": 1})
        first = await book.submit("video", {"n": 1}, ["ada"], once)
        again = await book.submit("video", {"n": 1, "of today": True}, ["ada"], once)
        assert again.work_id == first.work_id, "what was asked for is the same, whatever would come of it now"
        with pytest.raises(KeyReused):
            await book.submit("video", {"n": 1}, ["ada"], Once.of("a key", {"n": 2}))
        await book.submit("video", {"n": 2}, ["ada"])
        with pytest.raises(TooMuchWork):
            await book.submit("video", {"n": 3}, ["ada"])
        assert store.count("work") == 2

    run(test)


def test_the_same_key_at_two_servers_at_once_is_the_same_work(store: Store) -> None:
    async def test() -> None:
        books = [book_of(store, Doer()) for _ in range(2)]
        made = await asyncio.gather(*(book.submit("video", {"n": 1}, ["ada"], Once.of("a key", {})) for book in books))
        assert made[0].work_id == made[1].work_id and store.count("work") == 1
        for book in books:
            await book.cancel(made[0].work_id)

    run(test)


def test_taken_back_while_it_waits_and_while_it_is_done(store: Store) -> None:
    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer)
        begun, waiting = [await book.submit("video", {"n": n}, ["ada"]) for n in range(2)]
        await until(lambda: doer.begun == [begun.work_id])
        for work in (waiting, begun):
            assert (await book.cancel(work.work_id)).status == "cancelled"
        assert doer.cancelled == doer.begun == [begun.work_id]
        assert (await book.cancel(begun.work_id)).status == "cancelled"  # again: nothing
        await book.remove(begun.work_id)
        with pytest.raises(UnknownWork):
            await book.find(begun.work_id)
        last = await book.submit("video", {"n": 3}, ["ada"])
        await until(lambda: doer.begun[-1] == last.work_id)  # its place is free

    run(test)


def test_a_server_that_stops_hands_over_and_one_that_dies_is_missed(store: Store) -> None:
    async def test() -> None:
        stopped, died, heir = Doer(), Doer(), Doer()
        book = book_of(store, stopped)
        keeping = asyncio.create_task(book.keep())
        handed = await book.submit("video", {"n": 1}, ["ada"])
        await until(lambda: stopped.begun == [handed.work_id])
        keeping.cancel()
        await asyncio.wait([keeping])
        assert stopped.cancelled == [handed.work_id]
        (row,) = find_work(store, "video", "work_id", handed.work_id)
        assert (row["status"], row["beat_at"]) == ("queued", 0.0)

        dead = book_of(store, died)  # nobody keeps it: its beat stops at once
        lost = await dead.submit("video", {"n": 2}, ["ada"])
        await until(lambda: died.begun == [lost.work_id])
        (row,) = find_work(store, "video", "work_id", lost.work_id)
        store.upsert("work", [{**row, "beat_at": time.time() - 60}])
        heir.go.set()
        next_book = book_of(store, heir)
        keeping = asyncio.create_task(next_book.keep())

        async def all_done() -> bool:
            return all([(await next_book.find(work.work_id)).status == "completed" for work in (handed, lost)])

        await until(all_done)
        assert heir.begun == [handed.work_id, lost.work_id]
        keeping.cancel()
        await asyncio.wait([keeping])

    run(test)


def test_work_that_is_taken_up_counts_for_whoever_asked(store: Store) -> None:
    """As pictures that wait, and as pictures a minute of the lines of a batch, which are asked for one by one."""
    own = Key(key_id="k", label="", tenant=None, scopes=["draw"], created_at=0.0, expires_at=None, max_waiting=1)
    served: list[Key | None] = []

    class Asks(Doer):
        async def do(self, work: Work, on_progress: Callable[[float], None]) -> str:
            served.append(asking.get())
            return await super().do(work, on_progress)

    async def test() -> None:
        died, heir, quotas = Doer(), Asks(), Quotas(counted_here(), lasts_s=10.0)
        dead = book_of(store, died)
        before = asking.set(own)
        lost = [await dead.submit("video", {"n": n}, ["ada"], pictures=1) for n in range(2)]
        asking.reset(before)
        nobodys = await dead.submit("head", {}, ["ada"])
        await until(lambda: len(died.begun) == 2)
        rows = [find_work(store, work.kind, "work_id", work.work_id)[0] for work in (*lost, nobodys)]
        assert [row["key_id"] for row in rows] == ["k", "k", None]
        store.upsert("work", [{**row, "beat_at": time.time() - 60} for row in rows])
        kinds = {"video": Kind(do=heir.do, counts=True), "head": Kind(do=heir.do)}
        how: Any = {"beat_s": 0.05, "quotas": quotas, "key_of": {"k": own}.get}
        keeping = asyncio.create_task(WorkBook(store, kinds, lambda error: {}, **how).keep())
        await until(lambda: len(heir.begun) == 2)  # one of each kind
        assert sorted(served, key=str) == [own, None] and asking.get() is None
        asking.set(own)
        with pytest.raises(QuotaExceeded):  # both wait, which is more than may: they were taken in before
            async with quotas.pictures(1):
                pass
        heir.go.set()
        await until(lambda: len(heir.begun) == 3 and not store.read("work", where="status = 'in_progress'").num_rows)
        await asyncio.sleep(0.05)
        async with quotas.pictures(1):
            pass
        keeping.cancel()
        await asyncio.wait([keeping])

    run(test)


def test_servers_have_room_for_so_much_work_together(store: Store) -> None:
    async def test() -> None:
        books = [book_of(store, Doer(), max_waiting=3) for _ in range(2)]
        for number in range(3):
            await books[number % 2].submit("video", {"n": number}, ["ada"])
        for book in books:
            with pytest.raises(TooMuchWork):
                await book.submit("video", {}, ["ada"])
            await book.submit("head", {}, ["ada"])
        for book in books:
            await book.put_down()

    run(test)


def test_what_another_server_cancels_or_somebody_erases_ends(store: Store) -> None:
    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer, at_once=2)
        keeping = asyncio.create_task(book.keep())
        cancelled, erased = [await book.submit("video", {"n": n}, ["ada"]) for n in range(2)]
        await until(lambda: len(doer.begun) == 2)
        other = book_of(store, Doer())
        assert (await other.cancel(cancelled.work_id)).status == "cancelled"
        store.purge("work", f"work_id = '{erased.work_id}'")
        await until(lambda: sorted(doer.cancelled) == sorted([cancelled.work_id, erased.work_id]))
        assert (await book.find(cancelled.work_id)).status == "cancelled"
        with pytest.raises(UnknownWork):
            await book.find(erased.work_id)
        keeping.cancel()
        await asyncio.wait([keeping])

    run(test)


def test_a_slow_beat_does_not_take_back_what_is_over(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write, beats = store.replace, []

    def slow(table: Any, rows: Any, where: str) -> Any:
        if rows[0]["status"] == "in_progress":
            beats.append(rows[0]["beat_at"])
            time.sleep(0.2)
        return write(table, rows, where)

    monkeypatch.setattr(store, "replace", slow)

    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer)
        keeping = asyncio.create_task(book.keep())
        work = await book.submit("video", {}, ["ada"])
        await until(lambda: len(beats) > 1)  # a beat is on its way to the table
        doer.go.set()
        await until(lambda: not book._mine)
        await asyncio.sleep(0.3)  # as long as that beat takes
        assert (await book.find(work.work_id)).status == "completed"
        keeping.cancel()
        await asyncio.wait([keeping])

    run(test)


def test_taken_back_before_its_first_step_nothing_is_kept_of_it(store: Store) -> None:
    async def test() -> None:
        book = book_of(store, Doer(), max_waiting=1)
        for _ in range(2):  # else the second one finds no room
            work = await book.submit("video", {}, ["ada"])
            assert (await book.cancel(work.work_id)).status == "cancelled"
            assert (await book.find(work.work_id)).status == "cancelled"

    run(test)


def test_what_comes_first_is_done_once_the_work_is_written_and_before_it_begins(store: Store) -> None:
    async def test() -> None:
        doer, undone, written, go = Doer(), list[str](), list[int](), asyncio.Event()
        doer.go.set()

        async def undo(work: Work) -> None:
            undone.append(work.work_id)

        async def first() -> None:
            written.append(store.count("work"))
            await go.wait()
            written.append(len(doer.begun))

        async def fails() -> None:
            raise ValueError("erased meanwhile")

        book = book_of(store, doer, undo=undo)
        submitting = asyncio.create_task(book.submit("video", {}, ["ada"], first=first))
        await until(lambda: written == [1])
        taking_back = asyncio.create_task(book.cancel(next(iter(book._mine))))
        await asyncio.sleep(0.05)
        assert not taking_back.done(), "what is being written is waited for, and then undone"
        go.set()
        assert (await taking_back).status == "cancelled" and written == [1, 0] and len(undone) == 1
        await submitting
        with pytest.raises(ValueError, match="erased meanwhile"):
            await book.submit("video", {}, ["ada"], first=fails)
        await until(lambda: not book._mine)
        assert doer.begun == [] and len(set(undone)) == 2
        done = await book.submit("video", {}, ["ada"], first=first)
        await until(lambda: not book._mine)
        assert doer.begun == [done.work_id] and len(undone) == 2
        statuses = sorted(store.read("work", columns=["status"])["status"].to_pylist())
        assert statuses == ["cancelled", "completed", "failed"]

    run(test)
