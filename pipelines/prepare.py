"""photos -> faces: read, find faces (CPU), parse masks and encode features (GPU or CPU), commit.

Networks are loaded in the workers' own processes: the driver and the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from factory.config import PrepareConfig
from factory.faces.isolated import Isolated
from factory.ids import is_face_id
from factory.pack import Pack, load_pack
from factory.store.policy import read_policy
from factory.store.queries import drop_older_rejects, drop_rejects
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import shared
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Pool, Workers, cpu_and_model_pools
from pipelines.jobs.progress import Progress
from pipelines.jobs.stage import Stage, counts_table, tally
from pipelines.photos.allowed import Allowed
from pipelines.photos.batches import BATCH, IsolatedBatches, read_batches
from pipelines.photos.faces import FindFaces, ReadFaces, find_poisoned, read_poisoned
from pipelines.photos.new import find_new_photos, work_units
from pipelines.photos.people import tell_people
from pipelines.photos.persons import PersonFrom
from pipelines.photos.samples import samples
from pipelines.photos.sources import Places, find_places


def prepare(
    photos: str | Sequence[str] | Places,
    root: str,
    pack: str | Path = "studio",
    config: PrepareConfig | None = None,
    *,
    workers: Workers = Workers(),
    retry: Sequence[str] | None = None,
    person_from: PersonFrom | None = None,
    within: Summary | None = None,
) -> Summary:
    """Fills `faces` and `rejects` from SRC, one or several; photos that are in either are skipped, as are copies.

    With `retry`, only photos that were refused for one of these reasons are tried; what becomes of them replaces the
    old rejects. `pack` is a name or folder; `workers` are those that read faces with the pack's models; `person_from`
    is as in `find_places`.
    Raises ValueError or PackError, before anything is done, if SRC or the pack cannot be used.
    """
    store, config, loaded = Store(root), config or PrepareConfig(), load_pack(pack)
    for part in (loaded.fr_vit, loaded.faces, loaded.parser):
        loaded.folder(part)
    required, allowed = read_policy(store.root).require_consent, Allowed.of(store.root)
    places = photos if isinstance(photos, Places) else find_places(photos, store.root, person_from)
    with open_job("prepare", store, within) as summary:
        connect()
        store = shared(store)
        new, recovered = find_new_photos(places, store, loaded, summary, retry)
        if new.num_rows:
            chain = (
                work_units(new),
                Stage(partial(read_batches, max_bytes=config.max_bytes, require_consent=required, allowed=allowed)),
                *_face_stages(loaded, config, *cpu_and_model_pools(workers)),
                Stage(partial(commit, store=store, replaces=retry is not None)),
            )
            with Progress("prepare", "photos", new.num_rows, counts=partial(_outcome, summary)) as progress:
                for counts in tally(*chain):
                    _count(summary, counts)
                    progress.add(counts["photos"])
            tell_people(summary, store, loaded, set(new["photo_id"].to_pylist()))
            summary.samples += samples(store, loaded.name, new, config)
            store.tidy("faces")
            store.tidy("rejects")
        drop_rejects(store, loaded.name, recovered)  # of photos that could not be read, and are prepared now
    return summary


def _face_stages(pack: Pack, config: PrepareConfig, finding: Pool, reading: Pool) -> tuple[Stage, Stage]:
    """PHOTO -> OUTCOME, in processes that a photo may kill."""
    name, max_s = pack.portable_name(), config.max_photo_s
    find = [FindFaces, [name, config, finding.threads], find_poisoned, max_s]
    read = [ReadFaces, [name, config, reading.device, reading.threads], partial(read_poisoned, pack=pack.name), max_s]
    return Stage(IsolatedBatches, find, finding, 1, cut=True), Stage(Isolated, read, reading, BATCH)


def commit(outcomes: pa.Table, store: Store, *, replaces: bool = False) -> pa.Table:
    """OUTCOME -> COUNTS. The faces go last: they (or the photo's own reject) are what marks a photo as done.

    With `replaces`, earlier rejects of these photos go; only after that, so that no photo is ever without a row.
    """
    photos = outcomes.to_pylist()
    store.upsert("rejects", [reject for photo in photos for reject in photo["rejects"]])
    store.upsert("faces", [face for photo in photos for face in photo["faces"]])
    if replaces:
        _drop_older(photos, store)
    counts = Counter(photos=len(photos), faces=sum(len(photo["faces"]) for photo in photos))
    for photo in photos:
        counts["photos_with_faces"] += bool(photo["faces"])
        for reject in photo["rejects"]:
            kind = "rejected_face" if is_face_id(reject["reject_id"]) else "rejected"
            counts[f"{kind}:{reject['reason']}"] += 1
    return counts_table(counts)


def _drop_older(photos: list[dict[str, Any]], store: Store) -> None:
    rows = [row for photo in photos for row in [*photo["faces"], *photo["rejects"]]]
    if rows:
        photo_ids = sorted({row["photo_id"] for row in rows} - {""})
        newest = [reject["reject_id"] for photo in photos for reject in photo["rejects"]]
        drop_older_rejects(store, rows[0]["pack"], photo_ids, newest)


def _count(summary: Summary, counts: Counter[str]) -> None:
    summary.photos_with_faces += counts["photos_with_faces"]
    summary.faces += counts["faces"]
    summary.count_rejects(counts)


def _outcome(summary: Summary) -> dict[str, int]:
    return {"faces": summary.faces, "rejected": sum(summary.rejected.copy().values())}
