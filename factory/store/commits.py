"""Commits to Lance tables beside other writers: a table made once, another try, throwing back what is under way."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final, TypeVar

import lance
import pyarrow as pa

_Result = TypeVar("_Result")
_RETRY_FOR_S: Final = 300.0
_LONGEST_WAIT_S: Final = 2.0
_GONE: Final = 8  # times that a version may be gone


def retried(commit: Callable[[], _Result]) -> _Result:
    """What `commit` gives, which is called anew (it must open the table anew) whenever another writer came first."""
    deadline, wait_s, num_gone = time.monotonic() + _RETRY_FOR_S, 0.02, 0
    while True:
        try:
            return commit()
        except OSError as error:
            num_gone += _is_gone(error)
            again = num_gone <= _GONE if _is_gone(error) else is_conflict(error)
            if not again or time.monotonic() > deadline:
                raise
        time.sleep(random.uniform(0, wait_s))  # else all who failed together fail together again
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def is_conflict(error: OSError) -> bool:
    """Whether a commit failed because another writer's came first."""
    text = str(error).lower()
    return "conflict" in text or "too many concurrent writers" in text


def _is_gone(error: OSError) -> bool:
    """Whether files of the version that was read are gone: an eraser's doing, if it is not a damaged table."""
    return "not found" in str(error).lower()


def create(uri: str, schema: pa.Schema, options: dict[str, str] | None) -> Exception | None:
    """Commits an empty table as version 1; the error if that failed, as when another worker was first.

    Not `write_dataset(mode="create")`: of two at once, the later one replaces the earlier one's table, rows and all
    (pylance 14, 65 of 150 races). A commit that must follow version 0 can succeed only once.
    """
    try:
        lance.LanceDataset.commit(
            uri,
            lance.LanceOperation.Overwrite(schema, []),
            read_version=0,
            max_retries=0,
            enable_v2_manifest_paths=True,
            storage_options=options,
        )
    except (OSError, ValueError) as error:
        return error
    return None


def throw_back(dataset: lance.LanceDataset, options: dict[str, str] | None) -> None:
    """A commit without effect that whatever is under way on the table's versions before must not follow: each such
    upsert fails with a conflict and begins anew. Raises OSError (a conflict) if `dataset` is not the newest version.

    Lance lets most commits that run at once follow one another; a Merge, which is what adding columns is, it does not.
    """
    fragments = [fragment.metadata for fragment in dataset.get_fragments()]
    same = lance.LanceOperation.Merge(fragments, dataset.lance_schema)
    lance.LanceDataset.commit(dataset.uri, same, read_version=dataset.version, max_retries=0, storage_options=options)
