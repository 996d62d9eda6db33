"""Photos that are uploaded: who is on them, whether they are known, and the work of learning those who are not."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Literal

from pydantic import Field

from factory.config import Config, Recipe
from factory.consent import Consent
from factory.errors import PhotoRejected
from factory.ids import content_id, identity_id, photo_of
from factory.pack import Pack
from factory.settings import train_settings
from factory.store.consents import set_photo_consents
from factory.store.erase import finish
from factory.store.policy import read_policy
from factory.store.queries import add_name, faces_by_id, learned, photo_rows
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.uploads import claim_upload, forget_nobodys_uploads, forget_uploads
from serve.client import GeneratorDown
from serve.found import Found, face_cards
from serve.learners import Learners
from serve.one_person import fits, other_person, photo_cards
from serve.unlearned import Erased, NoSuchFace, PhotosRefused, SeveralFaces
from serve.work import OnProgress, Work

logger = logging.getLogger(__name__)
KIND: Final = "identity"  # of work
_TOLD: Final = 20  # files, of what an erasure left
_FORMS: Final = 8  # of a root that are in memory at once, with up to 64 MiB of photos each
_NOBODYS: Final = Consent()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Who is to be learned, before anything of them is kept."""

    order: LearnOrder
    faces: list[dict[str, Any]]  # whom, as they are told (found.py)
    photos: list[tuple[Upload, Found]]  # what was made of each


class Uploads:
    """Recognises and learns the people of uploaded photos, for one root and pack."""

    def __init__(self, pack: Pack, store: Store, learner: Learners) -> None:
        self.pack, self._store, self._learner = pack, store, learner
        self.room = asyncio.Semaphore(_FORMS)  # for a form from its first byte until its photos are prepared

    async def check(self, photos: Sequence[Upload], consent: Consent = _NOBODYS) -> list[dict[str, Any]]:
        """Who is on photos, and how good these are to learn from: `face_cards`, of several photos of one face each with
        `fits`. Nothing is kept. Raises as `order` and `order_of_one`, but SeveralFaces and OtherPerson."""
        several = [await self._look(photo, "", consent) for photo in photos]
        if refused := {number: _refusal(found) for number, found in enumerate(several) if not found.faces}:
            raise PhotosRefused(refused) if len(photos) > 1 else refused[0]
        alone = all(len(found.faces) == 1 for found in several)
        fitting = fits(self.pack, [row for found in several for row in found.faces]) if alone else None
        whole = [await asyncio.to_thread(self._with_crops, found) for found in several]
        return await asyncio.to_thread(partial(photo_cards, whole, fitting, thumbnails=True))

    async def order(
        self,
        photo: Upload,
        *,
        name: str = "",
        preset: Preset = "paper",
        face: int | None = None,
        everybody: bool = False,
        consent: Consent = _NOBODYS,
    ) -> Chosen:
        """Who is to be learned of a photo. Its faces are not kept yet; of a photo that cannot be used it is, and why.

        Raises:
            PhotoRejected: it cannot be used, for the job's own reasons.
            SeveralFaces, NoSuchFace, Erased, TooMuchWork, GeneratorDown
        """
        recipe = await asyncio.to_thread(train_settings, self.pack, preset)
        photos_name = name if not face else ""  # a photo's name is its largest face's
        found = await self._usable(photo, photos_name, consent)
        rows = found.faces
        if face is not None:
            chosen = [row for row in rows if row["face_index"] == face]
            if not chosen:
                numbers = ", ".join(str(row["face_index"]) for row in rows)
                raise NoSuchFace(f"face {face}: the photo's faces that can be used are {numbers}")
        elif len(rows) == 1 or everybody:
            chosen = rows
        else:
            raise SeveralFaces(await self._shown(found))
        await self._told(found, photos_name, consent)
        fingerprint = await asyncio.to_thread(self.pack.learning_fingerprint)
        people = [
            Person(
                identity_id=identity_id(row["face_id"], recipe, fingerprint),
                face_id=row["face_id"],
                name=name if face else "",
            )
            for row in chosen
        ]
        order = LearnOrder(people=people, recipe=recipe)
        return Chosen(order=order, faces=face_cards(chosen, thumbnails=False), photos=[(photo, found)])

    async def order_of_one(
        self,
        photos: Sequence[Upload],
        *,
        name: str = "",
        preset: Preset = "paper",
        consent: Consent = _NOBODYS,
        same_person: bool = False,
        before: Sequence[dict[str, Any]] = (),
    ) -> Chosen:
        """As `order`, of several photos of one person, each of which shows nobody else; with faces of theirs that are
        kept `before`, rows of `faces`. Raises as `order`, PhotosRefused, which tells of each photo that cannot be used,
        and, unless `same_person` or they were learned so already, OtherPerson."""
        recipe = await asyncio.to_thread(train_settings, self.pack, preset)
        several, refused = list[Found](), dict[int, PhotoRejected]()
        for number, photo in enumerate(photos):
            try:
                found = await self._usable(photo, "", consent)
            except PhotoRejected as error:
                refused[number] = error
                continue
            if len(found.faces) > 1:
                raise SeveralFaces(await self._shown(found, number), number)
            several.append(found)
        if refused:
            raise PhotosRefused(refused) if len(photos) > 1 else refused[0]
        rows = [*before, *(found.faces[0] for found in several)]
        first, *others = sorted({row["face_id"] for row in rows})
        fingerprint = await asyncio.to_thread(self.pack.learning_fingerprint)
        an_id = identity_id(first, recipe, fingerprint, others)
        fitting = fits(self.pack, rows)
        unlike = {} if same_person or fitting is None or all(fitting.values()) else fitting
        if unlike and not await asyncio.to_thread(learned, self._store, [an_id]):
            whole = [await asyncio.to_thread(self._with_crops, found) for found in several]
            raise other_person(photo_cards(whole, unlike, thumbnails=True), unlike)
        for found in several:
            await self._told(found, "", consent)
        who = Person(identity_id=an_id, face_id=first, more_faces=others, name=name or photos[0].name)
        return Chosen(
            order=LearnOrder(people=[who], recipe=recipe),
            faces=photo_cards(several, fitting),
            photos=list(zip(photos, several, strict=True)),
        )

    async def keep(self, chosen: Chosen) -> None:
        """Writes what learning them needs, once it is written that they are to be learned: until then whoever ends
        another order for the same photos may forget them. Raises Erased, and what preparing a photo does."""
        for photo, found in chosen.photos:
            first = found.faces[0]
            if found.kept:
                if await asyncio.to_thread(claim_upload, self._store, self.pack.name, first["photo_id"]):
                    continue
                found = await self._learner.prepare(photo.data, first["name"], Consent.of(first))
            await asyncio.to_thread(self._store.upsert, "rejects", found.refused)
            await asyncio.to_thread(self._store.upsert, "faces", found.faces)  # last: the photo is done
        erased = await asyncio.to_thread(self._store.tombstones)
        if any(erased.hold_photo(found.faces[0]["photo_id"]) for _, found in chosen.photos):
            raise Erased  # meanwhile

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
        """After an order failed or was taken back: nothing is kept of its photos, unless others of them are learned."""
        order = LearnOrder.model_validate_json(work.request)
        photos = {photo_of(face) for person in order.people for face in (person.face_id, *person.more_faces)}
        await asyncio.to_thread(forget_uploads, self._store, photos)

    async def sweep(self) -> None:
        """Forgets what is left of photos of failed and cancelled orders, whose server died before it had done so, and
        goes on with erasures that ended so; what these leave is told to whoever runs the server."""
        await asyncio.to_thread(forget_nobodys_uploads, self._store)
        for _, done in await asyncio.to_thread(finish, self._store):
            if left := [*done.found, *done.others, *filter(None, [done.older_versions])]:
                logger.warning("an erasure that had ended between was gone on with, and this is left: %s", left[:_TOLD])

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

    async def _look(self, photo: Upload, name: str, consent: Consent) -> Found:
        """What is on a photo: as the tables tell, or else as it is found now. Nothing is written. Raises PhotoRejected
        where a consent is lacking, Erased."""
        photo_id, store = content_id(photo.data), self._store
        if (await asyncio.to_thread(store.tombstones)).hold_photo(photo_id):
            raise Erased
        faces, reject = await asyncio.to_thread(photo_rows, store, self.pack.name, photo_id)
        agreed = Consent.of(faces[0]) if faces and consent.reference is None else consent
        policy = await asyncio.to_thread(read_policy, store.root)
        if why := agreed.lacking(time.time(), required=policy.require_consent):
            raise PhotoRejected("no_consent", why)  # nothing is kept of a photo that nobody agreed to
        if faces or reject is not None:
            return Found(faces=faces, refused=[] if reject is None else [reject], kept=True)
        return await self._learner.prepare(photo.data, name or photo.name or "upload", consent)

    async def _usable(self, photo: Upload, name: str, consent: Consent) -> Found:
        """The same, of a photo that can be used; one that cannot is kept as a reject. Raises PhotoRejected."""
        found = await self._look(photo, name, consent)
        if not found.faces:
            if not found.kept:
                await asyncio.to_thread(self._store.upsert, "rejects", found.refused)
            raise _refusal(found)
        return found

    async def _told(self, found: Found, name: str, consent: Consent) -> None:
        """What an upload tells anew of a photo that is known."""
        photo_id = found.faces[0]["photo_id"]
        if found.kept and consent.reference is not None:
            await asyncio.to_thread(set_photo_consents, self._store, {photo_id: consent})
        if found.kept and name and found.faces[0]["name"] != name:
            await asyncio.to_thread(add_name, self._store, photo_id, name)

    async def _shown(self, found: Found, number: int = 0) -> list[dict[str, Any]]:
        """Its faces with thumbnails."""
        return await asyncio.to_thread(lambda: face_cards(self._with_crops(found).faces, number))

    def _with_crops(self, found: Found) -> Found:
        if not found.kept:
            return found
        ids = [row["face_id"] for row in found.faces]
        crops = faces_by_id(self._store, self.pack.name, ids, ["face_id", "crop"]).to_pylist()
        crop_of = {row["face_id"]: row["crop"] for row in crops}
        rows = [{**row, "crop": crop_of[row["face_id"]]} for row in found.faces if row["face_id"] in crop_of]
        return replace(found, faces=rows)


def _refusal(found: Found) -> PhotoRejected:
    reject = found.refused[0]
    return PhotoRejected(reject["reason"], reject["detail"])
