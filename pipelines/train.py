"""faces -> identities: an actor a GPU (or the CPU) takes blocks of faces, keeps its slots full, commits what it learns.

The actor commits by itself: Ray Data hands on a generator's rows by whole blocks, so that a commit further down the
chain would come when everything is learned, and kill -9 would lose it. Networks are imported where they are needed: the
light tasks need none, and start in a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa
import ray

from factory.config import EngineConfig, MethodConfig, TrainConfig
from factory.pack import Pack, load_pack
from factory.records import PreparedFace, Reject
from factory.rows import face_from_row, identity_row, reject_row
from factory.settings import train_settings
from factory.tables import Store, where_in
from pipelines.job import LIGHT, Summary, connect, counts_table, open_job, portable_name, tally
from pipelines.pools import model_pool
from pipelines.progress import Board, Progress, StepReporter, open_board, read_board

if TYPE_CHECKING:
    from factory.train import Learned

FACES_PER_BLOCK: Final = 128  # an actor's slots run empty once a block, and its crops (0.5 MB at 512 px) are in memory
COMMIT_EVERY_S: Final = 10.0  # at least between two commits of an actor: hundreds of actors share one table


def train(
    root: str,
    pack: str | Path = "studio",
    *,
    preset: str = "paper",
    method: MethodConfig | None = None,
    train: TrainConfig | None = None,
    engine: EngineConfig | None = None,
    workers: int | None = None,
    gpus: float | None = None,
    faces_per_block: int = FACES_PER_BLOCK,
    within: Summary | None = None,
) -> Summary:
    """Learns every face of `faces` that this pack prepared and these settings have not learned yet.

    Without `method` and `train` the preset's are used, with what the pack needs otherwise; `engine` is how it runs on
    the hardware. `workers` is the number of trainers (default: one per GPU, or one), `gpus` what each takes of a GPU.

    Raises:
        PackError: the base model is missing; nothing has been done then.
    """
    store, loaded = Store(root), load_pack(pack)
    loaded.folder(loaded.base)
    if method is None or train is None:
        preset, method_default, train_default = train_settings(loaded, "release" if preset == "release" else "paper")
        method, train = method or method_default, train or train_default
    with open_job("train", store, within) as summary:
        new = _new_faces(store, loaded, method, train, summary, counts_faces=within is None)
        if not new:
            return summary
        connect()
        pool = model_pool(workers, gpus)
        batch = min(faces_per_block, -(-len(new) // pool.size))
        board = open_board()
        chain = (
            ray.data.from_arrow([pa.table({"face_id": new[i : i + batch]}) for i in range(0, len(new), batch)])
            .map_batches(
                partial(read_faces, store=store, pack=loaded.name),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=LIGHT,
            )
            .map_batches(
                IdentityTrainer,
                fn_constructor_args=[
                    *(portable_name(loaded), preset, method, train, engine or EngineConfig()),
                    *(store, board, pool.device, pool.threads),
                ],
                batch_size=batch,
                batch_format="pyarrow",
                compute=pool.strategy,
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
            )
        )
        with Progress("train", "identities", len(new), partial(read_board, board)) as progress:
            for counts in tally(chain):
                summary.identities += counts["identities"]
                summary.count_rejects(counts)
                progress.add(counts["faces"])
        store.tidy("identities")
    return summary


def read_faces(ids: pa.Table, store: Store, pack: str) -> pa.Table:
    """Rows of `faces`."""
    face_ids = ids["face_id"].to_pylist()
    return store.read("faces", where=f"{where_in('face_id', face_ids)} AND {where_in('pack', [pack])}")


class IdentityTrainer:
    """Holds the frozen base model; learns a block of faces per call."""

    def __init__(
        self,
        pack: str,
        preset: str,
        method: MethodConfig,
        train: TrainConfig,
        engine: EngineConfig,
        store: Store,
        board: Board,
        device: str,
        threads: int,
    ) -> None:
        import torch

        from factory.train import load_trainer

        torch.set_num_threads(threads)
        self.trainer = load_trainer(load_pack(pack), device=device, engine=engine)
        self.preset, self.method, self.train, self.store = preset, method, train, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `faces` -> COUNTS, once all of them are committed."""
        rows = {self._id(row["face_id"]): row for row in batch.to_pylist()}
        # a block that is done again after its actor was lost: some of it may be learned already
        known = self.store.existing_ids("identities", where=where_in("identity_id", list(rows)))
        faces = (face_from_row(row) for identity, row in rows.items() if identity not in known)
        counts = Counter(faces=len(known), identities=len(known))
        waiting: list[Learned] = []
        last = time.monotonic()
        waves = self.trainer.stream(
            faces,
            preset=self.preset,
            method=self.method,
            train=self.train,
            on_step=lambda done, steps: self.reporter.step(1, (counts["faces"] + len(waiting)) * steps + done, steps),
        )
        for wave in waves:
            waiting += wave
            if time.monotonic() - last >= COMMIT_EVERY_S:
                counts += self._commit(waiting)
                waiting.clear()
                last = time.monotonic()
        counts += self._commit(waiting)
        self.reporter.finished()
        return counts_table(counts)

    def _commit(self, learned: Sequence[Learned]) -> Counter[str]:
        identities = [identity_row(one.identity) for one in learned if one.identity is not None]
        rejects = [reject_row(self._diverged(one.face)) for one in learned if one.identity is None]
        self.store.upsert("identities", identities)
        self.store.upsert("rejects", rejects)
        counts = Counter(f"rejected_face:{row['reason']}" for row in rejects)
        return counts + Counter(faces=len(learned), identities=len(identities))

    def _diverged(self, face: PreparedFace) -> Reject:
        return Reject(
            reject_id=self._id(face.face_id),  # the identity's own id: other settings may succeed
            photo_id=face.photo_id,
            name=face.name,
            pack=face.pack,
            stage="train",
            reason="diverged",
            detail=f"words are not finite after training at a rate of {self.train.learning_rate:g}",
        )

    def _id(self, face_id: str) -> str:
        from factory.train import identity_id

        return identity_id(face_id, self.method, self.train, self.trainer.base.fingerprint)


def _new_faces(
    store: Store, pack: Pack, method: MethodConfig, train: TrainConfig, summary: Summary, *, counts_faces: bool
) -> list[str]:
    """Ids of the faces still to be learned; ids are all the driver holds."""
    from factory.train import identity_id

    faces = store.read("faces", columns=["face_id", "photo_id"], where=where_in("pack", [pack.name]))
    fingerprint = pack.fingerprint()
    known = store.existing_ids("identities")
    refused = store.existing_ids("rejects", where="stage = 'train'")
    face_ids: list[str] = faces["face_id"].to_pylist()
    ids = {face_id: identity_id(face_id, method, train, fingerprint) for face_id in face_ids}
    new = sorted(face_id for face_id, identity in ids.items() if identity not in known and identity not in refused)
    summary.identities_existing = sum(identity in known for identity in ids.values())
    if counts_faces:
        summary.faces = len(face_ids)
        summary.photos = summary.photos_with_faces = len(set(faces["photo_id"].to_pylist()))
        summary.skipped_existing = len(face_ids) - len(new)
    return new
