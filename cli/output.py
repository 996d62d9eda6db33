"""What commands print, beyond single lines."""

from __future__ import annotations


def show_table(columns: list[str], rows: list[list[str]]) -> None:
    """Aligned text that stays whole when it is piped."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    for line in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
