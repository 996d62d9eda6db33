"""Conditions in SQL, which Lance reads."""

from __future__ import annotations

from collections.abc import Sequence


def where_in(column: str, values: Sequence[str]) -> str:
    """An SQL condition: the column is one of these texts. One with half a character, as from a file name in another
    encoding or from JSON, is in no table."""
    values = [value for value in values if value.encode(errors="ignore").decode() == value]
    if not values:
        return "FALSE"  # SQL has no empty IN ()
    return f"{column} IN ({', '.join(map(quoted, values))})"


def quoted(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"
