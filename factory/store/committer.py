"""Many writers, one commit: rows that come while a commit runs go into the next one.

Commits to one table exclude one another: of many writers that commit by themselves most fail and begin anew, the more
the more there are. So they hand their rows to a `Committer`, in their own process (`GroupedStore`) or in another one
(`HandingStore`), and are answered once these are there. It keeps nothing that is answered for: who gets no answer hands
over again, and ids make a repeated row the same row.

Rows travel, not files. Lance lets a worker write the files of an upsert and another commit them, but then does not see
that both of two such commits insert the same key (pylance 14: the list of inserted keys is lost on the way).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeAlias

import pyarrow as pa

from factory.store.schemas import Table
from factory.store.tables import Store

_MOST_BYTES: Final = 2**28  # of a commit; of the first rows in it more
_REST: Final = 0.5  # after a commit, of the time that it took
_LONGEST_REST_S: Final = 1.0
HandOver: TypeAlias = Callable[[Table, pa.Table, str | None], None]  # table, rows, `where` of `Store.replace`


class HandingStore(Store):
    """A store whose rows are committed by somebody else, wherever it is sent; all else it does by itself."""

    def __init__(self, root: str, hand_over: HandOver) -> None:
        """`hand_over` returns when the rows are committed, and raises what their commit raises."""
        super().__init__(root)
        self._hand_over = hand_over

    def _merge(self, table: Table, rows: pa.Table, where: str | None = None) -> None:
        if rows.num_rows:
            self._hand_over(table, rows, where)


class GroupedStore(HandingStore):
    """A store whose threads share commits."""

    def __init__(self, root: str, rest_s: float = 0.0) -> None:
        """`rest_s` as `Lane` takes it."""
        committer, loop = Committer(root, rest_s), asyncio.new_event_loop()
        threading.Thread(target=loop.run_forever, daemon=True).start()
        super().__init__(root, lambda *rows: asyncio.run_coroutine_threadsafe(committer.commit(*rows), loop).result())


class Committer:
    """Commits what is handed over by any number of writers, a lane a table."""

    def __init__(self, root: str, rest_s: float = 0.0) -> None:
        """`rest_s` as `Lane` takes it."""
        self._store, self._lanes, self._rest_s = Store(root), dict[str, Lane](), rest_s

    async def commit(self, table: Table, rows: pa.Table, where: str | None = None) -> None:
        """Returns when they are committed; `where` as `Store.replace` takes it."""
        if table not in self._lanes:
            self._lanes[table] = Lane(partial(self._store.commit_rows, table), self._rest_s)
        await self._lanes[table].put(rows, where)


class Lane:
    """Rows of one table that wait for the commit under way. It rests after each for half as long as that took, a second
    at most: so that more rows share the next one, and a table on a slow store does not get more versions than it
    bears."""

    def __init__(self, commit: Callable[[pa.Table, str | None], object], rest_s: float = 0.0) -> None:
        """It rests for `rest_s` seconds at least."""
        self._commit, self._rest_s = commit, rest_s
        self._waiting: dict[str | None, list[tuple[pa.Table, asyncio.Future[None]]]] = {}  # by their `where`
        self._work: asyncio.Task[None] | None = None

    async def put(self, rows: pa.Table, where: str | None = None) -> None:
        """Returns when the rows are committed; raises what their commit raised."""
        done = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(where, []).append((rows, done))
        if self._work is None:
            self._work = asyncio.create_task(self._run())
        await done

    async def _run(self) -> None:
        while self._waiting:
            where, alike = next(iter(self._waiting.items()))
            now = alike[: _fitting([rows.nbytes for rows, _ in alike])]
            del self._waiting[where]
            if rest := alike[len(now) :]:
                self._waiting[where] = rest  # behind the others
            started = time.monotonic()
            together = pa.concat_tables(rows for rows, _ in now)
            commit = asyncio.get_running_loop().run_in_executor(None, self._commit, together, where)
            await asyncio.wait([commit])
            for _, done in now:
                if done.cancelled():
                    continue
                if fault := commit.exception():
                    done.set_exception(fault)
                else:
                    done.set_result(None)
            took_s = time.monotonic() - started
            await asyncio.sleep(max(self._rest_s, min(_REST * took_s, _LONGEST_REST_S)))
        self._work = None


def _fitting(sizes: Sequence[int]) -> int:
    """How many of these go into one commit: at least the first."""
    total, num = 0, 0
    for size in sizes:
        total += size
        if num and total > _MOST_BYTES:
            break
        num += 1
    return num
