"""The learning deployment: a replica prepares photos in a process of its own and keeps a trainer's slots open.

Serve starts it with the first upload and ends it when none has come for a while, so that nobody who only draws pays
for it. It is nicer than the drawer: where both want the same core, the drawer has most of it.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ray import serve as ray_serve
from ray.serve import Application
from ray.serve.schema import LoggingConfig

from factory.config import EngineConfig, PrepareConfig, Recipe
from factory.consent import Consent
from factory.errors import PhotoRejected
from factory.faces.isolated import IsolatedPreparer
from factory.faces.people import of_one_person
from factory.ids import content_id, identity_id
from factory.pack import load_pack
from factory.records import Identity
from factory.store.policy import read_policy
from factory.store.queries import learned
from factory.store.rows import diverged_row, face_row, identity_row, refusal_rows
from factory.store.tables import Store
from factory.store.told import UPLOADED
from serve.found import Found
from serve.learn_loop import LearnLoop
from serve.scaling import while_asked_for
from serve.settings import HEALTH_CHECK_S, AppArgs

if TYPE_CHECKING:
    from factory.learn.trainer import Trainer

PREPARE_LIMIT_S: Final = 60.0  # of one photo, others before it included
_TELL_EVERY_S: Final = 0.5
_NICENESS: Final = 10  # added; Ray's workers are at 15 and 19 is the most: then the drawer has seven tenths of a core


class FaceGone(LookupError):
    """A face that was to be learned is in the table no more: its person was erased."""

    def __str__(self) -> str:
        return "the face is gone: its person was erased meanwhile"


class Diverged(Exception):
    """The words of a face are not finite; the table `rejects` tells it."""

    def __str__(self) -> str:
        return "diverged: the words are not finite after training"


class Learner:
    """A replica: one model pack, up to `slots` people of all roots learned at once, each at its own step."""

    def __init__(self, pack: str, *, device: str, num_threads: int, slots: int, niceness: int = 0) -> None:
        """Returns before the networks are there: they load in two threads, and who asks waits for them."""
        os.nice(niceness)
        self._pack = load_pack(pack)
        self._config = PrepareConfig()
        self._preparer: Future[IsolatedPreparer] = Future()

        def start_preparing() -> None:
            try:
                preparer = IsolatedPreparer(pack, self._config, num_threads=1)  # on the CPU: few photos come at once
                self._preparer.set_result(preparer)
            except Exception as error:  # noqa: BLE001 (whoever waits must hear of it)
                self._preparer.set_exception(error)

        def load() -> Trainer:
            import torch  # here: it takes seconds, and the process that prepares need not wait for it

            from factory.learn.trainer import load_trainer

            torch.set_num_threads(num_threads)  # OpenMP's number is each thread's own
            return load_trainer(self._pack, device=device, engine=EngineConfig(slots=slots))

        threading.Thread(target=start_preparing, name="preparer", daemon=True).start()
        self._loop = LearnLoop(load)

    async def prepare(self, data: bytes, name: str, consent: Consent) -> Found:
        """Finds a photo's faces. Nothing is written: whoever asks keeps what is wanted.

        Raises TimeoutError where other photos took all of the time.
        """
        return await asyncio.to_thread(self._prepare, data, name, consent)

    def _prepare(self, data: bytes, name: str, consent: Consent) -> Found:
        photo_id, pack = content_id(data), self._pack.name
        try:
            outcome = self._preparer.result().read(data, name, limit_s=PREPARE_LIMIT_S)
        except PhotoRejected as error:  # it killed the process that worked on it
            return Found(faces=[], refused=refusal_rows(photo_id, name, pack, [(0, error)], whole=True))
        rows = [face_row(replace(face, consent=consent)) | {"uri": UPLOADED} for face in outcome.faces]
        return Found(faces=rows, refused=refusal_rows(photo_id, name, pack, outcome.refused, whole=not rows))

    async def learn(self, root: str, face_ids: list[str], recipe: Recipe, name: str = "") -> AsyncIterator[float | str]:
        """Learns a person from these faces, one a photo: shares of the steps that are done, 0..1, then the identity_id,
        once the identity is in the table, called `name` or else as its face.

        Raises:
            FaceGone: one of them is no face of this pack in the root.
            PhotoRejected: the consent of one of them is over, or required and not there.
            Diverged: the words are not finite.
        """
        fingerprint = await asyncio.to_thread(self._pack.learning_fingerprint)
        an_id = identity_id(face_ids[0], recipe, fingerprint, face_ids[1:])
        store = Store(root)
        if await asyncio.to_thread(learned, store, [an_id]):  # done before a restart
            yield an_id
            return
        faces = await asyncio.to_thread(store.faces, face_ids, pack=self._pack.name)
        if len(faces) < len(face_ids):
            raise FaceGone
        required = (await asyncio.to_thread(read_policy, root)).require_consent
        for one in faces:  # it may have been asked for, and put off by a restart, long ago
            if why := one.consent.lacking(time.time(), required=required):
                raise PhotoRejected("no_consent", why)
        face = of_one_person(faces)
        now = 0.0

        def tell(share: float) -> None:
            nonlocal now
            now = share

        future = self._loop.submit(f"{an_id} {root}", face, recipe, tell)
        waiting = asyncio.wrap_future(future)
        told = 0.0
        try:
            while not (await asyncio.wait([waiting], timeout=_TELL_EVERY_S))[0]:
                if now > told:
                    told = now
                    yield told
            outcome = waiting.result()
            if outcome.identity is None:
                await asyncio.to_thread(store.upsert, "rejects", [diverged_row(face, an_id, recipe)])
                raise Diverged
            await asyncio.to_thread(_commit, store, replace(outcome.identity, name=name or face.name))
            yield an_id
        finally:
            future.cancel()


def _commit(store: Store, identity: Identity) -> None:
    store.upsert("identities", [identity_row(identity)])
    if not learned(store, [identity.identity_id]):
        raise FaceGone  # its person was erased in the meantime, so the store has not taken it


def learner_deployment(args: AppArgs, *, num_threads: int, num_gpus: float) -> Application:
    """The learner as a Serve deployment: no replica until somebody uploads a photo, nor when nobody has for a while.

    `num_gpus` is its share where the settings leave that open.
    """
    num_gpus = num_gpus if args.learner_num_gpus is None else args.learner_num_gpus
    return ray_serve.deployment(
        name="Learner",
        ray_actor_options={"num_cpus": args.learner_num_cpus, "num_gpus": num_gpus},
        max_ongoing_requests=4 * args.learner_slots,
        max_queued_requests=args.queued_each,
        autoscaling_config=while_asked_for(4 * args.learner_slots, args.learner_idle_s),
        logging_config=LoggingConfig(enable_access_log=False),
        health_check_timeout_s=HEALTH_CHECK_S,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=5.0,  # work that it leaves is taken up again
    )(Learner).bind(
        args.pack,
        device="cuda" if num_gpus else "cpu",
        num_threads=num_threads,
        slots=args.learner_slots,
        niceness=_NICENESS,
    )
