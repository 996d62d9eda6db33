"""identities x prompts x seeds -> images: look the identities up, make pictures in mixed batches, commit.

Networks are imported where they are needed: the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, TypeAlias

import pyarrow as pa

from factory.config import GenerateConfig
from factory.draw.compose import Pose, compose
from factory.ids import image_id
from factory.pack import Pack, load_pack
from factory.prompts import people_in
from factory.records import Identity, ImageRequest
from factory.settings import generate_settings
from factory.store.columns import with_columns
from factory.store.queries import identities_by_id, people_to_draw, pictures
from factory.store.rows import encode_png
from factory.store.schemas import SCHEMAS
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import commit_stage
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Workers, model_pool
from pipelines.jobs.progress import Board, Progress, StepReporter, open_board, read_board
from pipelines.jobs.stage import Stage, counts_table, tally

IMAGES_PER_BATCH: Final = 16  # one UNet batch of mixed identities
_WRITTEN_TOGETHER: Final = 64  # pictures that are read for --out by one scan, and held in memory
_WORTH_A_WORKER: Final = 4  # images; a smaller batch takes longer than it saves
_ASKED = ("image_id", "identity_id", "name", "prompt", "seed", "people", "pose")
REQUEST: Final = pa.schema([SCHEMAS["images"].field(column) for column in _ASKED])
Poses: TypeAlias = Mapping[str, Sequence[Pose]]  # by what they are called: one for everybody, or one a person


def generate(
    root: str,
    pack: str | Path = "studio",
    *,
    prompts: Sequence[str],
    seeds: Sequence[int] = (0,),
    identities: Sequence[str] | None = None,
    poses: Poses = MappingProxyType({"": ()}),
    config: GenerateConfig | None = None,
    workers: Workers = Workers(),
    out: str | Path | None = None,
) -> Summary:
    """Fills `images` with every identity (or the named ones) in every prompt and pose with every seed, where not there
    yet. A prompt may name others beside the identity: <person:NAME>.

    With `out` the pictures asked for are also written there as <name>_<n>.png, n counting prompts x seeds x poses, and
    on where another file is.
    `workers` are the generators.
    Raises IdentityNotFound, IncompatibleIdentity, SceneRefused or PackError before anything is done.
    """
    store, loaded = Store(root), load_pack(pack)
    config = config or generate_settings(loaded)
    if not prompts or not seeds:
        raise ValueError("give at least one prompt and one seed")
    people = people_to_draw(store, loaded, identities)
    with open_job("generate", store) as summary:
        summary.identities = len(people)
        known = store.existing_ids("images")
        requests = _requests(people, product(prompts, seeds, poses), config, loaded, store, poses)
        wanted = list({request["image_id"]: request for request in requests}.values())  # prompts may be given twice
        new = [request for request in wanted if request["image_id"] not in known]
        summary.skipped_existing = len(wanted) - len(new)
        if new:
            _make(new, store, loaded, config, poses, workers, summary)
        if out is not None:
            write_pngs(store, wanted, Path(out))
    return summary


def _make(
    rows: list[dict[str, Any]],
    store: Store,
    pack: Pack,
    config: GenerateConfig,
    poses: Poses,
    workers: Workers,
    summary: Summary,
) -> None:
    connect()
    pool = model_pool(workers, at_most=-(-len(rows) // _WORTH_A_WORKER), pack=pack)
    batch = min(IMAGES_PER_BATCH, -(-len(rows) // pool.size))
    board = open_board()
    chain = (
        [pa.Table.from_pylist(rows[i : i + batch], REQUEST) for i in range(0, len(rows), batch)],
        Stage(
            ImageMaker,
            [pack.portable_name(), config, dict(poses), store, board, pool.device, pool.threads],
            pool,
            batch,
        ),
        commit_stage(commit, store),
    )
    with Progress("generate", "images", len(rows), partial(read_board, board)) as progress:
        for counts in tally(*chain):
            summary.images += counts["images"]
            progress.add(counts["images"])
    store.tidy("images")


class ImageMaker:
    """Holds the base model; a batch may mix identities, prompts and seeds."""

    def __init__(
        self,
        pack: str,
        config: GenerateConfig,
        poses: Poses,
        store: Store,
        board: Board,
        device: str,
        threads: int,
    ) -> None:
        import torch

        from factory.draw.images import ImageGenerator

        torch.set_num_threads(threads)
        self.generator = ImageGenerator(load_pack(pack), device=device)
        self.config, self.poses, self.store = config, poses, store
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """REQUEST -> rows of `images`."""
        rows = batch.to_pylist()
        people = identities_by_id(self.store, sorted({who for row in rows for who in row["people"]}))
        rows = [row for row in rows if people.keys() >= set(row["people"])]  # somebody may have been erased meanwhile
        requests = [self._request(row, [people[who] for who in row["people"]]) for row in rows]
        images = self.generator.generate(requests, on_step=partial(self.reporter.step, len(rows)))
        self.reporter.finished()
        made = {"config": self.config.model_dump_json(), "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
        done = [{**row, **made, "image": encode_png(image)} for row, image in zip(rows, images, strict=True)]
        return pa.Table.from_pylist(done, SCHEMAS["images"])

    def _request(self, row: Mapping[str, Any], people: Sequence[Identity]) -> ImageRequest:
        """`people` in the prompt's order."""
        called = dict(zip(people_in(row["prompt"]), people, strict=True))
        return compose(
            row["prompt"],
            row["seed"],
            self.config,
            pack=self.generator.base.pack,
            own=called.get(None),
            find=called.__getitem__,
            poses=self.poses[row["pose"]],
        )


def commit(images: pa.Table, store: Store) -> pa.Table:
    """Rows of `images` -> COUNTS."""
    store.upsert_table("images", with_columns(images, SCHEMAS["images"]))
    return counts_table({"images": images.num_rows})


def write_pngs(store: Store, requests: Sequence[Mapping[str, Any]], out: Path) -> None:
    """The stored pictures of these requests as files <name>_<n>.png; n goes on where another picture is there."""
    from factory.provenance.marks import Marker
    from factory.provenance.xmp import told
    from factory.store.export import file_stem

    marker = Marker.of(store.root)
    out.mkdir(parents=True, exist_ok=True)
    counters: Counter[str] = Counter()
    for start in range(0, len(requests), _WRITTEN_TOGETHER):
        batch = requests[start : start + _WRITTEN_TOGETHER]
        rows = pictures(store, [request["image_id"] for request in batch], ["image_id", "image"]).to_pylist()
        images = {row["image_id"]: row["image"] for row in rows}
        for request in batch:
            stem = file_stem(request["name"])
            if image := images.get(request["image_id"]):  # else erased meanwhile
                while (file := out / f"{stem}_{counters[stem]}.png").exists() and not _shows(file, image):
                    counters[stem] += 1
                if not file.exists():
                    file.write_bytes(marker.mark(image, told(request)))
            counters[stem] += 1


def _shows(file: Path, image: bytes) -> bool:
    """Whether a file is this picture, marked or not."""
    from factory.provenance.xmp import without_marks

    data = file.read_bytes()
    return data.startswith(image[:8]) and without_marks(data) == image


def _requests(
    people: Sequence[Identity],
    pictures_of_each: Iterable[tuple[str, int, str]],
    config: GenerateConfig,
    pack: Pack,
    store: Store,
    poses: Poses,
) -> Iterator[dict[str, Any]]:
    """Rows of REQUEST; a picture of each person is a prompt, a seed and what a pose is called."""
    model, find = pack.model_fingerprint(), cache(store.find_identity)
    for identity, (prompt, seed, pose) in product(people, list(pictures_of_each)):
        request = compose(prompt, seed, config, pack=pack, own=identity, find=find, poses=poses[pose])
        shown = [region.identity for region in request.regions] or [request.identity]
        for who in shown:
            pack.check_fit(who)
        yield {
            "image_id": image_id(request, model),
            "identity_id": request.identity.identity_id,
            "name": request.identity.name,
            "prompt": prompt,
            "seed": seed,
            "people": [who.identity_id for who in shown],
            "pose": pose,
        }
