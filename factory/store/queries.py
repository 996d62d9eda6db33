"""What jobs ask of the tables, by name: no other place but the store writes SQL."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from factory.config import SculptConfig
from factory.errors import IdentityNotFound
from factory.pack import Pack
from factory.records import Identity, SculptRequest
from factory.store.commits import retried
from factory.store.digests import DigestSet, digests
from factory.store.paging import Cursor, cursor, page, page_behind
from factory.store.rows import FACE_COLUMNS, face_from_row, identity_from_row
from factory.store.schemas import KEYS, SCHEMAS, Table
from factory.store.sql import where_in
from factory.store.tables import Store

OF_PREPARE = "stage = 'prepare'"


def of_pack(pack: str) -> str:
    """The condition: rows that a pack made."""
    return where_in("pack", [pack])


def faces_of_pack(store: Store, pack: str, columns: list[str]) -> pa.Table:
    """Every face that a pack prepared."""
    return store.read("faces", columns=columns, where=where_in("pack", [pack]))


def faces_by_id(store: Store, pack: str, face_ids: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    """These faces of a pack, in any order; whoever was erased is left out."""
    wanted = SCHEMAS["faces"].names if columns is None else columns
    rows = store.read("faces", columns=list(dict.fromkeys([*wanted, "pack"])), where=where_in("face_id", face_ids))
    return rows.filter(pc.equal(rows["pack"], pack)).select(wanted)  # as SQL the second condition costs a third more


def rejects_of_prepare(
    store: Store, pack: str, columns: list[str] | None = None, *, unreadable: bool = False
) -> pa.Table:
    """Photos, and faces of them, that could not be prepared with a pack; `unreadable`: only those that have no id."""
    also = " AND photo_id = ''" if unreadable else ""
    return store.read("rejects", columns=columns, where=f"{where_in('pack', [pack])} AND {OF_PREPARE}{also}")


def ids_known(store: Store, table: Table, where: str | None = None) -> DigestSet:
    """Digests of the ids that a table holds."""
    batches = partial(store.batches, table, [KEYS[table][0]], where)
    return retried(lambda: DigestSet(digests(batch.column(0).to_pylist()) for batch in batches()))


def drop_rejects(store: Store, pack: str, reject_ids: Sequence[str]) -> None:
    """Takes back these refusals."""
    if reject_ids:
        store.delete("rejects", f"{where_in('reject_id', reject_ids)} AND {where_in('pack', [pack])}")


def drop_older_rejects(store: Store, pack: str, photo_ids: Sequence[str], but: Sequence[str]) -> None:
    """Takes back what was refused of these photos when they were prepared, all but the rejects of these ids."""
    if photo_ids:
        whose = f"{where_in('photo_id', photo_ids)} AND {where_in('pack', [pack])} AND {OF_PREPARE}"
        store.delete("rejects", f"{whose} AND NOT ({where_in('reject_id', but)})")


def learned(store: Store, identity_ids: Sequence[str] | None = None) -> set[str]:
    """Ids of identities that are there, all or those among these."""
    where = None if identity_ids is None else where_in("identity_id", identity_ids)
    return store.existing_ids("identities", where=where)


def diverged(store: Store) -> DigestSet:
    """Digests of the ids of identities that were tried and are not to be had."""
    return ids_known(store, "rejects", "stage = 'train'")


def identities_by_id(store: Store, identity_ids: Sequence[str]) -> dict[str, Identity]:
    """These identities by their ids; whoever was erased is left out, and whose consent is over."""
    rows = store.read("identities", where=where_in("identity_id", identity_ids)).to_pylist()
    rows = [row for row in rows if row["consent_expires"] is None or row["consent_expires"] > time.time()]
    return {row["identity_id"]: identity_from_row(row) for row in rows}


def heads(store: Store, model_ids: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    """Rows of `models` with these ids, in any order."""
    return store.read("models", columns=columns, where=where_in("model_id", model_ids))


def checkpoint_of(store: Store, model_id: str) -> tuple[bytes, float] | None:
    """What an interrupted job kept of a head in the making, and its seconds of work; None if there is nothing."""
    rows = store.read("checkpoints", columns=["state", "seconds"], where=where_in("model_id", [model_id])).to_pylist()
    return (rows[0]["state"], rows[0]["seconds"]) if rows else None


def keep_checkpoint(store: Store, model_id: str, identity_id: str, state: bytes, done: int, seconds: float) -> None:
    """Keeps what to go on from: `done` updates in so many seconds of work. Nothing of who was erased."""
    row = {"model_id": model_id, "identity_id": identity_id, "num_iterations": done, "seconds": seconds, "state": state}
    store.upsert("checkpoints", [row])


def sculpt_request(store: Store, identity: Identity, prompt: str, config: SculptConfig) -> SculptRequest:
    """A head that begins in the colours of the face it was learned from, if that is still there."""
    rows = faces_by_id(store, identity.pack, [identity.face_id]).to_pylist()
    if not rows:
        return SculptRequest(identity=identity, prompt=prompt, config=config)
    face = face_from_row(rows[0])
    mask = face.masks.face | face.masks.hair
    return SculptRequest(identity=identity, prompt=prompt, config=config, crop=face.crop, mask=mask)


def drop_checkpoints(store: Store, model_ids: Sequence[str]) -> None:
    """Removes what was kept of heads that are finished."""
    if model_ids:
        store.delete("checkpoints", where_in("model_id", model_ids))


def pictures(store: Store, image_ids: Sequence[str], columns: list[str] | None = None) -> pa.Table:
    """Rows of `images` with these ids, in any order."""
    return store.read("images", columns=columns, where=where_in("image_id", image_ids))


def clips(store: Store, video_ids: Sequence[str], columns: list[str]) -> list[dict[str, Any]]:
    """Rows of `videos` with these ids, in their order; `columns` has video_id among them."""
    rows = store.read("videos", columns=columns, where=where_in("video_id", video_ids)).to_pylist()
    order = {an_id: number for number, an_id in enumerate(video_ids)}
    return sorted(rows, key=lambda row: order[row["video_id"]])


def find_work(store: Store, kind: str, column: str, value: str) -> list[dict[str, Any]]:
    """Rows of `work` of a kind with this value in a column, oldest first."""
    where = f"{where_in('kind', [kind])} AND {where_in(column, [value])}"
    return sorted(store.read("work", where=where).to_pylist(), key=_coming)


def work_rows(store: Store, work_ids: Sequence[str]) -> list[dict[str, Any]]:
    """work_id and status of these pieces of work, as far as they are there."""
    if not work_ids:
        return []
    return store.read("work", columns=["work_id", "status"], where=where_in("work_id", work_ids)).to_pylist()


def has_unfinished_work(store: Store) -> bool:
    """Whether anything that was asked for is still to be done."""
    return bool(store.existing_ids("work", where=where_in("status", ["queued", "in_progress"])))


def num_unfinished(store: Store, kind: str) -> int:
    """How much work of a kind is still to be done, at whatever server."""
    where = f"{where_in('kind', [kind])} AND {where_in('status', ['queued', 'in_progress'])}"
    return store.read("work", columns=["work_id"], where=where).num_rows


def work_page(
    store: Store, kind: str | None, limit: int, after: tuple[float, str] | None, newest_first: bool
) -> list[dict[str, Any]]:
    """At most `limit` rows of `work` (of a kind) in the order of their coming, behind the one of this time and id."""
    dataset = store.open("work")
    if dataset is None:
        return []
    equal = {} if kind is None else {"kind": kind}
    last = None
    if after is not None:  # it may not be written yet
        last = cursor(dataset, "work_id", after[1]) or Cursor(time=after[0], key=after[1])
    names = SCHEMAS["work"].names
    return page(dataset, "work_id", names, limit, after=last, equal=equal, newest_first=newest_first)


def _coming(row: dict[str, Any]) -> tuple[float, str]:
    return row["created_at"], row["work_id"]


def photo_rows(store: Store, pack: str, photo_id: str) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
    """What a pack made of a photo: its faces without crops, the largest first, and the photo's own reject if there is
    none. ([], None): it has not been prepared."""
    mine = f"{where_in('photo_id', [photo_id])} AND {where_in('pack', [pack])}"
    faces = sorted(store.read("faces", columns=FACE_COLUMNS, where=mine).to_pylist(), key=lambda row: row["face_index"])
    own = f"{mine} AND {where_in('reject_id', [photo_id])} AND reason != 'no_consent'"  # that may have changed
    rejects = store.read("rejects", where=own).to_pylist()
    return faces, None if faces or not rejects else rejects[0]


def add_name(store: Store, photo_id: str, name: str) -> None:
    """Another name of a photo: its largest face is found by it."""
    store.upsert("names", [{"photo_id": photo_id, "name": name}])


def clips_of(store: Store, names_or_ids: Sequence[str] | None, columns: list[str]) -> list[dict[str, Any]]:
    """Rows of `videos`, oldest first: all, or of these people (by name or identity_id) and with these video_ids.

    Raises LookupError for a name or id that none has.
    """
    return _made_of(store, "videos", "video_id", names_or_ids, columns)


def heads_of(store: Store, names_or_ids: Sequence[str] | None, columns: list[str]) -> list[dict[str, Any]]:
    """Rows of `models`, as `clips_of` gives those of `videos`."""
    return _made_of(store, "models", "model_id", names_or_ids, columns)


def _made_of(
    store: Store, table: Table, key: str, names_or_ids: Sequence[str] | None, columns: list[str]
) -> list[dict[str, Any]]:
    where = None
    if names_or_ids is not None:
        where = " OR ".join(where_in(column, names_or_ids) for column in ("name", "identity_id", key))
    wanted = list(dict.fromkeys([*columns, "name", "identity_id", key, "created_at"]))
    rows = store.read(table, columns=wanted, where=where).to_pylist()
    known = {row[column] for row in rows for column in ("name", "identity_id", key)}
    if unknown := [name for name in names_or_ids or () if name not in known]:
        what, group = {"videos": ("clip", "videos"), "models": ("head", "heads")}[table]
        shown = ", ".join(map(repr, unknown))
        raise LookupError(f"{store.root} holds no {what} of {shown}; `{group} list` shows them")
    return sorted(rows, key=lambda row: (row["created_at"], row[key]))


def measured(store: Store, protocol: str) -> set[str]:
    """Ids of pictures that were measured under a protocol."""
    return store.existing_ids("metrics", where=where_in("protocol", [protocol]))


def people_to_draw(store: Store, pack: Pack, names_or_ids: Sequence[str] | None) -> list[Identity]:
    """The identities asked for; without names those that fit this pack, and whose consent is not over.

    Raises IdentityNotFound, IncompatibleIdentity, ConsentExpired.
    """
    fingerprint = pack.fingerprint()
    if names_or_ids is None:
        stored = store.identities()
        now = time.time()
        good = [one for one in stored if one.consent_expires is None or one.consent_expires > now]
        people = [identity for identity in good if identity.fingerprint == fingerprint]
        if not stored:
            raise IdentityNotFound(f"{store.root} holds no identities yet; run `identity-factory run` or `train` first")
        if people:
            return people
        names_or_ids = [stored[0].identity_id]  # nobody fits: say so of one of them
    people = store.identities(names_or_ids)
    for identity in people:
        pack.check_fit(identity)
    return people


def image_page(
    store: Store, limit: int, after: str | None = None, identity_id: str | None = None
) -> list[dict[str, Any]]:
    """At most `limit` rows of `images` without their pixels, newest first, from the one that follows `after` on; those
    of one person if one is named.

    Raises LookupError if there is no image `after`.
    """
    dataset = store.open("images")
    if dataset is None:
        return []
    columns = [name for name in dataset.schema.names if name != "image"]
    equal = {} if identity_id is None else {"identity_id": identity_id}
    return page_behind(dataset, "image_id", columns, limit, after, equal)


def likeness_of(store: Store, image_ids: Sequence[str]) -> dict[str, float]:
    """Face Sim, -1..1, of those of these images that were measured and show a face."""
    rows = store.read("metrics", columns=["image_id", "face_sim"], where=where_in("image_id", image_ids)).to_pylist()
    return {row["image_id"]: row["face_sim"] for row in rows if row["face_sim"] == row["face_sim"]}  # NaN: no face


def face_pictures(store: Store, pack: str, face_id: str) -> dict[str, bytes] | None:
    """PNG files of a face's crop, face_mask and hair_mask; None if the face is not there."""
    rows = faces_by_id(store, pack, [face_id], ["crop", "face_mask", "hair_mask"]).to_pylist()
    return rows[0] if rows else None
