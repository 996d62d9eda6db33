"""faces -> identities: read a pack of faces, learn them together on one GPU (or the CPU), commit.

Networks are imported where they are needed: the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import ray

from factory.config import MethodConfig, TrainConfig
from factory.pack import Pack, load_pack
from factory.records import PreparedFace, Reject
from factory.rows import SCHEMAS, face_from_row, identity_row, reject_row
from factory.settings import train_settings
from factory.tables import Store, where_in
from pipelines.job import LIGHT, Summary, connect, counts_table, model_pool, open_job, portable_name, tally
from pipelines.progress import Board, Progress, StepReporter, open_board, read_board

FACES_PER_PACK: Final = 16  # identities learned together; bounded by memory on a GPU, by saving often on a CPU
LEARNED: Final = pa.schema(
    [
        ("identities", pa.list_(pa.struct(list(SCHEMAS["identities"])))),
        ("rejects", pa.list_(pa.struct(list(SCHEMAS["rejects"])))),
    ]
)


def train(
    root: str,
    pack: str | Path = "studio",
    *,
    preset: str = "paper",
    method: MethodConfig | None = None,
    train: TrainConfig | None = None,
    workers: int | None = None,
    faces_per_pack: int = FACES_PER_PACK,
    within: Summary | None = None,
) -> Summary:
    """Learns every face of `faces` that this pack prepared and these settings have not learned yet.

    Without `method` and `train` the preset's are used, with what the pack needs otherwise. `workers` is the number of
    trainers (default: one per GPU, or one). Raises PackError, before anything is done, if the base model is missing.
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
        pool = model_pool(workers)
        batch = min(faces_per_pack, -(-len(new) // pool.size))
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
                fn_constructor_args=[portable_name(loaded), preset, method, train, board, pool.device, pool.threads],
                batch_size=batch,
                batch_format="pyarrow",
                compute=pool.strategy,
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
            )
            .map_batches(partial(commit, store=store), batch_size=None, batch_format="pyarrow", num_cpus=LIGHT)
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
    """Holds the frozen base model; learns a pack of identities per call."""

    def __init__(
        self,
        pack: str,
        preset: str,
        method: MethodConfig,
        train: TrainConfig,
        board: Board,
        device: str,
        threads: int,
    ) -> None:
        import torch

        from factory.diffusion import DiffusionBase
        from factory.train import Trainer

        torch.set_num_threads(threads)
        self.trainer = Trainer(DiffusionBase.load(load_pack(pack), device=device))
        self.preset, self.method, self.train = preset, method, train
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `faces` -> LEARNED."""
        faces = [face_from_row(row) for row in batch.to_pylist()]
        identities = self.trainer.train(
            faces,
            preset=self.preset,
            method=self.method,
            train=self.train,
            on_step=partial(self.reporter.step, len(faces)),
        )
        self.reporter.finished()
        learned = {identity.face_id for identity in identities}
        row = {
            "identities": [identity_row(identity) for identity in identities],
            "rejects": [self._diverged(face) for face in faces if face.face_id not in learned],
        }
        return pa.Table.from_pylist([row], LEARNED)

    def _diverged(self, face: PreparedFace) -> dict[str, str]:
        from factory.train import identity_id

        fingerprint = self.trainer.base.fingerprint
        return reject_row(
            Reject(
                # the identity's own id: other settings may succeed
                reject_id=identity_id(face.face_id, self.method, self.train, fingerprint),
                photo_id=face.photo_id,
                name=face.name,
                pack=face.pack,
                stage="train",
                reason="diverged",
                detail=f"words are not finite after {self.train.num_steps} steps of rate {self.train.learning_rate:g}",
            )
        )


def commit(learned: pa.Table, store: Store) -> pa.Table:
    """LEARNED -> COUNTS."""
    packs = learned.to_pylist()
    identities = [row for pack in packs for row in pack["identities"]]
    rejects = [row for pack in packs for row in pack["rejects"]]
    store.upsert("identities", identities)
    store.upsert("rejects", rejects)
    counts = Counter(f"rejected_face:{row['reason']}" for row in rejects)
    return counts_table({**counts, "identities": len(identities), "faces": len(identities) + len(rejects)})


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
