"""identities x prompts x seeds -> images: look the identities up, make pictures in mixed batches, commit.

Networks are imported where they are needed: the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache, cached_property, partial
from itertools import product
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
import pyarrow as pa

from factory.config import GenerateConfig
from factory.draw.compose import Pose, compose
from factory.files import write_whole
from factory.ids import image_id
from factory.pack import Pack, load_pack
from factory.prompts import people_in
from factory.records import Identity, ImageRequest
from factory.settings import generate_settings
from factory.store.columns import with_columns
from factory.store.quality import crops_of
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

if TYPE_CHECKING:
    from factory.measure.quality import Scorer

IMAGES_PER_BATCH: Final = 16  # one UNet batch of mixed identities
_WRITTEN_TOGETHER: Final = 64  # pictures that are read for --out by one scan, and held in memory
_WORTH_A_WORKER: Final = 4  # images; a smaller batch takes longer than it saves
_ASKED = ("image_id", "identity_id", "name", "prompt", "seed", "people", "pose", "best_of")
REQUEST: Final = pa.schema(
    [*(SCHEMAS["images"].field(column) for column in _ASKED), ("candidates", pa.list_(pa.string()))]
)
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
    best_of: int = 1,
    workers: Workers = Workers(),
    out: str | Path | None = None,
) -> Summary:
    """Fills `images` with every identity (or the named ones) in every prompt and pose with every seed, where not there
    yet. A prompt may name others beside the identity: <person:NAME>.

    With `out` the pictures asked for are also written there as <name>_<n>.png, n counting prompts x seeds x poses, and
    on where another file is. With `best_of` above 1 a seed stands for so many, `seed * best_of` and those after it:
    each is drawn, and one is kept, the nearest to the photo among those that follow the text (measure/quality.py).
    `workers` are the generators.
    Raises IdentityNotFound, IncompatibleIdentity, SceneRefused or PackError before anything is done.
    """
    store, loaded = Store(root), load_pack(pack)
    config = config or generate_settings(loaded)
    if not prompts or not seeds:
        raise ValueError("give at least one prompt and one seed")
    if best_of > 1:
        from factory.measure.pictures import measuring_files

        measuring_files(loaded)
    people = people_to_draw(store, loaded, identities)
    with open_job("generate", store) as summary:
        summary.identities = len(people)
        known = store.existing_ids("images")
        requests = _requests(people, product(prompts, seeds, poses), config, loaded, store, poses, best_of)
        wanted = list({request["image_id"]: request for request in requests}.values())  # prompts may be given twice
        if best_of > 1:
            known = set(_chosen(store, wanted))
        new = [request for request in wanted if request["image_id"] not in known]
        summary.skipped_existing = len(wanted) - len(new)
        if new:
            _make(new, store, loaded, config, poses, workers, summary)
        if out is not None:
            chosen = _chosen(store, wanted) if best_of > 1 else {}
            write_pngs(store, [{**row, **chosen.get(row["image_id"], {})} for row in wanted], Path(out))
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
    together = max(1, IMAGES_PER_BATCH // len(rows[0]["candidates"]))  # groups of pictures of which one is kept
    batch = min(together, -(-len(rows) // pool.size))
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
        self.device, self.threads = device, threads
        self.reporter = StepReporter(board)

    def __call__(self, batch: pa.Table) -> pa.Table:
        """REQUEST -> rows of `images`."""
        rows = batch.to_pylist()
        people = identities_by_id(self.store, sorted({who for row in rows for who in row["people"]}))
        rows = [row for row in rows if people.keys() >= set(row["people"])]  # somebody may have been erased meanwhile
        requests = [
            replace(request, seed=seed)
            for row in rows
            for request in [self._request(row, [people[who] for who in row["people"]])]
            for seed in row["best_of"] or [row["seed"]]
        ]
        images = self.generator.generate(requests, on_step=partial(self.reporter.step, len(rows)))
        self.reporter.finished()
        made = {"config": self.config.model_dump_json(), "created_at": datetime.now(UTC).isoformat(timespec="seconds")}
        kept = self._kept(rows, people, requests, images)
        done = [{**row, **made, **own, "image": encode_png(best)} for row, (own, best) in zip(rows, kept, strict=True)]
        return pa.Table.from_pylist(done, SCHEMAS["images"])

    def _kept(
        self,
        rows: Sequence[Mapping[str, Any]],
        people: Mapping[str, Identity],
        requests: Sequence[ImageRequest],
        images: Sequence[np.ndarray],
    ) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
        """Of each row's pictures the best one, and its columns where there were several."""
        several = [people[row["people"][0]] for row in rows if row["best_of"]]
        crops = crops_of(self.store, several) if several else {}
        first = 0
        for row in rows:
            num = len(row["candidates"])
            own = images[first : first + num]
            if row["best_of"]:
                word, crop = self.generator.base.pack.quality.class_word, crops.get(row["people"][0])
                chosen, likeness, clip_t = self._scorer.choose(own, crop, requests[first].prompt, word)
                ids = {"image_id": row["candidates"][chosen], "seed": row["best_of"][chosen]}
                yield {**ids, "likeness": likeness, "clip_t": clip_t}, own[chosen]
            else:
                yield {}, own[0]
            first += num

    @cached_property
    def _scorer(self) -> Scorer:
        from factory.measure.quality import Scorer

        return Scorer(self.generator.base.pack, device=self.device, num_threads=self.threads)

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
    from factory.store.export import file_stems

    marker, stems = Marker.of(store.root), file_stems({one["identity_id"]: one["name"] for one in requests})
    out.mkdir(parents=True, exist_ok=True)
    counters: Counter[str] = Counter()
    for start in range(0, len(requests), _WRITTEN_TOGETHER):
        batch = requests[start : start + _WRITTEN_TOGETHER]
        rows = pictures(store, [request["image_id"] for request in batch], ["image_id", "image"]).to_pylist()
        images = {row["image_id"]: row["image"] for row in rows}
        for request in batch:
            stem = stems[request["identity_id"]]
            if image := images.get(request["image_id"]):  # else erased meanwhile
                while (file := out / f"{stem}_{counters[stem]}.png").exists() and not _shows(file, image):
                    counters[stem] += 1
                if not file.exists():
                    write_whole(file, marker.mark(image, told(request)))
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
    best_of: int = 1,
) -> Iterator[dict[str, Any]]:
    """Rows of REQUEST; a picture of each person is a prompt, a seed and what a pose is called. With `best_of` above 1
    its id is the first candidate's, until one is chosen."""
    model, find = pack.model_fingerprint(), cache(store.find_identity)
    for identity, (prompt, seed, pose) in product(people, list(pictures_of_each)):
        first = seed * best_of
        request = compose(prompt, first, config, pack=pack, own=identity, find=find, poses=poses[pose])
        if best_of > 1 and request.regions:
            raise ValueError(f"--best-of looks at one person's likeness, and {prompt!r} names several: leave it out")
        seeds = range(first, first + best_of)
        candidates = [image_id(replace(request, seed=one), model) for one in seeds]
        shown = [region.identity for region in request.regions] or [request.identity]
        for who in shown:
            pack.check_fit(who)
        yield {
            "image_id": candidates[0],
            "identity_id": request.identity.identity_id,
            "name": request.identity.name,
            "prompt": prompt,
            "seed": first,
            "people": [who.identity_id for who in shown],
            "pose": pose,
            "best_of": list(seeds) if best_of > 1 else None,
            "candidates": candidates,
        }


def _chosen(store: Store, wanted: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By a request's image_id the image_id and seed of the picture that was chosen among its seeds, if one was."""
    ids = [an_id for row in wanted for an_id in row["candidates"]]
    columns = ["image_id", "seed", "best_of"]
    rows = {row["image_id"]: row for row in pictures(store, ids, columns).to_pylist() if row["best_of"]}
    return {
        request["image_id"]: {name: rows[an_id][name] for name in ("image_id", "seed")}
        for request in wanted
        for an_id in request["candidates"]
        if an_id in rows and rows[an_id]["best_of"] == request["best_of"]
    }
