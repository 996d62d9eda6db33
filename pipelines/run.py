"""photos -> identities: prepare and train as one job with one summary."""

from __future__ import annotations

from pathlib import Path

from factory.config import EngineConfig, MethodConfig, PrepareConfig, TrainConfig
from factory.pack import load_pack
from factory.store.tables import Store
from pipelines.jobs.job import Summary, open_job
from pipelines.prepare import prepare
from pipelines.train import train as train_faces


def run(
    photos: str,
    root: str,
    pack: str | Path = "studio",
    *,
    config: PrepareConfig | None = None,
    preset: str = "paper",
    method: MethodConfig | None = None,
    train: TrainConfig | None = None,
    engine: EngineConfig | None = None,
    workers: int | None = None,
    gpus: float | None = None,
) -> Summary:
    """`prepare`, then `train` for every face of ROOT that these settings have not learned. Raises what they raise."""
    loaded = load_pack(pack)
    loaded.folder(loaded.base)  # missing weights are told now, not after an hour of preparing
    with open_job("run", Store(root)) as summary:
        prepare(photos, root, pack, config, readers=workers, gpus=gpus, within=summary)
        train_faces(
            root,
            pack,
            preset=preset,
            method=method,
            train=train,
            engine=engine,
            workers=workers,
            gpus=gpus,
            within=summary,
        )
    return summary
