"""identities -> quality: draw a few probe pictures of each, measure them, commit. The pictures are not kept.

Networks are imported where they are needed: the driver needs none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from factory.config import AssessConfig
from factory.pack import Pack, load_pack
from factory.settings import assess_settings
from factory.store.quality import assessed, crops_of, photo_qualities
from factory.store.queries import identities_by_id, people_to_draw
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import commit_stage
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board
from pipelines.jobs.stage import Stage, counts_table, tally
from pipelines.photos.samples import assessed_samples

_DRAWN_TOGETHER: Final = 4  # people, whose pictures fill the engine
WANTED: Final = pa.schema([("identity_id", pa.string())])


def assess(
    root: str,
    pack: str | Path = "studio",
    *,
    identities: Sequence[str] | None = None,
    config: AssessConfig | None = None,
    workers: Workers = Workers(),
    within: Summary | None = None,
) -> Summary:
    """Fills `quality` with how good every identity of this pack (or the named ones) is.

    Whoever was assessed with the same settings and networks is passed over, and so is whose face is gone. Raises
    IdentityNotFound, IncompatibleIdentity or PackError before anything is done.
    """
    from factory.measure.quality import assessment_protocol

    store, loaded = Store(root), load_pack(pack)
    config = config or assess_settings(loaded)
    protocol = assessment_protocol(loaded, config)
    people = [] if identities is not None and not identities else people_to_draw(store, loaded, identities)
    with open_job("assess", store, within) as summary:
        ids = [person.identity_id for person in people]
        known = assessed(store, ids, protocol)
        new = [an_id for an_id in dict.fromkeys(ids) if an_id not in known]
        if within is None:
            summary.skipped_existing = len(known)
        if new:
            _assess(new, store, loaded, config, protocol, workers, summary)
        found = assessed(store, ids, protocol)
        summary.verdicts = dict(Counter(row["verdict"] or "no verdict" for row in found.values()))
        summary.samples += assessed_samples(store, found)
    return summary


def _assess(
    ids: Sequence[str],
    store: Store,
    pack: Pack,
    config: AssessConfig,
    protocol: str,
    workers: Workers,
    summary: Summary,
) -> None:
    connect()
    pool = model_pool(workers, at_most=len(ids), pack=pack)
    batch = min(_DRAWN_TOGETHER, -(-len(ids) // pool.size))
    board = open_board()
    chain = (
        [pa.table({"identity_id": list(ids[i : i + batch])}, WANTED) for i in range(0, len(ids), batch)],
        Stage(
            Assessor,
            [pack.portable_name(), config, protocol, store, board, pool.device, pool.threads],
            pool,
            batch,
        ),
        commit_stage(commit, store),
    )
    with Progress("assess", "identities", len(ids), partial(read_board, board)) as progress:
        for counts in tally(*chain):
            summary.assessed += counts["assessed"]
            progress.add(counts["assessed"])
    store.tidy("quality")


class Assessor:
    """Holds the base model and what measures; a batch of identities per call."""

    def __init__(
        self, pack: str, config: AssessConfig, protocol: str, store: Store, board: Board, device: str, threads: int
    ) -> None:
        import torch

        from factory.draw.images import ImageGenerator
        from factory.measure.quality import Scorer

        torch.set_num_threads(threads)
        self.generator = ImageGenerator(load_pack(pack), device=device)
        self.scorer = Scorer(self.generator.base.pack, device=device, num_threads=threads)
        self.config, self.protocol, self.store = config, protocol, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """WANTED -> rows of `quality`; without whoever was erased meanwhile, or whose face is gone."""
        from factory.measure.quality import probes

        people = identities_by_id(self.store, batch["identity_id"].to_pylist())
        crops = crops_of(self.store, people.values())
        photos = photo_qualities(self.store, list(people))
        there = [people[an_id] for an_id in crops]
        requests = [request for who in there for request in probes(who, self.generator.base.pack, self.config)]
        drawn = self.generator.generate(requests, on_step=partial(self.reporter.step, len(there))) if there else []
        self.reporter.finished()
        rows: list[dict[str, Any]] = []
        num = len(self.config.prompts) * self.config.num_seeds
        for number, who in enumerate(there):
            own = drawn[number * num : (number + 1) * num]
            photo = photos.get(who.identity_id, {}).get("score")
            crop = crops[who.identity_id]
            found = self.scorer.assess(who.identity_id, own, crop, self.config, self.protocol, photo)
            rows.append(asdict(found))
        return pa.Table.from_pylist(rows, SCHEMAS["quality"])


def commit(rows: pa.Table, store: Store) -> pa.Table:
    """Rows of `quality` -> COUNTS."""
    store.upsert("quality", rows.to_pylist())
    return counts_table(Counter(assessed=rows.num_rows))
