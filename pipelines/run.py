"""photos -> identities: prepare and train as one job with one summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factory.config import EngineConfig, PrepareConfig, Recipe
from factory.pack import load_pack
from factory.store.tables import Store
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers
from pipelines.photos.sources import find_places
from pipelines.prepare import prepare
from pipelines.train import train


def run(
    photos: str | Sequence[str],
    root: str,
    pack: str | Path = "studio",
    recipe: Recipe | None = None,
    *,
    config: PrepareConfig | None = None,
    engine: EngineConfig | None = None,
    workers: Workers = Workers(),
) -> Summary:
    """`prepare`, then `train` for every face of ROOT that this recipe has not learned. Raises what they raise."""
    loaded = load_pack(pack)
    loaded.folder(loaded.base)  # missing weights are told now, not after an hour of preparing
    store = Store(root)
    places = find_places(photos, store.root)  # so is a source that cannot be used
    with open_job("run", store) as summary:
        prepare(places, root, pack, config, workers=workers, within=summary)
        train(root, pack, [recipe] if recipe else (), engine=engine, workers=workers, within=summary)
    return summary
