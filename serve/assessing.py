"""Whoever was learned from an upload is assessed, as `identity-factory assess` does it, after all that somebody waits
for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Final

from factory.pack import Pack
from factory.store.quality import crops_of, photo_qualities
from factory.store.queries import identities_by_id
from factory.store.tables import Store
from serve.client import ImageClient
from serve.learning import FaceGone
from serve.piece import Do
from serve.refusals import TooMuchWork
from serve.work import OnProgress, Work, WorkBook

KIND: Final = "assessment"  # of work
_AFTER_S: Final = 15.0  # whoever uploaded a photo draws first


def can_measure(pack: Pack) -> bool:
    """Whether a pack has a judge and a CLIP, by which pictures are compared and people assessed."""
    return pack.clip is not None and pack.faces.judge is not None


class Assessing:
    """Assesses people of one root, one after the other."""

    def __init__(self, store: Store, client: ImageClient, *, after_s: float = _AFTER_S) -> None:
        """`after_s` is how long it waits before it draws, so that first pictures come first, in seconds."""
        self._store, self._client, self._after_s = store, client, after_s

    def following(self, learn: Do, book: Callable[[], WorkBook]) -> Do:
        """Learns, and then leaves work of assessing whom it learned in the book. Where too much of that waits there is
        none: the next `assess` sees to them."""

        async def learn_and_ask(work: Work, on_progress: OnProgress) -> str:
            result = await learn(work, on_progress)
            for an_id in work.people:
                with suppress(TooMuchWork):
                    await book().submit(KIND, {"identity_id": an_id}, [an_id])
            return result

        return learn_and_ask

    async def assess(self, work: Work, _on_progress: OnProgress) -> str:
        """Does the work; gives the identity_id, under which the row of `quality` is. Raises FaceGone, ConsentExpired,
        and what the drawing raises."""
        await asyncio.sleep(self._after_s)
        an_id = work.identity_id
        who = (await asyncio.to_thread(identities_by_id, self._store, [an_id])).get(an_id)
        crop = None if who is None else (await asyncio.to_thread(crops_of, self._store, [who])).get(an_id)
        if who is None or crop is None:
            raise FaceGone
        who.check_consent(time.time())
        photo = (await asyncio.to_thread(photo_qualities, self._store, [an_id])).get(an_id)
        found = await self._client.assess(who, crop, None if photo is None else photo["score"])
        await asyncio.to_thread(self._store.upsert, "quality", [asdict(found)])
        return an_id
