"""photos -> identities: prepare and train as one job with one summary."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factory.config import EngineConfig, PrepareConfig, Recipe
from factory.pack import load_pack
from factory.store.people import same_person
from factory.store.tables import Store
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers
from pipelines.photos.persons import PersonFrom
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
    merge_people: bool = False,
    person_from: PersonFrom | None = None,
) -> Summary:
    """`prepare`, then `train` for everybody of ROOT whom this recipe has not learned, with `merge_people` and
    `person_from` as they take them. Raises what they raise."""
    loaded = load_pack(pack)
    loaded.folder(loaded.base)  # missing weights are told now, not after an hour of preparing
    if merge_people:
        same_person(loaded)
    store = Store(root)
    places = find_places(photos, store.root, person_from)  # so is a source that cannot be used
    with open_job("run", store) as summary:
        prepare(places, root, pack, config, workers=workers, within=summary)
        recipes = [recipe] if recipe else ()
        train(root, pack, recipes, engine=engine, workers=workers, merge_people=merge_people, within=summary)
    return summary
