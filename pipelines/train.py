"""faces -> identities: an actor a GPU (or the CPU) takes blocks of faces, keeps its slots full, commits what it learns.

The actor commits by itself: Ray Data hands on a generator's rows by whole blocks, so that a commit further down the
chain would come when everything is learned, and kill -9 would lose it. Networks are imported where they are needed: the
light tasks need none, and start in a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from itertools import compress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from factory.config import EngineConfig, Recipe
from factory.faces.people import of_one_person
from factory.ids import faces_key, faces_of_key, identity_id, identity_ids
from factory.pack import load_pack
from factory.records import PreparedFace
from factory.settings import train_settings
from factory.store.queries import faces_by_id, learned
from factory.store.rows import diverged_row, face_from_row, identity_row
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import shared
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board
from pipelines.jobs.stage import Stage, counts_table, tally
from pipelines.photos.unlearned import find_new_people

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
    only: Collection[str] | None = None,
    as_told: bool = False,
    within: Summary | None = None,
) -> Summary:
    """Learns every face of `faces` that this pack prepared and that these recipes have not learned yet; faces of whom
    it was told that they are one person's together, and those of uploads not at all (factory/store/told.py).

    Without `recipes` the paper's is used, with what the pack needs otherwise. Several are learned in one job: its
    trainers start once. Faces that are learned together share their recipe, so a block of faces has one; a recipe that
    is given twice is learned once. `engine` is how it runs on the hardware, `workers` are the trainers. With
    `merge_people` one face of each person is learned, the largest if none is yet; the others stay in `faces`. `only`
    are the `faces_key`s of those who are learned; None: all. Of photos that are told to be one person's those that
    surely show somebody else (the pack's `other_person`) are rejects, and not learned, unless `as_told`.

    Raises:
        PackError: the base model is missing, or `merge_people` and the pack knows no likeness; nothing has been done.
    """
    store, loaded = Store(root), load_pack(pack)
    loaded.folder(loaded.base)
    recipes = recipes or [train_settings(loaded)]
    recipes = list({(recipe.method, recipe.train): recipe for recipe in recipes}.values())
    with open_job("train", store, within) as summary:
        how = (merge_people, within is None, as_told, only)
        new = [find_new_people(store, loaded, recipe, summary, *how) for recipe in recipes]
        num_new = sum(map(len, new))
        if not num_new:
            return summary
        connect()
        store = shared(store)
        pool = model_pool(workers, at_most=-(-num_new // _WORTH_A_WORKER), pack=loaded)
        num_faces = sum(len(faces_of_key(key)) for keys in new for key in keys)
        batch = min(-(-faces_per_block * num_new // num_faces), -(-num_new // pool.size), max(map(len, new)))
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
    """People by their `faces_key`, and the number of the recipe each is to be learned by -> `faces`, a list of a
    person's rows of that table, and that number. A person of whom a face was erased meanwhile is left out."""
    keys = [faces_of_key(key) for key in wanted["faces"].to_pylist()]
    found = faces_by_id(store, pack, list(dict.fromkeys(face for key in keys for face in key)))
    row_of = {face_id: row for row, face_id in enumerate(found["face_id"].to_pylist())}
    there = [all(face in row_of for face in key) for key in keys]
    whole = list(compress(keys, there))
    rows = found.take(pa.array([row_of[face] for key in whole for face in key], pa.int64())).combine_chunks()
    ends = np.cumsum([0, *map(len, whole)])
    people = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), rows.to_struct_array().combine_chunks())
    return pa.table({"faces": people, "recipe": wanted["recipe"].filter(pa.array(there, pa.bool_()))})


def _blocks(new: Sequence[Sequence[str]], size: int) -> Iterator[pa.Table]:
    """Blocks of at most `size` people who are learned by the same recipe; `new` has their `faces_key` for each
    recipe."""
    for number, keys in enumerate(new):
        for first in range(0, len(keys), size):
            own = keys[first : first + size]
            yield pa.table({"faces": own, "recipe": [number] * len(own)})


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
        """People's rows of `faces` with the number of their recipe -> COUNTS, once all of them are committed.

        Raises MemoryError if one of them alone does not fit.
        """
        import torch

        people: dict[int, list[list[dict[str, Any]]]] = {}
        for row in batch.to_pylist():
            people.setdefault(row["recipe"], []).append(row["faces"])
        counts: Counter[str] = Counter()
        try:
            for number, own in people.items():
                self._learn(own, self.recipes[number], counts)
        except torch.OutOfMemoryError as error:  # of one alone, with the remedy: a user's to mend
            raise MemoryError(str(error)) from error
        self.reporter.finished()
        return counts_table(counts)

    def _learn(self, people: Sequence[list[dict[str, Any]]], recipe: Recipe, counts: Counter[str]) -> None:
        """Learns people by their rows of `faces`, commits them as they finish, and adds to `counts` what it
        committed."""
        keys = [faces_key(row["face_id"] for row in rows) for rows in people]
        ids = dict(zip(identity_ids(keys, recipe, self.trainer.fingerprint), people, strict=True))
        # a block that is done again after its actor was lost: some of it may be learned already
        known = learned(self.store, list(ids))
        faces = (_person(rows) for identity, rows in ids.items() if identity not in known)
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
            diverged_row(one.face, identity_id(one.face.face_id, recipe, fingerprint, one.face.face_ids[1:]), recipe)
            for one in done
            if one.identity is None
        ]
        self.store.upsert("identities", identities)
        self.store.upsert("rejects", rejects)
        counts = Counter(f"rejected_face:{row['reason']}" for row in rejects)
        counts.update(faces=len(done), identities=len(identities))
        return counts


def _person(rows: Sequence[dict[str, Any]]) -> PreparedFace:
    """Rows of `faces` -> what is learned of them; somebody whose photos were told is called so."""
    face = of_one_person([face_from_row(row) for row in rows])
    return replace(face, name=rows[0]["person"] or face.name)
