"""identities x prompts x paths of poses x seeds -> videos: look the identities up, draw clips, commit each.

Networks are imported where they are needed: the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import pyarrow as pa

from factory.config import AnimateConfig
from factory.draw.compose import Pose, compose_clip
from factory.ids import video_id
from factory.pack import Pack, load_pack
from factory.prompts import people_in
from factory.records import ClipRequest, Identity
from factory.settings import animate_settings
from factory.store.columns import with_columns
from factory.store.queries import clips, identities_by_id, people_to_draw
from factory.store.rows import video_row
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import commit_stage
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board
from pipelines.jobs.stage import Stage, counts_table, tally

if TYPE_CHECKING:
    from factory.draw.clips import ClipFormat

_WRITTEN_TOGETHER: Final = 16  # clips that are read by one scan, and held in memory
_ASKED = ("video_id", "identity_id", "name", "prompt", "seed", "people", "poses")
_WRITTEN = ["video_id", "name", "video", "fps", "prompt", "seed", "poses"]
REQUEST: Final = pa.schema([SCHEMAS["videos"].field(column) for column in _ASKED])
PosePaths: TypeAlias = Mapping[str, Sequence[Pose]]  # by what they are called: one pose for each frame, or none


def animate(
    root: str,
    pack: str | Path = "studio",
    *,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    identities: Sequence[str] | None = None,
    pose_paths: PosePaths = MappingProxyType({"": ()}),
    config: AnimateConfig | None = None,
    workers: Workers = Workers(),
    out: str | Path | None = None,
) -> Summary:
    """Fills `videos` with a clip of every identity (or the named ones) in every prompt and along every path of poses
    with every seed, where not there yet. Each clip is committed by itself.

    With `out` the clips asked for are also written there as <name>-<video_id>.mp4. `workers` draw.
    Raises IdentityNotFound, IncompatibleIdentity, SceneRefused or PackError before anything is done.
    """
    store, loaded = Store(root), load_pack(pack)
    model = loaded.clip_fingerprint()
    config = config or animate_settings(loaded)
    if not prompts or not seeds:
        raise ValueError("give at least one prompt and one seed")
    people = people_to_draw(store, loaded, identities)
    with open_job("animate", store) as summary:
        summary.identities = len(people)
        known = store.existing_ids("videos")
        asked = _requests(people, product(prompts, seeds, pose_paths), config, loaded, store, pose_paths, model)
        wanted = list({row["video_id"]: row for row in asked}.values())  # prompts may be given twice
        new = [row for row in wanted if row["video_id"] not in known]
        summary.skipped_existing = len(wanted) - len(new)
        if new:
            _make(new, store, loaded, config, pose_paths, workers, summary)
        if out is not None:
            write_clips(store, [row["video_id"] for row in wanted], Path(out))
    return summary


def _make(
    rows: list[dict[str, Any]],
    store: Store,
    pack: Pack,
    config: AnimateConfig,
    pose_paths: PosePaths,
    workers: Workers,
    summary: Summary,
) -> None:
    connect()
    pool = model_pool(workers, at_most=len(rows), pack=pack)
    board = open_board()
    chain = (
        [pa.Table.from_pylist([row], REQUEST) for row in rows],
        Stage(
            ClipMaker,
            [pack.portable_name(), config, dict(pose_paths), store, board, pool.device, pool.threads],
            pool,
            1,
        ),
        commit_stage(commit, store),
    )
    with Progress("animate", "clips", len(rows), partial(read_board, board)) as progress:
        for counts in tally(*chain):
            summary.videos += counts["videos"]
            progress.add(counts["videos"])
    store.tidy("videos")


class ClipMaker:
    """Holds what draws clips."""

    def __init__(
        self,
        pack: str,
        config: AnimateConfig,
        pose_paths: PosePaths,
        store: Store,
        board: Board,
        device: str,
        threads: int,
    ) -> None:
        import torch

        from factory.draw.video import ClipGenerator

        torch.set_num_threads(threads)
        self.pack = load_pack(pack)
        self.generator = ClipGenerator(self.pack, device=device)
        self.config, self.pose_paths, self.store = config, pose_paths, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """REQUEST -> rows of `videos`."""
        from factory.draw.clips import as_clip

        rows = batch.to_pylist()
        people = identities_by_id(self.store, sorted({who for row in rows for who in row["people"]}))
        rows = [row for row in rows if people.keys() >= set(row["people"])]  # somebody may have been erased meanwhile
        requests = [self._request(row, people) for row in rows]
        drawn = self.generator.generate(requests, on_step=partial(self.reporter.step, len(rows))) if rows else []
        self.reporter.finished()
        made = [
            video_row(as_clip(row["video_id"], request, frames, prompt=row["prompt"], poses=row["poses"]))
            for row, request, frames in zip(rows, requests, drawn, strict=True)
        ]
        return pa.Table.from_pylist(made, SCHEMAS["videos"])

    def _request(self, row: Mapping[str, Any], people: Mapping[str, Identity]) -> ClipRequest:
        called = dict(zip(people_in(row["prompt"]), (people[who] for who in row["people"]), strict=True))
        return compose_clip(
            row["prompt"],
            row["seed"],
            self.config,
            pack=self.pack,
            own=called.get(None),
            find=called.__getitem__,
            poses=self.pose_paths[row["poses"]],
        )


def commit(videos: pa.Table, store: Store) -> pa.Table:
    """Rows of `videos` -> COUNTS."""
    store.upsert_table("videos", with_columns(videos, SCHEMAS["videos"]))
    return counts_table({"videos": videos.num_rows})


def write_clips(store: Store, video_ids: Sequence[str], out: Path, clip_format: ClipFormat = "mp4") -> list[Path]:
    """Stored clips as files <name>-<video_id>.mp4, .gif or .webp, or folders of PNGs: no two are called alike, and a
    clip that is written again is the same file. Those that are not there, as after an erasure, are left out."""
    from factory.draw.clips import write_clip
    from factory.provenance.marks import Marker
    from factory.provenance.xmp import told
    from factory.store.export import file_stem

    marker, written = Marker.of(store.root), []
    for start in range(0, len(video_ids), _WRITTEN_TOGETHER):
        for row in clips(store, video_ids[start : start + _WRITTEN_TOGETHER], _WRITTEN):
            stem = out / f"{file_stem(row['name'])}-{row['video_id']}"
            marked = partial(marker.mark, made=told(row))
            written.append(write_clip(row["video"], row["fps"], stem, clip_format, marked))
    return written


def _requests(
    people: Sequence[Identity],
    clips_of_each: Iterable[tuple[str, int, str]],
    config: AnimateConfig,
    pack: Pack,
    store: Store,
    pose_paths: PosePaths,
    model: str,
) -> Iterator[dict[str, Any]]:
    """Rows of REQUEST; a clip of each person is a prompt, a seed and what a path of poses is called."""
    find = cache(store.find_identity)
    for identity, (prompt, seed, poses) in product(people, list(clips_of_each)):
        request = compose_clip(prompt, seed, config, pack=pack, own=identity, find=find, poses=pose_paths[poses])
        pack.check_fit(request.identity)
        yield {
            "video_id": video_id(request, model),
            "identity_id": request.identity.identity_id,
            "name": request.identity.name,
            "prompt": prompt,
            "seed": seed,
            "people": [request.identity.identity_id],
            "poses": poses,
        }
