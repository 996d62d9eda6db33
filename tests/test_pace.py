"""How long work still takes, as it is told."""

import time
from dataclasses import replace

import pytest

from factory.store.tables import Store
from serve.pace import Pace
from serve.work import Work
from tests.working import Doer, book_of, run, until


def test_seconds_left_are_of_what_was_done_here(store: Store) -> None:
    now = [0.0]
    pace = Pace(clock=lambda: now[0])
    assert pace.seconds_left() is None
    now[0] = 30.0  # a network was loaded
    pace.tell(0.5)  # a checkpoint
    assert pace.seconds_left() is None
    now[0] = 40.0
    pace.tell(0.75)
    assert pace.seconds_left() == pytest.approx(10)
    pace.tell(0.5)  # what did it was lost, and its checkpoint was here
    now[0] = 60.0
    pace.tell(0.6)
    assert pace.seconds_left() == pytest.approx(80)

    async def test() -> None:
        doer = Doer()
        book = book_of(store, doer)
        work = await book.submit("video", {}, ["ada"])
        await until(lambda: doer.begun == [work.work_id])
        assert (await book.find(work.work_id)).progress == 0.25
        assert book.seconds_left(await book.find(work.work_id)) is None, "one share says nothing of the pace"
        doer.told[0](0.5)
        assert 0 < (book.seconds_left(await book.find(work.work_id)) or 0) < 20
        await book.cancel(work.work_id)
        assert not book._paces

    run(test)


def test_seconds_left_of_another_servers_work_are_of_its_own_pace(store: Store) -> None:
    book = book_of(store, Doer())
    now = time.time()
    work = Work(work_id="video_1", kind="video", status="in_progress", request="{}", identity_id="", people=[],
                created_at=now, started_at=now - 10, beat_at=now, progress=0.25)  # fmt: skip
    assert book.seconds_left(work) == pytest.approx(30, abs=1)
    assert book.seconds_left(replace(work, progress=0.0)) is None
