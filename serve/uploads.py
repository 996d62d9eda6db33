"""Photos that are uploaded: who is on them, whether they are known, and the work of learning those who are not."""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Literal, Protocol

from PIL import Image
from pydantic import Field
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from factory.config import Config, Recipe
from factory.consent import Consent
from factory.errors import PhotoRejected
from factory.ids import content_id, identity_id, photo_of
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.consents import set_photos_consent
from factory.store.policy import read_policy
from factory.store.queries import add_name, faces_by_id, learned, photo_rows
from factory.store.rows import decode_png
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.told import forget_uploads
from serve.client import GeneratorDown
from serve.unlearned import Erased, NoSuchFace, SeveralFaces
from serve.work import OnProgress, TooMuchWork, Work

KIND: Final = "identity"  # of work
_THUMBNAIL_PX: Final = 96
_NOBODYS: Final = Consent()
_START_LIMIT_S: Final = 180.0  # of one preparation; with it a replica may have to start
_TRIES: Final = 2  # a learner that is lost is started again by Serve

Preset = Literal["paper", "release"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """A file as it came."""

    data: bytes
    name: str  # the file's own, without its suffix; may be empty


class Person(Config):
    """Somebody to be learned."""

    identity_id: str
    face_id: str
    more_faces: list[str] = Field(default=[])  # of other photos of the same person
    name: str = ""  # what the identity is to be called; empty: as its face


class LearnOrder(Config):
    """All that is needed to learn people, here or after a restart: their faces are in the table already."""

    people: list[Person]
    recipe: Recipe


class Learners(Protocol):
    """What prepares and learns: RemoteLearner, or the tests' own."""

    async def prepare(self, data: bytes, name: str, consent: Consent) -> None:
        """As Learner.prepare."""
        ...

    def learn(self, face_ids: list[str], recipe: Recipe, name: str) -> AsyncIterator[float | str]:
        """As Learner.learn."""
        ...


class RemoteLearner:
    """The learning deployment, for the people of one root. Where none runs yet, Serve starts it with the first call.

    Raises TooMuchWork where its queue is full, GeneratorDown where no replica answers.
    """

    def __init__(self, handle: DeploymentHandle[Any], root: str) -> None:
        self._root = root
        self._prepare: Callable[..., Any] = handle.prepare.remote
        self._learn: Callable[..., Any] = handle.options(stream=True).learn.remote

    async def prepare(self, data: bytes, name: str, consent: Consent) -> None:
        """As Learner.prepare."""
        with _told_apart():
            async with asyncio.timeout(_START_LIMIT_S):
                await self._prepare(self._root, data, name, consent)

    async def learn(self, face_ids: list[str], recipe: Recipe, name: str) -> AsyncIterator[float | str]:
        """As Learner.learn; closing it takes the slot back."""
        with _told_apart():
            pending = self._learn(self._root, face_ids, recipe, name)
            try:
                async for event in pending:
                    yield event
            except BaseException:
                pending.cancel()
                raise


@contextmanager
def _told_apart() -> Iterator[None]:
    try:
        yield
    except (BackPressureError, TimeoutError) as error:
        raise TooMuchWork from error
    except (DeploymentUnavailableError, RayActorError) as error:
        raise GeneratorDown("the learner is not available just now; try again") from error


class Uploads:
    """Recognises and learns the people of uploaded photos, for one root and pack."""

    def __init__(self, pack: Pack, store: Store, learner: Learners) -> None:
        self._pack, self._store, self._learner = pack, store, learner

    async def order(
        self,
        photo: Upload,
        *,
        name: str = "",
        preset: Preset = "paper",
        face: int | None = None,
        everybody: bool = False,
        consent: Consent = _NOBODYS,
    ) -> LearnOrder:
        """Who is to be learned of a photo; its faces are in the table when this returns, with the consent if there is
        one.

        Raises:
            PhotoRejected: it cannot be used, for the job's own reasons.
            SeveralFaces, NoSuchFace, Erased, TooMuchWork, GeneratorDown
        """
        recipe = await asyncio.to_thread(train_settings, self._pack, preset)
        rows = await self._faces(photo, name if not face else "", consent)
        if face is not None:
            chosen = [row for row in rows if row["face_index"] == face]
            if not chosen:
                numbers = ", ".join(str(row["face_index"]) for row in rows)
                raise NoSuchFace(f"face {face}: the photo's faces that can be used are {numbers}")
        elif len(rows) == 1 or everybody:
            chosen = rows
        else:
            raise SeveralFaces(await asyncio.to_thread(self._shown, rows))
        fingerprint = await asyncio.to_thread(self._pack.learning_fingerprint)
        people = [
            Person(
                identity_id=identity_id(row["face_id"], recipe, fingerprint),
                face_id=row["face_id"],
                name=name if face else "",  # a photo's name is its largest face's
            )
            for row in chosen
        ]
        return LearnOrder(people=people, recipe=recipe)

    async def order_of_one(
        self, photos: Sequence[Upload], *, name: str = "", preset: Preset = "paper", consent: Consent = _NOBODYS
    ) -> LearnOrder:
        """As `order`, of several photos of one person, each of which shows nobody else. Raises as `order`."""
        recipe = await asyncio.to_thread(train_settings, self._pack, preset)
        faces = set[str]()
        for number, photo in enumerate(photos):
            rows = await self._faces(photo, "", consent)
            if len(rows) > 1:
                raise SeveralFaces(await asyncio.to_thread(self._shown, rows), number)
            faces.add(rows[0]["face_id"])
        first, *others = sorted(faces)
        fingerprint = await asyncio.to_thread(self._pack.learning_fingerprint)
        an_id = identity_id(first, recipe, fingerprint, others)
        who = Person(identity_id=an_id, face_id=first, more_faces=others, name=name or photos[0].name)
        return LearnOrder(people=[who], recipe=recipe)

    async def known(self, order: LearnOrder) -> bool:
        """Whether all of them are learned already. Raises PhotoRejected for words that were tried and diverged."""
        ids = [person.identity_id for person in order.people]
        tried = partial(self._store.read, "rejects", where=f"stage = 'train' AND {where_in('reject_id', ids)}")
        for row in (await asyncio.to_thread(tried)).to_pylist():
            raise PhotoRejected(row["reason"], row["detail"])
        return await asyncio.to_thread(learned, self._store, ids) == set(ids)

    async def learn(self, work: Work, on_progress: OnProgress) -> str:
        """Does the work of an order; gives the first person's identity_id."""
        order = LearnOrder.model_validate_json(work.request)
        shares = [0.0] * len(order.people)

        def tell(number: int, share: float) -> None:
            shares[number] = share
            on_progress(sum(shares) / len(shares))

        tasks = [
            asyncio.create_task(self._learn_one(person, order.recipe, partial(tell, number)))
            for number, person in enumerate(order.people)
        ]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
        return order.people[0].identity_id

    async def forget(self, work: Work) -> None:
        """After an order was taken back: nothing is kept of its photos, unless others of them are learned."""
        people = LearnOrder.model_validate_json(work.request).people
        photos = {photo_of(face) for person in people for face in (person.face_id, *person.more_faces)}
        await asyncio.to_thread(forget_uploads, self._store, photos)

    async def _learn_one(self, person: Person, recipe: Recipe, tell: OnProgress) -> None:
        for tries_left in reversed(range(_TRIES)):
            try:
                async for event in self._learner.learn([person.face_id, *person.more_faces], recipe, person.name):
                    if isinstance(event, float):
                        tell(event)
                tell(1.0)
                return
            except GeneratorDown:
                if not tries_left:
                    raise

    async def _faces(self, photo: Upload, name: str, consent: Consent) -> list[dict[str, Any]]:
        """Rows of the photo's faces, after preparing it if nobody has yet; `name` is one of its names from now on."""
        photo_id, store, pack = content_id(photo.data), self._store, self._pack.name
        if (await asyncio.to_thread(store.tombstones)).hold_photo(photo_id):
            raise Erased
        faces, reject = await asyncio.to_thread(photo_rows, store, pack, photo_id)
        if faces and consent.reference is not None:
            await asyncio.to_thread(set_photos_consent, store, photo_id, consent)
        elif faces:
            consent = Consent.of(faces[0])
        policy = await asyncio.to_thread(read_policy, store.root)
        if policy.require_consent and (why := consent.lacking(time.time())):
            raise PhotoRejected("no_consent", why)  # nothing is kept of a photo that nobody agreed to
        if not faces and reject is None:
            await self._learner.prepare(photo.data, name or photo.name or "upload", consent)
            faces, reject = await asyncio.to_thread(photo_rows, store, pack, photo_id)
        elif name and faces and faces[0]["name"] != name:
            await asyncio.to_thread(add_name, store, photo_id, name)
        if reject is not None:
            raise PhotoRejected(reject["reason"], reject["detail"])
        if not faces:  # what was found was not taken
            raise Erased
        return faces

    def _shown(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Faces to choose from, with thumbnails."""
        crops = faces_by_id(self._store, self._pack.name, [row["face_id"] for row in rows], ["face_id", "crop"])
        crop_of = {row["face_id"]: row["crop"] for row in crops.to_pylist()}
        return [
            {
                "face": row["face_index"],
                "name": row["name"],
                "box": [round(edge, 1) for edge in row["box"]],  # x0 y0 x1 y1, px of the photo
                "score": round(row["score"], 3),
                "thumbnail": _thumbnail(crop_of[row["face_id"]]),
            }
            for row in rows
            if row["face_id"] in crop_of
        ]


def _thumbnail(crop: bytes) -> str:
    """A crop, PNG, as base64 of a JPEG."""
    picture = Image.fromarray(decode_png(crop))
    picture.thumbnail((_THUMBNAIL_PX, _THUMBNAIL_PX))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
