"""/v1/identities: learn people from uploaded photos, list them, erase one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from itertools import chain
from typing import Annotated, Any
from weakref import WeakValueDictionary

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import ConfigDict, Field

from factory.errors import IdentityNotFound
from factory.faces.people import MOST_PHOTOS
from factory.ids import content_id
from factory.store.alike import Alike, still_there
from factory.store.erase import Erasure, erase, find_person, finish
from factory.store.quality import quality_cards
from factory.store.queries import faces_by_id, find_work
from factory.store.rows import FACE_COLUMNS
from factory.store.sql import where_in
from factory.store.tables import Store
from serve.catalog import Catalog, UnknownIdentity
from serve.ledger import tell
from serve.openai.forms import PhotoFields, read_form
from serve.openai.lists import ModelCard, identity_card
from serve.openai.schemas import RequestRefused, ignoring
from serve.openai.work import once_of, poll_headers, work_card
from serve.piece import UNDER_WAY
from serve.quotas import Quotas
from serve.uploads import KIND, Chosen, LearnOrder, Upload, Uploads
from serve.work import Once, Work, WorkBook

_MAX_PAGE = 10_000  # identities of one answer
_MAX_ALIKE = 100  # of those who look alike, the likest, that an answer names


class UploadFields(PhotoFields):
    """The fields beside the photo. An unknown one is named in x-ignored-fields."""

    model_config = ConfigDict(extra="allow")

    all: bool = False  # everybody on the photo
    add_to: str = Field(default="", max_length=200)  # name or id of somebody learned, of whom these are more photos
    dry_run: bool = False  # only tell who is on it and how good it is; nothing is kept


class Identities:
    """The handlers of /v1/identities."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        book: WorkBook,
        uploads: Uploads,
        fingerprint: str,
        quotas: Quotas | None = None,
    ) -> None:
        """`quotas` are asked before anybody is learned; None: whoever asks may learn as many as there is room for."""
        self._catalog, self._store, self._book, self._uploads = catalog, store, book, uploads
        self._fingerprint, self._quotas = fingerprint, quotas
        self._erasing = asyncio.Lock()
        self._asked: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by who is asked for

    async def create(self, request: Request) -> Response:
        """Learns who is on a photo: 202 and work to be polled, or 200 and the identity if it is known. With `dry_run`
        200 and the faces, with what is wrong with the photo."""
        async with self._uploads.room:
            photos, fields = await read_form(request, UploadFields)
            if fields.face is not None and fields.all:
                raise RequestRefused("give one of `face` and `all`", "face")
            once = await asyncio.to_thread(_once, request, fields, photos)
            ignored, agreed = ignoring(fields.model_extra or ()), fields.agreed()
            if (work := await self._book.again(KIND, once)) is not None:
                return self._told(work, ignored)
            if fields.dry_run:
                faces = await self._uploads.check(photos, agreed)
                return JSONResponse({"object": "photo_check", "faces": faces}, headers=ignored)
            about: dict[str, Any] = {"name": fields.name, "preset": fields.preset, "consent": agreed}
            if len(photos) > 1 or fields.add_to:
                if fields.all or fields.face is not None:
                    raise RequestRefused("of several photos each shows one person: leave it out", "face")
                if fields.add_to:
                    about |= await asyncio.to_thread(self._more_of, fields, len(photos))
                chosen = await self._uploads.order_of_one(photos, same_person=fields.same_person, **about)
            else:
                chosen = await self._uploads.order(photos[0], face=fields.face, everybody=fields.all, **about)
        ids = [person.identity_id for person in chosen.order.people]
        if await self._uploads.known(chosen.order):
            if agreed.reference is not None:
                tell(request, "told consent", ids, len(ids), consent=agreed.reference)
            return JSONResponse(await self._known(chosen.order), headers=ignored)
        work = await self.submit(chosen, once)
        tell(request, "asked to learn", work.people, len(work.people))
        return self._told(work, ignored, faces=chosen.faces)

    async def submit(self, chosen: Chosen, once: Once | None = None) -> Work:
        """The work of an order; the one that is under way about the same people, if there is such, or was over while
        this one waited. Only then anything is kept of their photos."""
        order = chosen.order
        ids = [person.identity_id for person in order.people]
        async with self._asked.setdefault(ids[0], asyncio.Lock()):  # who asks at the same time finds this one's work
            if once is None:
                found = await asyncio.to_thread(find_work, self._store, KIND, "identity_id", ids[0])
                rows = [row for row in found if row["people"] == ids]
                are_learned = bool(rows) and await self._uploads.known(order)
                for row in rows:
                    if row["status"] in UNDER_WAY or (are_learned and row["status"] == "completed"):
                        return await self._book.find(row["work_id"], KIND)
            await self._book.check_room(KIND)
            if self._quotas is not None:
                await self._quotas.identities(len(ids))
            keep = partial(self._uploads.keep, chosen)
            return await self._book.submit(KIND, order.model_dump(mode="json"), ids, once, first=keep)

    async def list_all(
        self, limit: Annotated[int, Query(ge=1, le=_MAX_PAGE)] = 100, after: str | None = None
    ) -> dict[str, Any]:
        """The identities that can be drawn with this pack, newest first, from the one that follows `after` on."""
        try:
            found = await asyncio.to_thread(self._catalog.page, self._fingerprint, limit + 1, after)
        except UnknownIdentity as error:
            raise RequestRefused(str(error), "after") from None
        good = await asyncio.to_thread(quality_cards, self._store, [one.identity_id for one in found[:limit]])
        cards = [
            {**ModelCard.of(one).model_dump(), "object": "identity", **good[one.identity_id]} for one in found[:limit]
        ]
        first, last = (cards[0]["id"], cards[-1]["id"]) if cards else (None, None)
        more = len(found) > limit
        return {"object": "list", "data": cards, "first_id": first, "last_id": last, "has_more": more}

    async def delete(self, identity: str, request: Request) -> dict[str, Any]:
        """Erases a person: rows, old versions and leftovers; then every byte of the root is searched for traces. An
        erasure that had ended between is gone on with first; what is left of it is told, too."""
        async with self._erasing:  # two at once would throw back each other's commits
            before = await asyncio.to_thread(finish, self._store)
            try:
                an_id, done = await self._erase(identity, request)
                erased = [*(one for _, one in before), done]
            except UnknownIdentity:
                own = [(who, one) for who, one in before if identity in (who.asked, *who.identity_ids)]
                if not own:
                    raise
                person, done = own[-1]
                an_id, erased = min(person.identity_ids, default=identity), [one for _, one in before]
        looks_alike = await asyncio.to_thread(still_there, self._store, chain(*(one.alike for one in erased)))
        also = f"; {len(looks_alike)} others look alike and stay, such as {looks_alike[0]}" if looks_alike else ""
        if num := sum(len(one.found) for one in erased):
            text = (
                f"erased, but {num} traces are left in files that jobs hold: when none runs, "
                "`identity-factory identities erase --photo FILE` removes them"
            )
            raise RequestRefused(text + also, status=409)
        if others := {file for one in erased for file in one.others}:
            text = f"erased, but {len(others)} files put under the root hold the person, or may: remove them"
            raise RequestRefused(text + also, status=409)
        return {
            "id": an_id,
            "object": "identity.deleted",
            "deleted": True,
            "looks_alike": [_stays(one) for one in looks_alike[:_MAX_ALIKE]],
            "proof": {
                "rows": dict(done.rows),  # removed, by table
                "files_searched": done.files_scanned,
                "bytes_searched": done.bytes_scanned,
                "traces_found": 0,
                # of a bucket that keeps them: what to do; else empty
                "older_versions": next((one.older_versions for one in erased if one.older_versions), ""),
                # packs of whose faces nobody can say whether they look alike
                "not_compared": sorted({pack for one in erased for pack in one.not_compared}),
            },
        }

    async def _erase(self, identity: str, request: Request) -> tuple[str, Erasure]:
        """Their id, and what was removed. Raises UnknownIdentity, and RequestRefused where others have the name."""
        found = await asyncio.to_thread(self._catalog.find, identity)
        try:
            person = await asyncio.to_thread(find_person, self._store, identity_id=found.identity_id)
        except IdentityNotFound as error:  # erased meanwhile
            raise UnknownIdentity(f"no identity {identity[:100]!r}") from error
        if identity != found.identity_id:
            called = await asyncio.to_thread(self._called, found.name)
            if not called <= person.identity_ids:  # what is erased by a name is gone, and may be the wrong one
                ids = ", ".join(sorted(called)[:_MAX_ALIKE])
                message = f"{len(called)} people are called {found.name[:100]!r}: ask with an id, of {ids}"
                raise RequestRefused(message, "identity", status=409)
        for work_id in sorted(person.work_ids):
            await self._book.cancel(work_id)
        done = await asyncio.to_thread(erase, self._store, person)
        tell(request, "erased", sorted(person.identity_ids), sum(done.rows.values()))
        return found.identity_id, done

    def _called(self, name: str) -> set[str]:
        """The ids of all whom a name stands for."""
        rows = self._store.read("identities", columns=["identity_id"], where=where_in("name", [name]))
        return set(rows["identity_id"].to_pylist())

    def _more_of(self, fields: UploadFields, num: int) -> dict[str, Any]:
        """What `order_of_one` needs to know of somebody who is learned. Raises RequestRefused."""
        try:
            who = self._catalog.find(fields.add_to)
        except UnknownIdentity as error:
            raise RequestRefused(str(error), "add_to", status=404) from None
        ids = [who.face_id, *(who.more_faces or ())]
        rows = faces_by_id(self._store, self._uploads.pack.name, ids, FACE_COLUMNS).to_pylist()
        if len(rows) < len(ids):
            raise RequestRefused("their photos are not kept here: send all photos of theirs together", "add_to")
        if len(ids) + num > MOST_PHOTOS:
            text = f"{len(ids)} photos of theirs are learned together, and {MOST_PHOTOS} are the most"
            raise RequestRefused(text, "add_to")
        return {"before": rows, "name": fields.name or who.name}

    async def _known(self, order: LearnOrder) -> dict[str, Any]:
        people = [await asyncio.to_thread(self._catalog.find, person.identity_id) for person in order.people]
        cards = [identity_card(who, compatible=who.fingerprint == self._fingerprint, words=False) for who in people]
        ids = [card["identity_id"] for card in cards]
        good = await asyncio.to_thread(quality_cards, self._store, ids)
        return {**cards[0], **good[ids[0]], "identities": ids}

    def _told(self, work: Work, headers: dict[str, str], **more: Any) -> Response:
        headers = {**headers, **poll_headers(work), "location": f"/v1/work/{work.work_id}"}
        card = work_card(work, self._book, identities=work.people, **more)
        return JSONResponse(card, status_code=202, headers=headers)


def identity_routes(identities: Identities) -> APIRouter:
    """What belongs to /v1/identities, but for the looks at one (images.py, serve/browsing.py)."""
    router = APIRouter()
    form = {"requestBody": {"content": {"multipart/form-data": {"schema": _form_schema()}}}}
    router.add_api_route("/v1/identities", identities.create, methods=["POST"], status_code=202, openapi_extra=form)
    router.add_api_route("/v1/identities", identities.list_all, methods=["GET"])
    router.add_api_route("/v1/identities/{identity:name}", identities.delete, methods=["DELETE"])
    return router


def _stays(one: Alike) -> dict[str, Any]:
    """Somebody who looks like whoever was erased, and how they would be."""
    return {
        "id": one.identity_id or None,  # None: nobody learned this face
        "name": one.name,
        "looks_like": one.kind,
        "similarity": round(one.similarity, 3),
        "erased_by": f"DELETE /v1/identities/{one.identity_id}"
        if one.identity_id
        else f"identity-factory identities erase {one.chosen_by}",
    }


def _once(request: Request, fields: UploadFields, photos: Sequence[Upload]) -> Once | None:
    if not request.headers.get("idempotency-key"):
        return None  # and no photo need be gone through
    return once_of(request, fields, photos=[[content_id(photo.data), photo.name] for photo in photos])


def _form_schema() -> dict[str, Any]:
    schema = UploadFields.model_json_schema()
    schema["properties"] = {"image": {"type": "string", "format": "binary"}, **schema["properties"]}
    return {**schema, "required": ["image"]}
