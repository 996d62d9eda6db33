"""Work that is answered before it is done: what was asked for, how far it is, what came of it.

It knows no kind of work: each is done by the function that it is given. Every change is a row of the table `work`, so a
restart loses nothing: what nobody tends any more (its beat has stopped) is taken up again by whichever server is there.
Two that take it up at one moment do the same thing twice, which is one row of its result, as ids are content-addressed.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict, replace
from typing import Any, Final

from factory.store.keys import Key
from factory.store.queries import find_work, num_unfinished, work_page, work_rows
from factory.store.tables import Store
from serve.pace import Pace
from serve.piece import UNDER_WAY, sweep, until_over
from serve.piece import Kind as Kind
from serve.piece import Once as Once
from serve.piece import OnProgress as OnProgress
from serve.piece import Work as Work
from serve.present import Present
from serve.quotas import Quotas, asking
from serve.refusals import KeyReused, TooMuchWork, UnknownWork

_UNDER_WAY_STILL: Final = f"target.status IN {UNDER_WAY}"  # as SQL writes it, too
_DEAD_AFTER: Final = 3  # beats that were missed


class WorkBook:
    """Does the work of one server, each kind so many pieces at once, oldest first. For one event loop."""

    def __init__(
        self,
        store: Store,
        kinds: Mapping[str, Kind],
        tell: Callable[[Exception], Mapping[str, Any]],
        *,
        beat_s: float = 5.0,
        quotas: Quotas | None = None,
        key_of: Callable[[str], Key | None] = lambda _: None,
    ) -> None:
        """`tell` makes an error what is kept of it: `code` and `message`. `quotas` are asked before a piece is taken
        in, and hold it until it is over here. `key_of` gives a key by its id: work that another server left counts for
        whoever asked for it."""
        self._store, self._kinds, self._tell, self._beat_s = store, kinds, tell, beat_s
        self._quotas, self._key_of, self._held = quotas, key_of, dict[str, AsyncExitStack]()
        self._mine: dict[str, Work] = {}  # under way here, oldest first
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._paces: dict[str, Pace] = {}
        self._present = Present(store)
        self._submitting = asyncio.Lock()
        self._writing = asyncio.Lock()  # rows are written one after the other, in the order of what they tell
        self.closed = False  # put down for good

    async def submit(
        self,
        kind: str,
        request: Mapping[str, Any],
        people: Sequence[str] = (),
        once: Once | None = None,
        *,
        pictures: int = 0,
        first: Callable[[], Coroutine[Any, Any, None]] | None = None,
    ) -> Work:
        """Takes work in, which costs as much as so many pictures; or gives the work that is there, as `again`. `first`
        is done as soon as the work is written; where it raises, the work fails, and this raises the same. Raises
        KeyReused, TooMuchWork, QuotaExceeded."""
        async with self._submitting:
            if (there := await self.again(kind, once)) is not None:
                return there
            await self.check_room(kind)
            now, asker = time.time(), asking.get()
            work = Work(
                work_id=f"{kind}_{secrets.token_hex(12) if once is None else once.key[:24]}",
                kind=kind,
                status="queued",
                request=json.dumps(request, sort_keys=True),
                identity_id=people[0] if people else "",
                people=list(people),
                idempotency_key=None if once is None else once.key,
                asked=None if once is None else once.asked,
                key_id=None if asker is None else asker.key_id,
                created_at=now,
                beat_at=now,
            )
            async with AsyncExitStack() as held:
                if pictures and self._quotas is not None:
                    await held.enter_async_context(self._quotas.piece(pictures))
                held.callback(self._mine.pop, work.work_id, None)
                self._mine[work.work_id] = work  # before it is written: however long that takes, it is tended here
                async with self._writing:
                    await self._finish(self._store.upsert, "work", [asdict(work)])
                self._held[work.work_id] = held.pop_all()
            before = None if first is None else asyncio.create_task(first())
            self._begin(work, before)
        if before is not None:
            await asyncio.shield(before)
        return work

    async def check_room(self, kind: str) -> None:
        """Raises TooMuchWork where no more of a kind may wait, at all servers together."""
        if await asyncio.to_thread(num_unfinished, self._store, kind) >= self._kinds[kind].max_waiting:
            raise TooMuchWork

    async def again(self, kind: str, once: Once | None) -> Work | None:
        """The work that this request began when it came before with this key: ask before anything is composed or paid,
        as who and what is there may have changed. None: it is new, or has no key. Raises KeyReused."""
        if once is None:
            return None
        for row in await asyncio.to_thread(find_work, self._store, kind, "idempotency_key", once.key):
            if row["asked"] not in (once.asked, None):  # None: of before there was the column
                raise KeyReused("this Idempotency-Key came before, with another request")
            return self._mine.get(row["work_id"], Work(**row))
        return None

    async def find(self, work_id: str, kind: str | None = None) -> Work:
        """A piece of work as it stands. Raises UnknownWork, also if it is of another kind, and at once where somebody
        in it was erased, however: the table is asked for what is under way here, too."""
        own_kind = work_id.rpartition("_")[0]
        if kind in (own_kind, None):
            there = await asyncio.to_thread(self._present.among, list(self._mine))
            if work_id in there and (mine := self._mine.get(work_id)) is not None:
                return mine
            if rows := await asyncio.to_thread(find_work, self._store, own_kind, "work_id", work_id):
                return self._mine.get(work_id, Work(**rows[0]))
        raise UnknownWork(f"there is no {kind or 'work'} {work_id[:100]!r}")

    async def pause(self, work_id: str, most_s: float) -> None:
        """Until a piece that is done here is over, and another server's is worth a look, or for so many seconds."""
        if (task := self._tasks.get(work_id)) is not None:
            await asyncio.wait([task], timeout=most_s)
        else:
            await asyncio.sleep(min(most_s, self._beat_s / 5))

    async def page(
        self, limit: int, after: str | None = None, *, kind: str | None = None, newest_first: bool = True
    ) -> list[Work]:
        """At most `limit` pieces in the order of their coming, from the one that follows `after` (UnknownWork) on."""
        last = None if after is None else await self.find(after, kind)
        place = None if last is None else (last.created_at, last.work_id)
        rows = await asyncio.to_thread(work_page, self._store, kind, limit, place, newest_first)
        return [self._mine.get(row["work_id"], Work(**row)) for row in rows]

    async def cancel(self, work_id: str, kind: str | None = None) -> Work:
        """Takes back what is under way; what is over stays as it is. Raises UnknownWork."""
        work = await self.find(work_id, kind)
        if not work.under_way:
            return work
        await self._end(work_id)
        work = await self.find(work_id, kind)  # it may have ended by itself meanwhile
        if work.under_way:
            work = replace(work, status="cancelled", finished_at=time.time())
            await self._write(work)
            if (kind_of := self._kinds.get(work.kind)) is not None and kind_of.undo is not None:
                await kind_of.undo(work)
        return work

    async def remove(self, work_id: str, kind: str | None = None) -> Work:
        """Forgets a piece of work, after taking it back if it is under way. Raises UnknownWork."""
        work = await self.cancel(work_id, kind)
        await asyncio.to_thread(self._store.purge, "work", f"work_id = '{work.work_id}'")
        return work

    def position(self, work: Work) -> int | None:
        """How many of its kind are to be begun before it here; None of what does not wait here."""
        waiting = [one.work_id for one in self._mine.values() if one.kind == work.kind and one.status == "queued"]
        return waiting.index(work.work_id) if work.work_id in waiting else None

    def seconds_left(self, work: Work) -> float | None:
        """Until it is done, by its own pace (of another server's work that since its start) or by the last one's; None
        where nothing is known yet."""
        if (pace := self._paces.get(work.work_id)) is not None:
            return pace.seconds_left()
        if work.status == "in_progress" and work.progress > 0 and work.started_at is not None:
            return (time.time() - work.started_at) * (1 / work.progress - 1)
        place, kind = self.position(work), self._kinds.get(work.kind)
        return None if place is None or kind is None or not kind.took_s else kind.took_s * (place // kind.at_once + 2)

    async def keep(self) -> None:
        """Beats, and takes up what nobody tends any more. Runs until it is cancelled, which puts everything down."""
        try:
            await sweep(self._kinds.values())
            while not self.closed:
                await self._take_up()
                await asyncio.sleep(self._beat_s)
                await self._beat()
        finally:
            await self.put_down()

    async def put_down(self) -> None:
        """Ends what is under way here, so that the next server takes it up at once. Nothing is begun any more."""
        self.closed = True
        for work in [*self._mine.values()]:
            await self._end(work.work_id)
            await self._write(replace(work, status="queued", progress=0.0, beat_at=0.0))

    async def _beat(self) -> None:
        """Tells that all here is tended, and how far it is; ends what somebody else cancelled or erased."""
        async with self._writing:
            tended = [replace(work, beat_at=time.time()) for work in self._mine.values()]
            await self._put(*tended)
        rows = await asyncio.to_thread(work_rows, self._store, [work.work_id for work in tended])
        under_way = {row["work_id"] for row in rows if row["status"] in UNDER_WAY}
        for work in tended:
            if work.work_id not in under_way and work.work_id in self._mine:  # else it has ended by itself meanwhile
                await self._end(work.work_id)

    async def _take_up(self) -> None:
        for kind in self._kinds:
            for status in UNDER_WAY:
                for row in await asyncio.to_thread(find_work, self._store, kind, "status", status):
                    dead = row["beat_at"] < time.time() - _DEAD_AFTER * self._beat_s
                    if dead and row["work_id"] not in self._mine and not self.closed:
                        work = replace(Work(**row), status="queued", progress=0.0, beat_at=time.time())
                        await self._write(work)
                        now = await asyncio.to_thread(find_work, self._store, kind, "work_id", work.work_id)
                        if now and now[0]["beat_at"] == work.beat_at:  # else it was over, or another server's
                            await self._begin_again(work)

    async def _begin_again(self, work: Work) -> None:
        """For whoever asked: the tasks that are begun here take `asking` over."""
        key = None if work.key_id is None else await asyncio.to_thread(self._key_of, work.key_id)
        before = asking.set(key)
        try:
            if self._quotas is not None and self._kinds[work.kind].counts:
                held = self._held[work.work_id] = AsyncExitStack()
                await held.enter_async_context(self._quotas.piece_again())
            self._begin(work)
        finally:
            asking.reset(before)

    def _begin(self, work: Work, before: asyncio.Task[None] | None = None) -> None:
        self._mine[work.work_id] = work
        self._tasks[work.work_id] = asyncio.create_task(self._run(work, before))

    async def _end(self, work_id: str) -> None:
        if (task := self._tasks.get(work_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
            await self._forget(work_id)  # also one that was cancelled before its first step

    async def _run(self, work: Work, before: asyncio.Task[None] | None) -> None:
        kind = self._kinds[work.kind]

        def on_progress(share: float) -> None:
            share = min(max(share, 0.0), 1.0)
            self._paces.setdefault(work.work_id, Pace()).tell(share)
            self._mine[work.work_id] = replace(self._mine[work.work_id], progress=share)

        try:
            if before is not None:
                await until_over(before)
            async with kind.room:
                began = time.time()
                started = self._mine[work.work_id] = replace(work, status="in_progress", started_at=began)
                await self._write(started)
                try:
                    if before is not None:
                        before.result()
                    result = await kind.do(started, on_progress)
                    over = replace(started, status="completed", progress=1.0, result_id=result)
                    kind.took_s = time.time() - began
                except Exception as error:  # noqa: BLE001 (whoever asks must hear of it)
                    over = replace(started, status="failed", error=json.dumps(self._tell(error)))
                async with self._writing:
                    await self._put(replace(over, finished_at=time.time(), beat_at=time.time()))
                    del self._mine[work.work_id]  # a beat that waits for its turn does not take it back
            if over.status == "failed" and kind.undo is not None:
                await kind.undo(over)
        finally:
            await self._forget(work.work_id)

    async def _forget(self, work_id: str) -> None:
        self._mine.pop(work_id, None)
        self._tasks.pop(work_id, None)
        self._paces.pop(work_id, None)
        if (held := self._held.pop(work_id, None)) is not None:
            await held.aclose()

    async def _write(self, work: Work) -> None:
        async with self._writing:
            await self._put(work)

    async def _put(self, *works: Work) -> None:
        """Writes what is known of pieces, unless they are over or forgotten: another server may have seen to that."""
        await self._finish(self._store.replace, "work", [asdict(work) for work in works], _UNDER_WAY_STILL)

    async def _finish(self, write: Callable[..., None], *arguments: Any) -> None:
        """Ends with the row written, also where whoever waits is cancelled: else a thread could write it later, over
        what came after it."""
        writing = asyncio.create_task(asyncio.to_thread(write, *arguments))
        await until_over(writing)
        writing.result()
