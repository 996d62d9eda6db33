"""What commands print, beyond single lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.jobs.job import Summary


def show_table(columns: list[str], rows: list[list[str]]) -> None:
    """Aligned text that stays whole when it is piped."""
    widths = [max(len(line[i]) for line in [columns, *rows]) for i in range(len(columns))]
    for line in [columns, *rows]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def show_summary(summary: Summary, root: str) -> None:
    """The job's counts, and where they are written."""
    from factory.store.tables import Store

    for line in summary.lines():
        print(line)
    print(f"{Store(root).root}/jobs/{summary.job_id}/summary.json")
