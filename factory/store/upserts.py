"""Rows into a table, each key once: however many writers, and with an index or without.

Lance notes the keys that an upsert inserts, and of two at once that insert one key lets the second fail. It does so
only where it read all keys of the table: where an index finds them it forgets to (pylance 14), and both are committed.
So upserts to a large table claim its first file, as if each changed it: of two at once the second fails, whatever they
insert, and begins anew.
"""

from __future__ import annotations

import lance
import pyarrow as pa

from factory.store.schemas import KEYS, Table
from factory.store.sql import where_in
from factory.store.upkeep import claimed_file


def upsert(dataset: lance.LanceDataset, table: Table, rows: pa.Table) -> lance.LanceDataset:
    """Inserts rows and replaces those with the same key, in one commit that must follow this version but for what
    changes other rows; returns the table as it is then. Raises OSError (a conflict) if another upsert came first."""
    claimed = claimed_file(dataset)
    on = KEYS[table] if claimed is None else _keys_to_match(dataset, table, rows)
    merge = dataset.merge_insert(on).when_matched_update_all().when_not_matched_insert_all().conflict_retries(0)
    if claimed is None:
        merge.use_index(False).execute(rows)
        return dataset
    operation = merge.execute_uncommitted(rows)[0].operation
    if claimed not in [*operation.removed_fragment_ids, *(file.id for file in operation.updated_fragments)]:
        operation.updated_fragments.append(dataset.get_fragment(claimed).metadata)
    return lance.LanceDataset.commit(dataset, operation, read_version=dataset.version, max_retries=0)


def replace(dataset: lance.LanceDataset, table: Table, rows: pa.Table, where: str) -> lance.LanceDataset:
    """Replaces rows with the same key of which `where` holds (SQL; their columns are `target.NAME`), as `upsert`."""
    dataset.merge_insert(KEYS[table]).when_matched_update_all(where).conflict_retries(0).execute(rows)
    return dataset


def _keys_to_match(dataset: lance.LanceDataset, table: Table, rows: pa.Table) -> list[str]:
    """The table's keys; of several the first one alone where an index knows it and it finds the same rows: Lance looks
    one key up in its index, for two it reads all rows."""
    keys = KEYS[table]
    if len(keys) > 1 and any(index.field_names == keys[:1] for index in dataset.describe_indices()):
        own = set(zip(*(rows[key].to_pylist() for key in keys), strict=True))
        firsts = {key[0] for key in own}
        there = dataset.to_table(columns=keys, filter=where_in(keys[0], sorted(firsts)))
        if len(firsts) == len(own) and set(zip(*(there[key].to_pylist() for key in keys), strict=True)) <= own:
            return keys[:1]
    return keys
