"""Rows that leave as Parquet: what a model made says so, as a file and within each row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from factory.provenance.xmp import fields, told
from factory.store.schemas import SCHEMAS, Table

if TYPE_CHECKING:
    from factory.provenance.marks import Marker

# Columns of files that a model made. Of the other tables none is: crops are of photos, and words are no pictures.
MADE: Final[dict[Table, tuple[str, ...]]] = {
    "images": ("image",),
    "videos": ("video", "poster"),
    "models": ("splats", "turntable", "poster"),
}


def marked_schema(table: Table) -> pa.Schema:
    """A table's schema with XMP's fields in its metadata, where it holds what a model made."""
    schema = SCHEMAS[table]
    return schema.with_metadata({**(schema.metadata or {}), **fields()}) if table in MADE else schema


def marked_rows(rows: pa.Table, table: Table, marker: Marker) -> pa.Table:
    """Rows whose files say that a model made them, and how."""
    for column in MADE.get(table, ()):
        known = [name for name in rows.column_names if name not in MADE[table]]
        made: list[dict[str, Any]] = [told(row) for row in rows.select(known).to_pylist()]
        files = [
            None if data is None else marker.mark(data, how)
            for data, how in zip(rows[column].to_pylist(), made, strict=True)
        ]
        at = rows.column_names.index(column)
        rows = rows.set_column(at, rows.schema.field(column), pa.array(files, rows.schema.field(column).type))
    return rows
