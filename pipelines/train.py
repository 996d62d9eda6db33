"""faces -> identities: an actor a GPU (or the CPU) takes blocks of faces, keeps its slots full, commits what it learns.

The actor commits by itself: Ray Data hands on a generator's rows by whole blocks, so that a commit further down the
chain would come when everything is learned, and kill -9 would lose it. Networks are imported where they are needed: the
light tasks need none, and start in a second.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa
import ray

from factory.config import EngineConfig, MethodConfig, TrainConfig
from factory.ids import identity_id
from factory.pack import Pack, load_pack
from factory.records import PreparedFace, Reject
from factory.settings import train_settings
from factory.store.rows import face_from_row, identity_row, reject_row
from factory.store.tables import Store, where_in
from pipelines.jobs.job import Summary, connect, counts_table, open_job, tally
from pipelines.jobs.pools import LIGHT, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board

if TYPE_CHECKING:
    from factory.learn.trainer import Learned

FACES_PER_BLOCK: Final = 128  # an actor's slots run empty once a block, and its crops (0.5 MB at 512 px) are in memory
_WORTH_A_WORKER: Final = 4  # faces; a smaller batch takes longer than it saves
COMMIT_EVERY_S: Final = 10.0  # at least between two commits of an actor: hundreds of actors share one table
Settings: TypeAlias = tuple[str, MethodConfig, TrainConfig]  # of `factory.settings.train_settings`: a label and configs


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

    Without `method` and `train` the preset's are used, with what the pack needs otherwise; with another `method` the
    preset is recorded as "custom". `engine` is how it runs on the hardware. `workers` is the number of trainers
    (default: one per GPU, or core), `gpus` what each takes of a GPU.

    Raises:
        PackError: the base model is missing; nothing has been done then.
    """
    loaded = load_pack(pack)
    if method is None or train is None:
        preset, method_default, train_default = train_settings(loaded, preset)
        preset = preset if method in (None, method_default) else "custom"
        method, train = method or method_default, train or train_default
    settings: list[Settings] = [(preset, method, train)]
    return train_each(
        root,
        pack,
        settings,
        engine=engine,
        workers=workers,
        gpus=gpus,
        faces_per_block=faces_per_block,
        within=within,
    )


def train_each(
    root: str,
    pack: str | Path,
    settings: Sequence[Settings],
    *,
    engine: EngineConfig | None = None,
    workers: int | None = None,
    gpus: float | None = None,
    faces_per_block: int = FACES_PER_BLOCK,
    within: Summary | None = None,
) -> Summary:
    """As `train`, with each of several settings in one job: its trainers start once. Faces that are learned together
    share their settings, so a block of faces has one. Settings that are given twice are learned once."""
    store, loaded = Store(root), load_pack(pack)
    loaded.folder(loaded.base)
    settings = list({(method, train): (label, method, train) for label, method, train in settings}.values())
    with open_job("train", store, within) as summary:
        new = [
            _new_faces(store, loaded, method, train, summary, counts_faces=within is None)
            for _, method, train in settings
        ]
        num_new = sum(map(len, new))
        if not num_new:
            return summary
        connect()
        pool = model_pool(workers, gpus, at_most=-(-num_new // _WORTH_A_WORKER), pack=loaded)
        batch = min(faces_per_block, -(-num_new // pool.size), max(map(len, new)))
        board = open_board()
        chain = (
            ray.data.from_arrow(list(_blocks(new, batch)))
            .map_batches(
                partial(read_faces, store=store, pack=loaded.name),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=LIGHT,
            )
            .map_batches(
                IdentityTrainer,
                fn_constructor_args=[
                    *(loaded.portable_name(), settings, engine or EngineConfig()),
                    *(store, board, pool.device, pool.threads),
                ],
                batch_size=batch,
                batch_format="pyarrow",
                compute=pool.strategy,
                num_cpus=pool.num_cpus,
                num_gpus=pool.num_gpus,
            )
        )
        with Progress("train", "identities", num_new, partial(read_board, board)) as progress:
            for counts in tally(chain):
                summary.identities += counts["identities"]
                summary.count_rejects(counts)
                progress.add(counts["faces"])
        store.tidy("identities")
    return summary


def read_faces(wanted: pa.Table, store: Store, pack: str) -> pa.Table:
    """Faces by id and the number of the settings each is to be learned with -> rows of `faces`, and that number."""
    face_ids = wanted["face_id"].to_pylist()
    faces = store.read("faces", where=f"{where_in('face_id', face_ids)} AND {where_in('pack', [pack])}")
    row_of = {face_id: row for row, face_id in enumerate(faces["face_id"].to_pylist())}
    there = [face_id in row_of for face_id in face_ids]  # somebody may have been erased meanwhile
    rows = [row_of[face_id] for face_id in face_ids if face_id in row_of]
    return faces.take(pa.array(rows, pa.int64())).append_column("settings", wanted["settings"].filter(pa.array(there)))


def _blocks(new: Sequence[Sequence[str]], size: int) -> Iterator[pa.Table]:
    """Blocks of at most `size` faces that are learned with the same settings; `new` has face ids for each settings."""
    for number, face_ids in enumerate(new):
        for first in range(0, len(face_ids), size):
            own = face_ids[first : first + size]
            yield pa.table({"face_id": own, "settings": [number] * len(own)})


class IdentityTrainer:
    """Holds the frozen base model; learns a block of faces per call."""

    def __init__(
        self,
        pack: str,
        settings: Sequence[Settings],
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
        self.settings, self.store = settings, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Rows of `faces` with the number of their settings -> COUNTS, once all of them are committed."""
        rows: dict[int, list[dict[str, Any]]] = {}
        for row in batch.to_pylist():
            rows.setdefault(row.pop("settings"), []).append(row)
        counts: Counter[str] = Counter()
        for number, own in rows.items():
            self._learn(own, self.settings[number], counts)
        self.reporter.finished()
        return counts_table(counts)

    def _learn(self, rows: Sequence[dict[str, Any]], settings: Settings, counts: Counter[str]) -> None:
        """Learns rows of `faces`, commits them as they finish, and adds to `counts` what it committed."""
        preset, method, train = settings
        ids = {identity_id(row["face_id"], method, train, self.trainer.fingerprint): row for row in rows}
        # a block that is done again after its actor was lost: some of it may be learned already
        known = self.store.existing_ids("identities", where=where_in("identity_id", list(ids)))
        faces = (face_from_row(row) for identity, row in ids.items() if identity not in known)
        counts.update(faces=len(known), identities=len(known))
        waiting: list[Learned] = []
        last = time.monotonic()
        waves = self.trainer.stream(
            faces,
            preset=preset,
            method=method,
            train=train,
            on_step=lambda done, steps: self.reporter.step(1, (counts["faces"] + len(waiting)) * steps + done, steps),
        )
        for wave in waves:
            waiting += wave
            if time.monotonic() - last >= COMMIT_EVERY_S:
                counts.update(self._commit(waiting, settings))
                waiting.clear()
                last = time.monotonic()
        counts.update(self._commit(waiting, settings))

    def _commit(self, learned: Sequence[Learned], settings: Settings) -> Counter[str]:
        identities = [identity_row(one.identity) for one in learned if one.identity is not None]
        rejects = [reject_row(self._diverged(one.face, settings)) for one in learned if one.identity is None]
        self.store.upsert("identities", identities)
        self.store.upsert("rejects", rejects)
        counts = Counter(f"rejected_face:{row['reason']}" for row in rejects)
        counts.update(faces=len(learned), identities=len(identities))
        return counts

    def _diverged(self, face: PreparedFace, settings: Settings) -> Reject:
        _, method, train = settings
        return Reject(
            # the identity's own id: other settings may succeed
            reject_id=identity_id(face.face_id, method, train, self.trainer.fingerprint),
            photo_id=face.photo_id,
            name=face.name,
            pack=face.pack,
            stage="train",
            reason="diverged",
            detail=f"words are not finite after training at a rate of {train.learning_rate:g}; "
            "`train --set seed=1`, or another learning_rate, learns it anew; precision=float32 does so more exactly",
        )


def _new_faces(
    store: Store, pack: Pack, method: MethodConfig, train: TrainConfig, summary: Summary, *, counts_faces: bool
) -> list[str]:
    """Ids of the faces still to be learned; ids are all the driver holds."""
    faces = store.read("faces", columns=["face_id", "photo_id"], where=where_in("pack", [pack.name]))
    fingerprint = pack.learning_fingerprint()
    known = store.existing_ids("identities")
    refused = store.existing_ids("rejects", where="stage = 'train'")
    face_ids: list[str] = faces["face_id"].to_pylist()
    ids = {face_id: identity_id(face_id, method, train, fingerprint) for face_id in face_ids}
    new = sorted(face_id for face_id, identity in ids.items() if identity not in known and identity not in refused)
    summary.identities_existing += sum(identity in known for identity in ids.values())
    if counts_faces:
        summary.faces = len(face_ids)
        summary.photos = summary.photos_with_faces = len(set(faces["photo_id"].to_pylist()))
        summary.skipped_existing += len(face_ids) - len(new)
    return new
