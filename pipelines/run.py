"""photos -> identities: prepare and train as one job with one summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from factory.config import EngineConfig, PrepareConfig, Recipe
from factory.pack import load_pack
from factory.settings import train_settings
from factory.store.people import same_person
from factory.store.tables import Store
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers
from pipelines.photos.persons import PersonFrom
from pipelines.photos.places import find_places
from pipelines.prepare import prepare
from pipelines.sift import Below, sift
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
    merge_people: bool = False,
    person_from: PersonFrom | None = None,
    as_told: bool = False,
    min_quality: float | None = None,
    below: Below = "again",
) -> Summary:
    """`prepare`, then `train` for everybody of ROOT whom this recipe has not learned, with `merge_people`,
    `person_from` and `as_told` as they take them; with `min_quality` then `sift`. Raises what they raise."""
    loaded = load_pack(pack)
    loaded.folder(loaded.base)  # missing weights are told now, not after an hour of preparing
    if merge_people:
        same_person(loaded)
    if min_quality is not None:
        from factory.measure.quality import check_measures  # networks

        check_measures(loaded)
    store = Store(root)
    places = find_places(photos, store.root, person_from)  # so is a source that cannot be used
    with open_job("run", store) as summary:
        prepare(places, root, pack, config, workers=workers, within=summary)
        recipes = [recipe] if recipe else ()
        how: dict[str, Any] = {"merge_people": merge_people, "as_told": as_told, "within": summary}
        train(root, pack, recipes, engine=engine, workers=workers, **how)
        if min_quality is not None:
            own = recipe or train_settings(loaded)
            sift(root, pack, own, min_quality, below, engine=engine, workers=workers, within=summary)
    return summary
