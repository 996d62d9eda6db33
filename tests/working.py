"""What the tests of work share: a doer who waits to be let, and a book."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from factory.store.tables import Store
from serve.work import Kind, Work, WorkBook


class Doer:
    """Does work when it is let."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.go = asyncio.Event()
        self.error: Exception | None = None
        self.told: list[Callable[[float], None]] = []  # by which each tells how far it is

    async def do(self, work: Work, on_progress: Callable[[float], None]) -> str:
        self.begun.append(work.work_id)
        self.told.append(on_progress)
        on_progress(0.25)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled.append(work.work_id)
            raise
        if self.error is not None:
            raise self.error
        return f"result of {work.request}"


def book_of(store: Store, doer: Doer, **how: Any) -> WorkBook:
    kinds = {"video": Kind(do=doer.do, **how), "head": Kind(do=doer.do)}
    return WorkBook(store, kinds, lambda error: {"code": "broken", "message": str(error)}, beat_s=0.05)


async def until(true: Callable[[], bool] | Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while True:
            told = true()
            if await told if isinstance(told, Awaitable) else told:
                return
            await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]
