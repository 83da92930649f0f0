"""Measurements by bucket (of positions, of lengths): as they stand in a file and on an axis."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # from, to (None: no end), count, and what was measured


def label(row: Row) -> str:
    """A bucket's name on an axis: 6–10, or 41+ where it has no end."""
    if row["to"] is None:
        return f"{row['from']}+"
    return f"{row['from']}–{row['to']}" if row["to"] > row["from"] else str(row["from"])


def mean(rows: Sequence[Row], name: str) -> float:
    """A measurement over all buckets, each weighing as much as it holds."""
    return float(sum(row[name] * row["count"] for row in rows) / sum(row["count"] for row in rows))


def append(path: Path, rows: Sequence[Row], **first: Any) -> None:
    """Add rows to a CSV file, each beginning with the columns `first` (the split, the step)."""
    if not rows:
        return
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*first, *rows[0]])
        if new:
            writer.writeheader()
        for row in rows:
            values = {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
            writer.writerow(first | values)
