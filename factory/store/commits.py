"""Commits to Lance tables beside other writers: a table made once, another try, throwing back what is under way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import lance
import pyarrow as pa

from factory.store.connection import Options, lance_uri, open_table
from factory.store.schemas import SCHEMAS, Table

_Result = TypeVar("_Result")
_ERRORS: Final = (OSError, ValueError, RuntimeError)  # of a conflict; the last where a version read is gone
_RETRY_FOR_S: Final = 300.0
_LONGEST_WAIT_S: Final = 2.0
_GONE: Final = 8  # times that a version may be gone


def retried(commit: Callable[[], _Result]) -> _Result:
    """What `commit` gives, which is called anew (it must open the table anew) whenever another writer came first."""
    deadline, wait_s, num_gone = time.monotonic() + _RETRY_FOR_S, 0.02, 0
    while True:
        try:
            return commit()
        except _ERRORS as error:
            num_gone += _is_gone(error)
            if not is_lost_race(error) or num_gone > _GONE or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0, wait_s))  # else all who failed together fail together again
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def is_lost_race(error: Exception) -> bool:
    """Whether a commit failed because another writer's came first, or removed the version that was read."""
    text = str(error).lower()
    return "conflict" in text or "too many concurrent writers" in text or _is_gone(error)


@contextmanager
def loser_leaves() -> Iterator[None]:
    """Ends what is inside quietly if another writer's commit came first: for what may as well be done another time."""
    try:
        yield
    except _ERRORS as error:
        if not is_lost_race(error):
            raise


def _is_gone(error: Exception) -> bool:
    """Whether files of the version that was read are gone: an eraser's doing, if it is not a damaged table."""
    return "not found" in str(error).lower()


def open_to_write(uri: str, table: Table, options: Options) -> lance.LanceDataset:
    """A table's newest version, made if it is not there yet, with the columns that came after it was made (null in its
    rows). Raises OSError (a conflict) if another writer adds columns, or rows, at this moment."""
    dataset = open_table(uri, table, options)
    if dataset is None:
        lost = _create(uri, SCHEMAS[table], options)  # another worker was first, which is as good
        dataset = open_table(uri, table, options)
        if dataset is None:
            raise OSError(f"table {uri} cannot be created: {lost}") from lost
    if lacking := [field for field in SCHEMAS[table] if field.name not in dataset.schema.names]:
        dataset.add_columns(pa.schema(lacking))
        return open_to_write(uri, table, options)
    return dataset


def _create(uri: str, schema: pa.Schema, options: Options) -> Exception | None:
    """Commits an empty table as version 1; the error if that failed, as when another worker was first.

    Not `write_dataset(mode="create")`: of two at once, the later one replaces the earlier one's table, rows and all
    (pylance 14, 65 of 150 races). A commit that must follow version 0 can succeed only once.
    """
    try:
        lance.LanceDataset.commit(
            lance_uri(uri),
            lance.LanceOperation.Overwrite(schema, []),
            read_version=0,
            max_retries=0,
            enable_v2_manifest_paths=True,
            storage_options=options,
        )
    except (OSError, ValueError) as error:
        return error
    return None


def throw_back(dataset: lance.LanceDataset, options: Options) -> lance.LanceDataset:
    """A commit without effect that whatever is under way on the table's versions before must not follow: each such
    upsert fails with a conflict and begins anew. Raises OSError (a conflict) if `dataset` is not the newest version.

    Lance lets most commits that run at once follow one another; a Merge, which is what adding columns is, it does not.
    """
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    same, version = lance.LanceOperation.Merge(fragments, dataset.lance_schema), dataset.version
    return lance.LanceDataset.commit(dataset.uri, same, read_version=version, max_retries=0, storage_options=options)


def shut_out(dataset: lance.LanceDataset, options: Options) -> lance.LanceDataset:
    """The same rows as a table begun anew, without indexes: nothing that is under way on a version before can follow,
    neither upserts nor files that are joined nor indexes that are made. Raises OSError (a conflict) if `dataset` is not
    the newest version, or has files with deleted rows, as another writer has left them.

    An index in the making follows a Merge, with the values of rows that are gone.
    """
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    if any(fragment.deletion_file is not None for fragment in fragments):
        raise OSError("conflict: rows were deleted meanwhile")
    same, version = lance.LanceOperation.Overwrite(dataset.lance_schema, fragments), dataset.version
    return lance.LanceDataset.commit(dataset.uri, same, read_version=version, max_retries=0, storage_options=options)
