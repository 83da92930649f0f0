"""The files that a run appends to, row by row, and how a resumed run goes on in them.

A checkpoint records how many lines each holds. A run that goes on from it cuts away what came
after, and writes the same again: no step stands twice.
"""

import csv
import os
from collections.abc import Mapping
from pathlib import Path

METRICS = "metrics.csv"
OWN = ("*.csv", "samples/*.jsonl")
PATTERNS = (*OWN, *(f"parts/*/{own}" for own in OWN))  # task=multi: a folder a part


def lines(folder: Path) -> dict[str, int]:
    """Each appended file of a run, by its name below the folder → how many lines it holds."""
    counts = {}
    for path in _files(folder):
        with path.open("rb") as file:
            counts[path.relative_to(folder).as_posix()] = sum(1 for _ in file)
    return counts


def cut(folder: Path, counts: Mapping[str, int], *, step: int) -> None:
    """Back to what the files held when `lines` counted them, after `step` optimiser steps.

    The metrics of the last step are written just after a checkpoint of it: they stay.
    """
    for path in _files(folder):
        keep = counts.get(path.relative_to(folder).as_posix(), 0)
        kept = path.read_bytes().splitlines(keepends=True)
        here = kept[:keep]
        if path.name == METRICS:
            header, *_ = csv.reader([kept[0].decode()]) if kept else ([],)
            place = header.index("step") if "step" in header else 0
            here += [line for line in kept[keep:] if _before(line, place, step)]
        if len(here) == len(kept):
            continue
        if not here:
            path.unlink()
            continue
        aside = path.with_name(f"{path.name}.new")
        with aside.open("wb") as file:
            file.writelines(here)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)


def _before(line: bytes, place: int, step: int) -> bool:
    row = next(csv.reader([line.decode()]), [])
    value = row[place] if place < len(row) and line.endswith(b"\n") else ""
    return value.isdigit() and int(value) < step


def _files(folder: Path) -> list[Path]:
    return sorted(path for pattern in PATTERNS for path in folder.glob(pattern))
