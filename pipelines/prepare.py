"""photos -> faces: read, find faces (CPU), parse masks and encode features (GPU or CPU), commit.

Networks are loaded in the workers' own processes: the driver and the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import ray

from factory.config import PrepareConfig
from factory.faces.isolated import Isolated
from factory.ids import is_face_id
from factory.pack import load_pack
from factory.store.tables import Store, where_in
from pipelines.jobs.job import Summary, connect, counts_table, open_job, tally
from pipelines.jobs.pools import LIGHT, cpu_and_model_pools
from pipelines.jobs.progress import Progress
from pipelines.photos.faces import FindFaces, ReadFaces, find_poisoned, read_poisoned
from pipelines.photos.new import find_new_photos, work_units
from pipelines.photos.samples import samples
from pipelines.photos.sources import read_photos

BATCH: Final = 16  # photos: what is read, worked on and committed together


def prepare(
    photos: str,
    root: str,
    pack: str | Path = "studio",
    config: PrepareConfig | None = None,
    *,
    finders: int | None = None,
    readers: int | None = None,
    gpus: float | None = None,
    retry: Sequence[str] | None = None,
    within: Summary | None = None,
) -> Summary:
    """Fills `faces` and `rejects` from SRC; photos that are in either are skipped, as are copies in SRC itself.

    With `retry`, only photos that were refused for one of these reasons are tried; what becomes of them replaces the
    old rejects. `pack` is a name or folder; `finders` and `readers` are numbers of workers (default: what there is),
    `gpus` is what a reader takes of a GPU.
    Raises ValueError or PackError, before anything is done, if SRC or the pack cannot be used.
    """
    store, config, loaded = Store(root), config or PrepareConfig(), load_pack(pack)
    name = loaded.portable_name()
    for part in (loaded.fr_vit, loaded.faces, loaded.parser):
        loaded.folder(part)
    with open_job("prepare", store, within) as summary:
        connect()
        new, recovered = find_new_photos(photos, store, loaded, summary, retry)
        if not new.num_rows:
            _drop_recovered(recovered, store, loaded.name)
            return summary
        finding, reading = cpu_and_model_pools(finders, readers, gpus)
        chain = (
            ray.data.from_arrow(work_units(new))
            .map_batches(
                partial(read_photos, max_bytes=config.max_bytes),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=LIGHT,
            )
            .repartition(target_num_rows_per_block=BATCH)
            .map_batches(
                Isolated,
                fn_constructor_args=[
                    FindFaces,
                    [name, config, finding.threads],
                    find_poisoned,
                    config.max_photo_s,
                ],
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=finding.strategy,
                num_cpus=finding.num_cpus,
            )
            .map_batches(
                Isolated,
                fn_constructor_args=[
                    ReadFaces,
                    [name, config, reading.device, reading.threads],
                    partial(read_poisoned, pack=loaded.name),
                    config.max_photo_s,
                ],
                batch_size=BATCH,
                batch_format="pyarrow",
                compute=reading.strategy,
                num_cpus=reading.num_cpus,
                num_gpus=reading.num_gpus,
            )
            .map_batches(
                partial(commit, store=store, replaces=retry is not None),
                batch_size=None,
                batch_format="pyarrow",
                num_cpus=LIGHT,
            )
        )
        with Progress("prepare", "photos", new.num_rows, counts=partial(_outcome, summary)) as progress:
            for counts in tally(chain):
                _count(summary, counts)
                progress.add(counts["photos"])
        _drop_recovered(recovered, store, loaded.name)
        summary.samples += samples(store, loaded.name, new, config)
        store.tidy("faces")
        store.tidy("rejects")
    return summary


def commit(outcomes: pa.Table, store: Store, *, replaces: bool = False) -> pa.Table:
    """OUTCOME -> COUNTS. The faces go last: they (or the photo's own reject) are what marks a photo as done.

    With `replaces`, earlier rejects of these photos go; only after that, so that no photo is ever without a row.
    """
    photos = outcomes.to_pylist()
    store.upsert("rejects", [reject for photo in photos for reject in photo["rejects"]])
    store.upsert("faces", [face for photo in photos for face in photo["faces"]])
    if replaces:
        _drop_earlier_rejects(photos, store)
    counts = Counter(photos=len(photos), faces=sum(len(photo["faces"]) for photo in photos))
    for photo in photos:
        counts["photos_with_faces"] += bool(photo["faces"])
        for reject in photo["rejects"]:
            kind = "rejected_face" if is_face_id(reject["reject_id"]) else "rejected"
            counts[f"{kind}:{reject['reason']}"] += 1
    return counts_table(counts)


def _drop_earlier_rejects(photos: list[dict[str, Any]], store: Store) -> None:
    rows = [row for photo in photos for row in [*photo["faces"], *photo["rejects"]]]
    photo_ids = sorted({row["photo_id"] for row in rows} - {""})
    if photo_ids:
        whose = f"{where_in('photo_id', photo_ids)} AND {where_in('pack', [rows[0]['pack']])} AND stage = 'prepare'"
        newest = where_in("reject_id", [reject["reject_id"] for photo in photos for reject in photo["rejects"]])
        store.delete("rejects", f"{whose} AND NOT ({newest})")


def _drop_recovered(reject_ids: list[str], store: Store, pack: str) -> None:
    """Rejects of photos that could not be read and are prepared now."""
    if reject_ids:
        store.delete("rejects", f"{where_in('reject_id', reject_ids)} AND {where_in('pack', [pack])}")


def _count(summary: Summary, counts: Counter[str]) -> None:
    summary.photos_with_faces += counts["photos_with_faces"]
    summary.faces += counts["faces"]
    summary.count_rejects(counts)


def _outcome(summary: Summary) -> dict[str, int]:
    return {"faces": summary.faces, "rejected": sum(summary.rejected.copy().values())}
