"""What keeps a table quick and clean: small files joined, scalar indexes made and kept up, deleted rows gone for good.

An index finds a row by its id or name among millions in milliseconds. It costs a small table more than it gives, so a
table gets its indexes once it is large. What is committed later is not in them at first: Lance looks through these
files one by one, so every few commits they are added, as a small segment of their own.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import timedelta
from typing import Final

import lance
import pyarrow as pa

from factory.store.commits import loser_leaves, shut_out
from factory.store.connection import Options
from factory.store.schemas import KEYS, SCHEMAS, Table

TIDY_EVERY: Final = 256  # commits
INDEX_EVERY: Final = 8  # commits; a look-up takes some 0.3 ms longer for each that no index knows
INDEX_FROM: Final = 4096  # rows
_MAX_SEGMENTS: Final = 16  # of an index; then the later ones are merged
_WARM_ROWS: Final = 2_000_000  # some 90 bytes each; the indexes of more find no room in a process's memory
_JOINED: Final = 64  # files of full size at most that are written in one commit, where an older root has smaller ones
_PAGED: Final = ("identities", "images", "work")  # listed in the order of their coming
_FEW_VALUES: Final = ("pack", "protocol", "digest", "line")  # keys that are not looked for: many rows have the same


def indexed_columns(table: Table) -> list[str]:
    """Columns with an index: the table's keys, and what it is searched by."""
    searched = {*KEYS[table], "name", "photo_id", "identity_id", "face_id"} - set(_FEW_VALUES)
    searched |= {"created_at"} if table in _PAGED else set()
    return [name for name in SCHEMAS[table].names if name in searched]


def file_rows(table: Table) -> int:
    """Rows of a full file, which is never rewritten but for an erasure, so that the cost of joining stays linear. Each
    look-up and commit knows all files, so of light rows there are many in one; pictures fill it soon."""
    heavy = any(one.type in (pa.binary(), pa.large_binary()) for one in SCHEMAS[table])
    return 1024 if heavy else 8192


def claimed_file(dataset: lance.LanceDataset) -> int | None:
    """The file that upserts claim (upserts.py); None of a small table. From half of the size on at which there are
    indexes: once there are, no upsert is still under way that claims nothing."""
    files = dataset.fragment_ids()
    is_large = dataset.count_rows() >= INDEX_FROM // 2 or bool(dataset.describe_indices())
    return min(files) if len(files) and is_large else None


def after_commit(dataset: lance.LanceDataset, table: Table) -> None:
    """Looks after the table every few commits, as told by its version: one of many writers does it."""
    if dataset.version % TIDY_EVERY == TIDY_EVERY - 1:
        tidy(dataset, table)
    elif dataset.version % INDEX_EVERY == INDEX_EVERY - 1:
        keep_indexes(dataset, table)


def warm(dataset: lance.LanceDataset, table: Table, but: Collection[str] = ()) -> set[str]:
    """Reads the indexes of what rows are found by into this process's memory (factory/store/connection.py); else the
    first look-ups read their pages one by one. `but` are segments that were read before; returns all there are now."""
    there = set[str]()
    for index in dataset.describe_indices():
        segments = {str(segment.uuid) for segment in index.segments}
        there |= segments
        new, searched = sorted(segments - set(but)), {KEYS[table][0], "name", "created_at"}
        if new and index.field_names[0] in searched and index.num_rows_indexed <= _WARM_ROWS:
            dataset.prewarm_index(index.name, index_segments=new)
    return there


def tidy(dataset: lance.LanceDataset, table: Table, *, whole: bool = False) -> None:
    """Joins the small files that many small commits leave, in `whole` all of an older root's, and brings the indexes up
    to date. Safe beside running jobs: if one commits at the wrong moment, the next tidying does it."""
    with loser_leaves():
        if len(dataset.get_fragments()) >= 8:
            with loser_leaves():
                rows, claimed = file_rows(table), claimed_file(dataset)
                for _ in dataset.get_fragments() if whole else range(1):
                    joined = dataset.optimize.compact_files(
                        target_rows_per_fragment=rows,
                        max_source_rows=_JOINED * rows,
                        excluded_fragment_ids=[] if claimed is None else [claimed],  # else each upsert would prevent it
                    )
                    if joined.fragments_removed <= joined.fragments_added:
                        break
            dataset.cleanup_old_versions(older_than=timedelta(hours=1))
    keep_indexes(dataset, table)


def keep_indexes(dataset: lance.LanceDataset, table: Table) -> None:
    """Makes the indexes that a large table lacks, and adds what was committed since to those that are there."""
    with loser_leaves():
        segments = {index.field_names[0]: len(index.segments) for index in dataset.describe_indices()}
        if not segments and dataset.count_rows() < INDEX_FROM:
            return
        for column in indexed_columns(table):
            if column not in segments:
                dataset.create_scalar_index(column, "BTREE")
        most = max(segments.values(), default=0)
        if segments:
            dataset.optimize.optimize_indices(num_indices_to_merge=most - 1 if most >= _MAX_SEGMENTS else 0)


def drop_deleted(dataset: lance.LanceDataset, table: Table, options: Options) -> None:
    """Writes files with deleted rows anew, and removes every version before, with its files. Raises OSError where
    another writer came first."""
    dataset.optimize.compact_files(
        target_rows_per_fragment=file_rows(table), materialize_deletions=True, materialize_deletions_threshold=0.0
    )
    # An index holds the values themselves, those of deleted rows too, and the commits before name the deleted ids in
    # their logs. So the table goes on from one commit without either, which must stay: whatever is under way looks for
    # conflicts among the versions that are left.
    dataset = shut_out(dataset, options)
    dataset.cleanup_old_versions(older_than=timedelta(0))
    keep_indexes(dataset, table)
