"""faces -> identities: an actor a GPU (or the CPU) takes blocks of faces, keeps its slots full, commits what it learns.

The actor commits by itself: Ray Data hands on a generator's rows by whole blocks, so that a commit further down the
chain would come when everything is learned, and kill -9 would lose it. Networks are imported where they are needed: the
light tasks need none, and start in a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from factory.config import EngineConfig, Recipe
from factory.consent import COLUMNS, Consent
from factory.ids import identity_id, identity_ids
from factory.pack import Pack, load_pack
from factory.settings import train_settings
from factory.store.commits import retried
from factory.store.digests import DigestSet, digests
from factory.store.people import seen_again
from factory.store.policy import read_policy
from factory.store.queries import diverged, faces_by_id, faces_of_pack, ids_known, learned, of_pack
from factory.store.rows import diverged_row, face_from_row, identity_row
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import shared
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board
from pipelines.jobs.stage import Stage, counts_table, tally

if TYPE_CHECKING:
    from factory.learn.trainer import Learned

FACES_PER_BLOCK: Final = 128  # an actor's slots run empty once a block, and its crops (0.5 MB at 512 px) are in memory
_WORTH_A_WORKER: Final = 4  # faces; a smaller batch takes longer than it saves
COMMIT_EVERY_S: Final = 10.0  # at least between two commits of an actor: hundreds of actors share one table


def train(
    root: str,
    pack: str | Path = "studio",
    recipes: Sequence[Recipe] = (),
    *,
    engine: EngineConfig | None = None,
    workers: Workers = Workers(),
    faces_per_block: int = FACES_PER_BLOCK,
    merge_people: bool = False,
    within: Summary | None = None,
) -> Summary:
    """Learns every face of `faces` that this pack prepared and that these recipes have not learned yet.

    Without `recipes` the paper's is used, with what the pack needs otherwise. Several are learned in one job: its
    trainers start once. Faces that are learned together share their recipe, so a block of faces has one; a recipe that
    is given twice is learned once. `engine` is how it runs on the hardware, `workers` are the trainers. With
    `merge_people` one face of each person is learned, the largest if none is yet; the others stay in `faces`.

    Raises:
        PackError: the base model is missing, or `merge_people` and the pack knows no likeness; nothing has been done.
    """
    store, loaded = Store(root), load_pack(pack)
    loaded.folder(loaded.base)
    recipes = recipes or [train_settings(loaded)]
    recipes = list({(recipe.method, recipe.train): recipe for recipe in recipes}.values())
    with open_job("train", store, within) as summary:
        new = [_new_faces(store, loaded, recipe, summary, merge_people, within is None) for recipe in recipes]
        num_new = sum(map(len, new))
        if not num_new:
            return summary
        connect()
        store = shared(store)
        pool = model_pool(workers, at_most=-(-num_new // _WORTH_A_WORKER), pack=loaded)
        batch = min(faces_per_block, -(-num_new // pool.size), max(map(len, new)))
        board = open_board()
        trainer = [loaded.portable_name(), recipes, engine or EngineConfig(), store, board, pool.device, pool.threads]
        chain = (
            list(_blocks(new, batch)),
            Stage(partial(read_faces, store=store, pack=loaded.name)),
            Stage(IdentityTrainer, trainer, pool, batch),
        )
        with Progress("train", "identities", num_new, partial(read_board, board)) as progress:
            for counts in tally(*chain):
                summary.identities += counts["identities"]
                summary.count_rejects(counts)
                progress.add(counts["faces"])
        store.tidy("identities")
    return summary


def read_faces(wanted: pa.Table, store: Store, pack: str) -> pa.Table:
    """Faces by id and the number of the recipe each is to be learned by -> rows of `faces`, and that number."""
    face_ids = wanted["face_id"].to_pylist()
    faces = faces_by_id(store, pack, face_ids)
    row_of = {face_id: row for row, face_id in enumerate(faces["face_id"].to_pylist())}
    there = [face_id in row_of for face_id in face_ids]  # somebody may have been erased meanwhile
    rows = [row_of[face_id] for face_id in face_ids if face_id in row_of]
    return faces.take(pa.array(rows, pa.int64())).append_column("recipe", wanted["recipe"].filter(pa.array(there)))


def _blocks(new: Sequence[Sequence[str]], size: int) -> Iterator[pa.Table]:
    """Blocks of at most `size` faces that are learned by the same recipe; `new` has face ids for each recipe."""
    for number, face_ids in enumerate(new):
        for first in range(0, len(face_ids), size):
            own = face_ids[first : first + size]
            yield pa.table({"face_id": own, "recipe": [number] * len(own)})


class IdentityTrainer:
    """Holds the frozen base model; learns a block of faces per call."""

    def __init__(
        self,
        pack: str,
        recipes: Sequence[Recipe],
        engine: EngineConfig,
        store: Store,
        board: Board,
        device: str,
        threads: int,
    ) -> None:
        import torch

        from factory.learn.trainer import load_trainer

        torch.set_num_threads(threads)
        self.trainer = load_trainer(load_pack(pack), device=device, engine=engine)
        self.recipes, self.store = recipes, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `faces` with the number of their recipe -> COUNTS, once all of them are committed.

        Raises MemoryError if one of them alone does not fit.
        """
        import torch

        rows: dict[int, list[dict[str, Any]]] = {}
        for row in batch.to_pylist():
            rows.setdefault(row.pop("recipe"), []).append(row)
        counts: Counter[str] = Counter()
        try:
            for number, own in rows.items():
                self._learn(own, self.recipes[number], counts)
        except torch.OutOfMemoryError as error:  # of one alone, with the remedy: a user's to mend
            raise MemoryError(str(error)) from error
        self.reporter.finished()
        return counts_table(counts)

    def _learn(self, rows: Sequence[dict[str, Any]], recipe: Recipe, counts: Counter[str]) -> None:
        """Learns rows of `faces`, commits them as they finish, and adds to `counts` what it committed."""
        ids = {identity_id(row["face_id"], recipe, self.trainer.fingerprint): row for row in rows}
        # a block that is done again after its actor was lost: some of it may be learned already
        known = learned(self.store, list(ids))
        faces = (face_from_row(row) for identity, row in ids.items() if identity not in known)
        counts.update(faces=len(known), identities=len(known))
        waiting: list[Learned] = []
        handed, last, commit = len(known), time.monotonic(), Future[Counter[str]]()
        commit.set_result(Counter())
        waves = self.trainer.stream(
            faces,
            recipe,
            on_step=lambda done, steps: self.reporter.step(1, (handed + len(waiting)) * steps + done, steps),
        )
        with ThreadPoolExecutor(1) as committing:  # beside the next steps: a table that many write to keeps one waiting
            for wave in waves:
                waiting += wave
                if time.monotonic() - last >= COMMIT_EVERY_S:
                    counts.update(commit.result())
                    commit = committing.submit(self._commit, waiting, recipe)
                    handed, last, waiting = handed + len(waiting), time.monotonic(), []
            counts.update(commit.result())
            counts.update(self._commit(waiting, recipe))

    def _commit(self, done: Sequence[Learned], recipe: Recipe) -> Counter[str]:
        identities = [identity_row(one.identity) for one in done if one.identity is not None]
        fingerprint = self.trainer.fingerprint
        rejects = [
            diverged_row(one.face, identity_id(one.face.face_id, recipe, fingerprint), recipe)
            for one in done
            if one.identity is None
        ]
        self.store.upsert("identities", identities)
        self.store.upsert("rejects", rejects)
        counts = Counter(f"rejected_face:{row['reason']}" for row in rejects)
        counts.update(faces=len(done), identities=len(identities))
        return counts


def _new_faces(
    store: Store, pack: Pack, recipe: Recipe, summary: Summary, merge_people: bool, counts_faces: bool
) -> list[str]:
    """Ids of the faces still to be learned, which is all that the driver holds of faces."""
    plan = retried(partial(_plan, store, pack, recipe))
    new = plan.new
    if plan.lacking:
        summary.count_rejects(Counter({"rejected_face:no_consent": len(plan.lacking)}))
    if merge_people:
        faces = faces_of_pack(store, pack.name, ["face_id"])["face_id"].to_pylist()
        ids = dict(zip(faces, identity_ids(faces, recipe, pack.learning_fingerprint()), strict=True))
        known, refused = learned(store), diverged(store)
        tried = refused.hold(digests(ids.values()))
        before = {face for face, identity in ids.items() if identity in known}
        again = seen_again(store, pack, before=before, but=set(compress(ids, tried)))
        merged = {face.face_id for face in again}
        summary.merged += len(merged)
        new = [face_id for face_id in new if face_id not in merged]
    summary.identities_existing += plan.num_learned
    if counts_faces:
        summary.faces = plan.num_faces
        summary.photos = summary.photos_with_faces = plan.num_photos
        summary.skipped_existing += plan.num_faces - len(new)
    return new


@dataclass(slots=True)
class _Plan:
    new: list[str] = field(default_factory=list)  # face_ids, sorted
    lacking: list[str] = field(default_factory=list)  # face_ids that would be new, but for their consent
    num_faces: int = 0
    num_learned: int = 0
    num_photos: int = 0


def _plan(store: Store, pack: Pack, recipe: Recipe) -> _Plan:
    """What there is to learn: the faces are gone through in batches, beside what is known at 16 bytes an id."""
    plan, photos = _Plan(), list[np.ndarray]()
    known, refused = ids_known(store, "identities"), diverged(store)
    now, fingerprint = time.time(), pack.learning_fingerprint()
    asks = read_policy(store.root).require_consent  # they were prepared before it was, or it has expired
    for faces in store.batches("faces", ["face_id", "photo_id", *COLUMNS], of_pack(pack.name)):
        face_ids = faces["face_id"].to_pylist()
        ids = digests(identity_ids(face_ids, recipe, fingerprint))
        is_known = known.hold(ids)
        rows = [int(row) for row in np.flatnonzero(~is_known & ~refused.hold(ids))]
        consents = faces.select(COLUMNS).take(pa.array(rows, pa.int64())).to_pylist() if asks else [{}] * len(rows)
        for row, consent in zip(rows, consents, strict=True):
            lacks = asks and Consent.of(consent).lacking(now)
            (plan.lacking if lacks else plan.new).append(face_ids[row])
        plan.num_faces += len(face_ids)
        plan.num_learned += int(is_known.sum())
        photos.append(np.unique(digests(faces["photo_id"].to_pylist())))
    plan.new.sort()
    plan.num_photos = len(DigestSet(photos))
    return plan
