"""How each class fares: precision, recall, F1 and how often it occurs."""

import csv
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from tasks.base import Table

COLUMNS = ["class", "precision", "recall", "f1", "support"]


def class_table(confusion: Tensor, labels: Sequence[str]) -> Table:
    """Counts (targets, predictions) → a row a class; values 0 to 1, support is a count.

    None where there is nothing to divide by: the precision of a class that was never predicted,
    the recall of one that never occurred, F1 where neither. The mean of `f1` is the metric `f1`.
    """
    rows = []
    hits, support, predicted = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    counts = zip(labels, hits.tolist(), support.tolist(), predicted.tolist(), strict=True)
    for label, right, true, given in counts:
        rows.append([label, _share(right, given), _share(right, true),
                     _share(2 * right, true + given), int(true)])  # fmt: skip
    return Table(COLUMNS, rows)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def write_classes(table: Table, path: Path) -> None:
    """Write the table as CSV, None as an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([table.columns, *table.rows])
