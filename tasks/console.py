"""What a run says on the terminal: what it reads, what it measured, a few samples.

Names and texts come from data: as `Text` nothing in them is read as markup or as an emoji.
"""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from tasks import audit_report
from tasks.base import Table

_console = Console(highlight=False, soft_wrap=False)


@rank_zero_only
def say(text: str) -> None:
    """A line, once over all ranks."""
    print(text, flush=True)


@rank_zero_only
def show_report(name: str, report: Mapping[str, Any]) -> None:
    """The data module's sizes and counts, on one or more lines."""
    _console.print(Text(f"{name}: " + ", ".join(f"{k} {_number(v)}" for k, v in report.items())))


@rank_zero_only
def show_metrics(metrics: Mapping[str, float], notes: list[str]) -> None:
    """A table of the test's metrics, and the signatures of those that have one."""
    table = RichTable(box=box.SIMPLE_HEAD, title="test", title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(Text(name), f"{value:.4f}")
    _console.print(table)
    for note in notes:
        _console.print(Text(note))


@rank_zero_only
def show_classes(classes: Table | None, most: int = 30) -> None:
    """A row a class, unless they are too many to read (classes.csv has them all)."""
    if classes is None or not 0 < len(classes.rows) <= most:
        return
    table = RichTable(box=box.SIMPLE_HEAD, title="classes", title_justify="left")
    for column in classes.columns:
        table.add_column(column, justify="left" if column == "class" else "right")
    for name, *shares, support in classes.rows:
        cells = ["-" if share is None else f"{share:.4f}" for share in shares]
        table.add_row(Text(str(name)), *cells, f"{support:,}")
    _console.print(table)


@rank_zero_only
def show_audit(found: Mapping[str, Any] | None) -> None:
    """A row a figure of what a language model wrote, beside that of real text."""
    if found is None:
        return
    said = ", ".join(f"{name} {v}" for name, v in found["settings"].items() if v is not None)
    columns, rows = audit_report.table(found)
    table = RichTable(box=box.SIMPLE_HEAD, title=f"audit: {said}", title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, *values in rows:
        cells = (f"{v:.4f}" if isinstance(v, float) else _number(v) for v in values)
        table.add_row(Text(name), *("-" if cell == "None" else cell for cell in cells))
    _console.print(table)


@rank_zero_only
def show_samples(samples: Table, most: int = 8, longest: int = 300) -> None:
    """A few predictions beside what was right."""
    if not samples.rows:
        return
    table = RichTable(box=box.SIMPLE_HEAD, title="samples", title_justify="left", show_lines=True)
    for column in samples.columns:
        table.add_column(column, overflow="fold")
    for row in samples.rows[:most]:
        texts = [str(cell) for cell in row]
        table.add_row(*(Text(t[:longest] + "…" * (len(t) > longest)) for t in texts))
    _console.print(table)


def _number(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )
