"""Columns that come and go between versions: an older root's tables lack some, a newer root's have more."""

from __future__ import annotations

import re

import pyarrow as pa

from factory.store.schemas import LATER, SCHEMAS, Table


def check_columns(uri: str, table: Table, schema: pa.Schema) -> None:
    """ValueError with the remedy if a table's columns are a newer version's, or not ours at all."""
    ours = {field.name: str(field.type) for field in SCHEMAS[table]}
    theirs = {field.name: str(field.type) for field in schema}
    lacking = set(ours) - set(theirs) - set(LATER[table])
    other = {name for name in set(ours) & set(theirs) if ours[name] != theirs[name]}
    newer = set(theirs) - set(ours)
    if lacking or other:
        raise ValueError(
            f"table {uri} has other columns than this version writes ({', '.join(sorted(lacking | other | newer))}); "
            "use another --root, or export that table and move it away"
        )
    if newer:
        raise ValueError(
            f"table {uri} was written by a newer version of this program, which added {', '.join(sorted(newer))}; "
            "update this one (git pull, then make install), or use another --root"
        )


def with_columns(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Rows with just these columns, in this order; those that an older table lacks are null."""
    there = set(rows.column_names)
    columns = [
        rows[field.name].cast(field.type) if field.name in there else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def as_stored(table: Table, stored: pa.Schema, where: str | None) -> str | None:
    """An SQL condition in which columns that an older table lacks are NULL."""
    lacking = [name for name in LATER[table] if name not in stored.names]
    if where is None or not lacking:
        return where
    name = re.compile(rf"\b({'|'.join(lacking)})\b")
    parts = re.split(r"('(?:[^']|'')*')", where)  # quoted texts stay as they are
    return "".join(part if part.startswith("'") else name.sub("NULL", part) for part in parts)
