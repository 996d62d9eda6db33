"""How a column is described, and the kinds of columns that several tables have."""

from __future__ import annotations

from typing import Final

import pyarrow as pa

LATER: Final = b"later"  # metadata of a column that older roots lack
TEXT, FLOATS = pa.string(), pa.list_(pa.float32())
ENCODERS = pa.list_(pa.struct([("name", pa.string()), ("width", pa.int32())]))
PARTS = pa.struct([(part, pa.float32()) for part in ("sharpness", "size", "frontal", "visible", "exposure")])
_CONSENT = "where it is written down that they agreed; null: nobody said so"
_EXPIRES = "Unix time from which on they do not agree any more; null: not said"
_SCOPE = "what they agreed to, as it was told; null: not said"


def column(
    name: str, kind: pa.DataType, doc: str, unit: str = "", *, key: bool = False, later: bool = False
) -> pa.Field:
    """`later`: older roots lack it; it is null in their rows, and comes last in its table."""
    metadata = {"doc": doc, **({"unit": unit} if unit else {}), **({LATER.decode(): "true"} if later else {})}
    if key:  # lets Lance see that two concurrent upserts insert the same row, and retry one of them
        metadata["lance-schema:unenforced-primary-key"] = "true"
    return pa.field(name, kind, nullable=not key, metadata=metadata)


def consent() -> list[pa.Field]:
    """Of whoever is in the photo."""
    return [
        column("consent", TEXT, _CONSENT, later=True),
        column("consent_expires", pa.float64(), _EXPIRES, "s", later=True),
        column("consent_scope", TEXT, _SCOPE, later=True),
    ]
