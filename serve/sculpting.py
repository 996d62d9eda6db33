"""The sculpting deployment: a replica holds a base model and makes one head at a time, from its checkpoint on.

Serve starts it with the first head that is asked for and ends it when none has been for a while, so that nobody who
only draws pays for it. It is nicer than the drawer: where both want the same core, the drawer has most of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Final

from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from factory.config import SculptConfig
from factory.pack import load_pack
from factory.store.queries import (
    checkpoint_of,
    drop_checkpoints,
    find_work,
    heads,
    identities_by_id,
    keep_checkpoint,
    sculpt_request,
)
from factory.store.rows import model_row
from factory.store.tables import Store
from serve.catalog import UnknownIdentity
from serve.drawing import until_done
from serve.scaling import while_asked_for
from serve.settings import HEALTH_CHECK_S, AppArgs

if TYPE_CHECKING:
    from factory.draw.sculpt import OnStep, Sculptor

CHECKPOINT_EVERY_S: Final = 15.0  # what a server that is killed loses at most
_HELD: Final = 8  # heads that a replica holds: one in the making, others next in line
_NICENESS: Final = 10  # added; Ray's workers are at 15 and 19 is the most: then the drawer has seven tenths of a core


class _TakenBack(Exception):
    """Nobody wants this head any more."""


class HeadMaker:
    """A replica: one model pack, one head in the making, whichever root it is for."""

    def __init__(self, pack: str, *, device: str, num_threads: int, niceness: int = 0) -> None:
        """Returns before the base model is there: it loads in the thread that sculpts."""
        os.nice(niceness)
        self._pack, self._device, self._num_threads = pack, device, num_threads
        self._sculptor: Sculptor | None = None
        self._thread = ThreadPoolExecutor(1, "sculptor")  # one after the other: Sculptor is not for concurrent calls

    async def sculpt(
        self, root: str, model_id: str, identity_id: str, prompt: str, config: SculptConfig
    ) -> AsyncIterator[float]:
        """Shares of the updates that are done, 0..1; when they end the head is a row of `models` of this root, once
        however often it was asked for. Closed, it goes no further than its next update, and its checkpoint stays.

        Raises:
            UnknownIdentity: the person is not there, or was erased meanwhile.
            PromptTooLong, IncompatibleIdentity, PackError, ValueError: as `Sculptor.sculpt`.
        """
        loop, events = asyncio.get_running_loop(), asyncio.Queue[float | None]()
        taken_back = threading.Event()

        def on_step(done: int, total: int) -> None:
            if taken_back.is_set():
                raise _TakenBack
            loop.call_soon_threadsafe(events.put_nowait, done / total)

        making = self._thread.submit(self._make, Store(root), model_id, identity_id, prompt, config, on_step)
        try:
            async for event in until_done(events, asyncio.wrap_future(making)):
                if event is not None:
                    yield event
        finally:
            taken_back.set()

    def _make(
        self, store: Store, model_id: str, identity_id: str, prompt: str, config: SculptConfig, on_step: OnStep
    ) -> None:
        if heads(store, [model_id], ["model_id"]).num_rows:
            return
        from factory.draw.heads import make_head

        people = identities_by_id(store, [identity_id])
        if identity_id not in people:
            raise UnknownIdentity(f"no identity {identity_id!r}: it was erased")
        try:
            made = make_head(
                self._load(),
                sculpt_request(store, people[identity_id], prompt, config),
                model_id,
                kept=checkpoint_of(store, model_id),
                keep=partial(keep_checkpoint, store, model_id, identity_id),
                on_step=on_step,
                checkpoint_every_s=CHECKPOINT_EVERY_S,
            )
        except _TakenBack:
            # whoever deleted it dropped its checkpoint, perhaps before this thread kept its last one
            if not _is_known(store, identity_id, prompt, config):
                drop_checkpoints(store, [model_id])
            raise
        now = identities_by_id(store, [identity_id])
        if identity_id in now:
            now[identity_id].check_consent(time.time())
        store.upsert("models", [model_row(made)])
        drop_checkpoints(store, [model_id])
        if not heads(store, [model_id], ["model_id"]).num_rows:  # the store takes nothing of who was erased
            raise UnknownIdentity(f"no identity {identity_id!r}: it was erased meanwhile")

    def _load(self) -> Sculptor:
        if self._sculptor is None:
            import torch

            from factory.draw.sculpt import Sculptor

            torch.set_num_threads(self._num_threads)  # OpenMP's number is each thread's own
            self._sculptor = Sculptor(load_pack(self._pack), device=self._device)
        return self._sculptor


def _is_known(store: Store, identity_id: str, prompt: str, config: SculptConfig) -> bool:
    """Whether there is still work that asked for this head, also work that was taken back: it may be asked for again,
    and goes on from its checkpoint."""
    order = {"identity": identity_id, "prompt": prompt, "config": config.model_dump(mode="json")}
    rows = find_work(store, "head", "identity_id", identity_id)
    return any(json.loads(row["request"]) == order for row in rows)


def sculptor_deployment(args: AppArgs, *, num_threads: int, num_gpus: float) -> Application:
    """The head maker as a Serve deployment: no replica until somebody asks for a head, nor when nobody has for a while.

    `num_threads` of torch and `num_gpus` are its share where the settings leave that open.
    """
    num_gpus = num_gpus if args.sculptor_num_gpus is None else args.sculptor_num_gpus
    return ray_serve.deployment(
        name="HeadMaker",
        ray_actor_options={"num_cpus": args.sculptor_num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=_HELD,
        max_queued_requests=args.queued_each,
        autoscaling_config=while_asked_for(_HELD, args.sculptor_idle_s),
        logging_config=LoggingConfig(enable_access_log=False),
        health_check_timeout_s=HEALTH_CHECK_S,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=5.0,  # work that it leaves is taken up again, from its checkpoint
    )(HeadMaker).bind(args.pack, device="cuda" if num_gpus else "cpu", num_threads=num_threads, niceness=_NICENESS)
