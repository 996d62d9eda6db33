"""What becomes of identities that are not good enough: they stay, are learned again with another seed, or are refused.

What is refused is a row of `rejects` first and goes then, so whatever is killed meanwhile is gone through again, and a
second run does nothing twice.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from factory.config import EngineConfig, Recipe
from factory.ids import faces_key, recipe_json
from factory.pack import Pack, load_pack
from factory.settings import assess_settings
from factory.store.quality import assessed
from factory.store.rows import low_quality_row
from factory.store.sql import where_in
from factory.store.tables import Store
from factory.store.told import UPLOADED
from pipelines.assess import assess
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers
from pipelines.train import train

Below = Literal["keep", "again", "reject"]
_COLUMNS: Final = ["identity_id", "face_id", "photo_id", "name", "pack", "more_faces", "consent_expires"]


def sift(
    root: str,
    pack: str | Path,
    recipe: Recipe,
    min_quality: float,
    below: Below = "again",
    *,
    engine: EngineConfig | None = None,
    workers: Workers = Workers(),
    within: Summary | None = None,
) -> Summary:
    """Assesses the identities of a recipe, also those that an earlier job learned, and sees to those of less quality.

    `again` learns them with the recipe's next seed and keeps the better one of the two, `reject` gives them up, `keep`
    only tells. Whoever was learned from an upload is only told of, too. Raises PackError if the pack does not say what
    good ones reach.
    """
    from factory.measure.quality import assessment_protocol, check_measures

    store, loaded = Store(root), load_pack(pack)
    check_measures(loaded)
    protocol = assessment_protocol(loaded, assess_settings(loaded))
    with open_job("assess", store, within) as summary:
        first = _of_recipe(store, loaded, recipe)
        assess(root, pack, identities=list(first), workers=workers, within=summary)
        low = _below(assessed(store, list(first), protocol), min_quality)
        mine = where_in("face_id", sorted(first[an_id]["face_id"] for an_id in low))
        uploads = store.existing_ids("faces", where=f"{mine} AND uri = '{UPLOADED}'")
        low = {an_id: quality for an_id, quality in low.items() if first[an_id]["face_id"] not in uploads}
        if below == "reject":
            _give_up(store, first, low, f"{min_quality:g} is the least", summary)
        if below == "again" and low:
            other_seed = recipe.train.model_copy(update={"seed": recipe.train.seed + 1})
            second = recipe.model_copy(update={"train": other_seed})
            keys = {_key(first[an_id]) for an_id in low}
            train(root, pack, [second], engine=engine, workers=workers, only=keys, within=summary)
            others = {an_id: row for an_id, row in _of_recipe(store, loaded, second).items() if _key(row) in keys}
            assess(root, pack, identities=list(others), workers=workers, within=summary)
            _keep_better(store, first | others, low, assessed(store, list(others), protocol), summary)
            first |= others
        left = assessed(store, list(first), protocol)  # of whoever was given up the row is gone
        summary.verdicts = dict(Counter(row["verdict"] for row in left.values()))
        summary.below = len(_below(left, min_quality))
    return summary


def _of_recipe(store: Store, pack: Pack, recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Identities that a recipe and a pack gave, by id; without those who must not be drawn any more."""
    now = time.time()
    where = f"{where_in('config', [recipe_json(recipe)])} AND {where_in('fingerprint', [pack.fingerprint()])}"
    rows = store.read("identities", columns=_COLUMNS, where=where).to_pylist()
    rows = [row for row in rows if row["consent_expires"] is None or row["consent_expires"] > now]
    return {row["identity_id"]: row for row in rows if row["pack"] == pack.name}


def _key(row: Mapping[str, Any]) -> str:
    return faces_key([row["face_id"], *(row["more_faces"] or ())])


def _below(rows: Mapping[str, Mapping[str, Any]], least: float) -> dict[str, float]:
    return {an_id: row["quality"] for an_id, row in rows.items() if row["quality"] < least}


def _keep_better(
    store: Store,
    people: Mapping[str, Mapping[str, Any]],
    low: Mapping[str, float],
    others: Mapping[str, Mapping[str, Any]],
    summary: Summary,
) -> None:
    """Of everybody the better one of two identities."""
    of_key = {_key(people[an_id]): (an_id, row["quality"]) for an_id, row in others.items()}
    for an_id, quality in low.items():
        if (key := _key(people[an_id])) not in of_key:
            continue  # refused by an earlier job, diverged, or erased
        other, others_quality = of_key[key]
        better = others_quality > quality
        worse = {an_id: quality} if better else {other: others_quality}
        _give_up(store, people, worse, f"another seed gave {max(quality, others_quality):.2f}", None)
        summary.relearned += better


def _give_up(
    store: Store,
    people: Mapping[str, Mapping[str, Any]],
    low: Mapping[str, float],
    why: str,
    summary: Summary | None,
) -> None:
    rejects = [low_quality_row(people[an_id], quality, why) for an_id, quality in low.items()]
    store.upsert("rejects", rejects)
    for table in ("quality", "identities"):
        if low:
            store.delete(table, where_in("identity_id", list(low)))
    if summary is not None and low:
        summary.count_rejects(Counter({"rejected_face:low_quality": len(low)}))
