"""identities x prompts -> models: look the identities up, sculpt each head, commit it.

A head takes minutes, so the worker keeps checkpoints in a table of their own: whoever does the head next goes on from
there, and erasing a person reaches them. Networks are imported where they are needed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, get_args

import pyarrow as pa

from factory.config import SculptConfig
from factory.draw.compose import check_views
from factory.ids import model_id
from factory.pack import Pack, load_pack
from factory.records import Identity, SculptRequest
from factory.settings import sculpt_settings
from factory.store.queries import (
    checkpoint_of,
    drop_checkpoints,
    heads,
    identities_by_id,
    keep_checkpoint,
    people_to_draw,
    sculpt_request,
)
from factory.store.rows import model_row
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import shared
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board
from pipelines.jobs.stage import Stage, counts_table, tally

if TYPE_CHECKING:
    from factory.draw.splat_files import HeadFormat, SplatFormat

CHECKPOINT_EVERY_S: Final = 30.0  # of a worker
REQUEST: Final = pa.schema(
    [SCHEMAS["models"].field(column) for column in ("model_id", "identity_id", "name", "prompt")]
)


def sculpt(
    root: str,
    pack: str | Path = "studio",
    *,
    prompts: Sequence[str],
    identities: Sequence[str] | None = None,
    config: SculptConfig | None = None,
    workers: Workers = Workers(),
    out: str | Path | None = None,
    file_format: SplatFormat = "ply",
) -> Summary:
    """Fills `models` with every identity (or the named ones) in every prompt, where not there yet.

    With `out` the heads asked for are also written there, as <name>-<model_id>.ply (.spz, .glb) and .mp4.
    Raises IdentityNotFound, IncompatibleIdentity, PackError, or ValueError for views that the pack's pose control does
    not know, before anything is done.
    """
    store, loaded = Store(root), load_pack(pack)
    loaded.folder(loaded.base)
    config = config or sculpt_settings()
    check_views(loaded, config)
    if not prompts:
        raise ValueError("give at least one prompt")
    people = people_to_draw(store, loaded, identities)
    with open_job("sculpt", store) as summary:
        summary.identities = len(people)
        wanted = list({row["model_id"]: row for row in _requests(people, prompts, config, loaded)}.values())
        known = store.existing_ids("models")
        new = [row for row in wanted if row["model_id"] not in known]
        summary.skipped_existing = len(wanted) - len(new)
        if new:
            _make(new, store, loaded, config, workers, summary)
        # a job that was killed between the two left them
        drop_checkpoints(store, [row["model_id"] for row in wanted if row["model_id"] in known])
        if out is not None:
            asked = [row["model_id"] for row in wanted]
            write_heads(store, asked, Path(out), file_format)
            write_heads(store, asked, Path(out), "mp4")
    return summary


def _make(
    rows: list[dict[str, Any]], store: Store, pack: Pack, config: SculptConfig, workers: Workers, summary: Summary
) -> None:
    connect()
    store = shared(store)
    pool = model_pool(workers, at_most=len(rows), pack=pack)
    board = open_board()
    arguments = [pack.portable_name(), config, store, board, pool.device, pool.threads]
    blocks = [pa.Table.from_pylist([row], REQUEST) for row in rows]
    with Progress("sculpt", "models", len(rows), partial(read_board, board)) as progress:
        for counts in tally(blocks, Stage(HeadSculptor, arguments, pool, 1)):
            summary.models += counts["models"]
            progress.add(counts["done"])
    store.tidy("models")
    store.tidy("checkpoints")


class HeadSculptor:
    """Holds the base model; makes a head per row, and commits it."""

    def __init__(self, pack: str, config: SculptConfig, store: Store, board: Board, device: str, threads: int) -> None:
        import torch

        from factory.draw.sculpt import Sculptor

        torch.set_num_threads(threads)
        self.sculptor = Sculptor(load_pack(pack), device=device)
        self.config, self.store = config, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """REQUEST -> COUNTS, once all of them are committed."""
        num = 0
        for row in batch.to_pylist():
            num += self._sculpt(row)
        self.reporter.finished()
        return counts_table({"models": num, "done": batch.num_rows})

    def _sculpt(self, row: dict[str, Any]) -> int:
        """Whether the head is there now: not if its person was erased meanwhile."""
        from factory.draw.heads import make_head

        if heads(self.store, [row["model_id"]], ["model_id"]).num_rows:
            return 1  # a block that is done again after its worker was lost
        people = identities_by_id(self.store, [row["identity_id"]])
        if row["identity_id"] not in people:
            return 0
        request = sculpt_request(self.store, people[row["identity_id"]], row["prompt"], self.config)
        made = make_head(
            self.sculptor,
            request,
            row["model_id"],
            kept=checkpoint_of(self.store, row["model_id"]),
            keep=partial(keep_checkpoint, self.store, row["model_id"], row["identity_id"]),
            on_step=partial(self.reporter.step, 1),
            checkpoint_every_s=CHECKPOINT_EVERY_S,
        )
        self.store.upsert("models", [model_row(made)])
        drop_checkpoints(self.store, [row["model_id"]])
        return 1


def _requests(
    people: Iterable[Identity], prompts: Sequence[str], config: SculptConfig, pack: Pack
) -> Iterable[dict[str, Any]]:
    """Rows of REQUEST."""
    model = pack.model_fingerprint()
    for identity, prompt in product(people, prompts):
        request = SculptRequest(identity=identity, prompt=prompt, config=config)
        ids = {"model_id": model_id(request, model), "identity_id": identity.identity_id}
        yield {**ids, "name": identity.name, "prompt": prompt}


def write_heads(store: Store, model_ids: Sequence[str], out: Path, file_format: HeadFormat) -> list[Path]:
    """Stored heads as files <name>-<model_id>.ply and so on: no two are called alike, and a head that is written again
    is the same file. Those that are not there, as after an erasure, are left out."""
    from factory.draw.splat_files import SplatFormat, write_head
    from factory.provenance.marks import Marker
    from factory.store.export import file_stem

    marker, written = Marker.of(store.root), []
    for an_id in model_ids:  # one by one, as each may be megabytes
        for row in heads(store, [an_id], ["name", "prompt", "splats", "turntable"]).to_pylist():
            marked = partial(marker.mark, made={"prompt": row["prompt"]})
            stem = out / f"{file_stem(row['name'])}-{an_id}"
            file = write_head(row["splats"], row["turntable"], stem, file_format, marked)
            written.append(file)
            if file_format in get_args(SplatFormat):  # these have no place for content credentials
                marker.write_beside(file)
    return written
