"""photos -> faces: read, find faces (CPU), parse masks and encode features (GPU or CPU), commit.

Networks are loaded in the workers' own processes: the driver and the light tasks need none, and start in a second.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from factory.config import PrepareConfig
from factory.faces.isolated import Isolated
from factory.ids import is_face_id
from factory.pack import Pack, load_pack
from factory.store.columns import with_columns
from factory.store.policy import read_policy
from factory.store.queries import drop_older_rejects, drop_rejects
from factory.store.schemas import SCHEMAS, Table
from factory.store.tables import Store
from pipelines.jobs.cluster import connect
from pipelines.jobs.committer import commit_stage
from pipelines.jobs.job import Summary, open_job
from pipelines.jobs.pools import Pool, Workers, cpu_and_model_pools
from pipelines.jobs.progress import Progress, say
from pipelines.jobs.stage import Stage, counts_table, tally
from pipelines.photos.allowed import Allowed
from pipelines.photos.batches import BATCH, IsolatedBatches, read_batches
from pipelines.photos.faces import FindFaces, ReadFaces, find_poisoned, read_poisoned
from pipelines.photos.new import find_new_photos, work_units
from pipelines.photos.people import tell_people
from pipelines.photos.persons import PersonFrom
from pipelines.photos.places import Places, find_places
from pipelines.photos.samples import samples

_ASIDE: Final = "smaller face of a photo"  # as what it is left out where the largest alone is asked for


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
        say(places.told)
        connect()
        new, recovered = find_new_photos(places, store, loaded, summary, retry)
        if new.num_rows:
            how = {"max_bytes": config.max_bytes, "require_consent": required, "allowed": allowed}
            chain = (
                work_units(new),
                Stage(partial(read_batches, **how, sources=places.sources), cut=1),
                *_face_stages(loaded, config, *cpu_and_model_pools(workers)),
                commit_stage(partial(commit, replaces=retry is not None), store),
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
    return Stage(IsolatedBatches, find, finding, 1), Stage(Isolated, read, reading, BATCH)


def commit(outcomes: pa.Table, store: Store, *, replaces: bool = False) -> pa.Table:
    """OUTCOME -> COUNTS. The faces go last: they (or the photo's own reject) are what marks a photo as done.

    With `replaces`, earlier rejects of these photos go; only after that, so that no photo is ever without a row.
    """
    rejects, faces = _rows_of(outcomes, "rejects"), _rows_of(outcomes, "faces")
    store.upsert_table("rejects", rejects)
    store.upsert_table("faces", faces)
    if replaces:
        _drop_older(faces, rejects, store)
    counts = Counter(photos=outcomes.num_rows, faces=faces.num_rows)
    counts["photos_with_faces"] = pc.sum(pc.greater(pc.list_value_length(outcomes["faces"]), 0)).as_py() or 0
    if aside := pc.sum(outcomes["num_aside"]).as_py():
        counts[_ASIDE] = aside
    for reject_id, reason in zip(rejects["reject_id"].to_pylist(), rejects["reason"].to_pylist(), strict=True):
        counts[f"{'rejected_face' if is_face_id(reject_id) else 'rejected'}:{reason}"] += 1
    return counts_table(counts)


def _rows_of(outcomes: pa.Table, table: Table) -> pa.Table:
    """The rows of all photos, of which no picture becomes an object of Python."""
    parts = [pa.RecordBatch.from_struct_array(photos.flatten()) for photos in outcomes[table].chunks]
    schema = SCHEMAS[table]
    return pa.concat_tables(
        [schema.empty_table(), *(with_columns(pa.Table.from_batches([part]), schema) for part in parts)]
    )


def _drop_older(faces: pa.Table, rejects: pa.Table, store: Store) -> None:
    rows = [row for table in (faces, rejects) for row in table.select(["photo_id", "pack"]).to_pylist()]
    if rows:
        photo_ids = sorted({row["photo_id"] for row in rows} - {""})
        drop_older_rejects(store, rows[0]["pack"], photo_ids, rejects["reject_id"].to_pylist())


def _count(summary: Summary, counts: Counter[str]) -> None:
    summary.photos_with_faces += counts["photos_with_faces"]
    summary.faces += counts["faces"]
    if counts[_ASIDE]:
        summary.left_out[_ASIDE] = summary.left_out.get(_ASIDE, 0) + counts[_ASIDE]
    summary.count_rejects(counts)


def _outcome(summary: Summary) -> dict[str, int]:
    return {"faces": summary.faces, "rejected": sum(summary.rejected.copy().values())}
