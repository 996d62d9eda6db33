"""images -> metrics: read all pictures of an identity, measure them together, commit.

A person's pictures travel as one row, because Face Div and Trusted Div are over pairs of them. Networks are imported
where they are needed: the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from factory.config import EvaluateConfig, GenerateConfig
from factory.ids import image_id
from factory.pack import Pack, load_pack
from factory.records import Identity, ImageRequest
from factory.settings import evaluate_settings, generate_settings
from factory.store.columns import with_columns
from factory.store.queries import faces_by_id, measured, pictures
from factory.store.rows import decode_png, image_from_row, metrics_row
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import commit_stage
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Progress
from pipelines.jobs.stage import Stage, counts_table, tally

WANTED: Final = pa.schema(
    [
        ("face_id", pa.string()),
        ("pack", pa.string()),  # that prepared the face
        ("image_ids", pa.list_(pa.string())),
    ]
)
ALBUM: Final = pa.schema(  # all there is to measure of one identity
    [("photo", pa.binary()), ("pictures", pa.list_(pa.struct(list(SCHEMAS["images"]))))]
)


def evaluate(
    root: str,
    pack: str | Path = "studio",
    *,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    identities: Sequence[str] | None = None,
    generate: GenerateConfig | None = None,
    config: EvaluateConfig | None = None,
    workers: Workers = Workers(),
) -> Summary:
    """Fills `metrics` with what each picture of every identity of this pack (or the named ones) measures.

    What was measured already is passed over. The pictures are those that `pipelines.generate` makes of these prompts,
    seeds and `generate` config; ValueError names the remedy if some are not there. Raises PackError where a measuring
    network is missing.
    """
    store, loaded = Store(root), load_pack(pack)
    generate = generate or generate_settings(loaded)
    config = config or evaluate_settings(loaded)
    if not prompts or not seeds:
        raise ValueError("give at least one prompt and one seed")
    with open_job("evaluate", store) as summary:
        from factory.measure.pictures import protocol_id

        protocol = protocol_id(loaded, prompts, seeds, generate, config)
        people = store.identities(identities)
        if identities is None:
            people = [person for person in people if person.fingerprint == loaded.fingerprint()]
        wanted = list(_wanted(people, prompts, seeds, generate, loaded.model_fingerprint()))
        _check_pictures(store, wanted)
        done = measured(store, protocol)
        new = [row for row in wanted if not done.issuperset(row["image_ids"])]
        summary.identities = len(people)
        summary.skipped_existing = sum(len(row["image_ids"]) for row in wanted) - _count(new)
        if new:
            measurer = [loaded.portable_name(), config, protocol]
            _measure(new, store, loaded, measurer, workers, summary)
    return summary


def _measure(
    rows: list[dict[str, Any]],
    store: Store,
    pack: Pack,
    measurer: list[Any],
    workers: Workers,
    summary: Summary,
) -> None:
    connect()
    pool = model_pool(workers, at_most=len(rows), pack=pack)
    chain = (
        [pa.Table.from_pylist([row], WANTED) for row in rows],
        Stage(partial(read_person, store=store), rows=1),
        Stage(Measurer, [*measurer, pool.device, pool.threads], pool, rows=1),
        commit_stage(commit, store),
    )
    with Progress("evaluate", "images", _count(rows)) as progress:
        for counts in tally(*chain):
            summary.metrics += counts["metrics"]
            progress.add(counts["metrics"])
    store.tidy("metrics")


def read_person(wanted: pa.Table, store: Store) -> pa.Table:
    """WANTED -> ALBUM; who was erased meanwhile is left out."""
    people = []
    for row in wanted.to_pylist():
        photos = faces_by_id(store, row["pack"], [row["face_id"]], ["crop"])["crop"].to_pylist()
        if not photos:
            continue
        order = {image_id: number for number, image_id in enumerate(row["image_ids"])}
        album = pictures(store, row["image_ids"]).to_pylist()
        album.sort(key=lambda picture: order[picture["image_id"]])
        people.append({"photo": photos[0], "pictures": album})
    return pa.Table.from_pylist(people, ALBUM)


class Measurer:
    """Holds the measuring networks; an identity's pictures per call."""

    def __init__(self, pack: str, config: EvaluateConfig, protocol: str, device: str, threads: int) -> None:
        import torch

        from factory.measure.pictures import PictureMeasurer

        torch.set_num_threads(threads)
        self.measurer = PictureMeasurer(load_pack(pack), config, device=device, num_threads=threads)
        self.protocol = protocol

    def __call__(self, batch: pa.Table) -> pa.Table:
        """ALBUM -> rows of `metrics`."""
        rows = []
        for person in batch.to_pylist():
            album = [image_from_row(row) for row in person["pictures"]]
            measures = self.measurer.measure(album, decode_png(person["photo"]), self.protocol)
            rows += [metrics_row(metrics) for metrics in measures]
        return pa.Table.from_pylist(rows, SCHEMAS["metrics"])


def commit(metrics: pa.Table, store: Store) -> pa.Table:
    """Rows of `metrics` -> COUNTS."""
    store.upsert_table("metrics", with_columns(metrics, SCHEMAS["metrics"]))
    return counts_table({"metrics": metrics.num_rows})


def _wanted(
    people: Sequence[Identity], prompts: Sequence[str], seeds: Sequence[int], config: GenerateConfig, model: str
) -> Iterator[dict[str, Any]]:
    """Rows of WANTED; `model` is the pack's `model_fingerprint`."""
    for identity in people:
        requests = (
            ImageRequest(identity=identity, prompt=prompt, seed=seed, config=config)
            for prompt, seed in product(prompts, seeds)
        )
        ids = list(dict.fromkeys(image_id(request, model) for request in requests))  # prompts may be given twice
        yield {"face_id": identity.face_id, "pack": identity.pack, "image_ids": ids}


def _check_pictures(store: Store, wanted: Sequence[dict[str, Any]]) -> None:
    there = store.existing_ids("images")
    missing = [image_id for row in wanted for image_id in row["image_ids"] if image_id not in there]
    if missing:
        raise ValueError(
            f"{len(missing)} of {_count(wanted)} pictures are not in {store.root} yet; "
            "run `identity-factory generate` with the same prompts, seeds and settings first"
        )


def _count(rows: Sequence[dict[str, Any]]) -> int:
    return sum(len(row["image_ids"]) for row in rows)
