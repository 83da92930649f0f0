"""Cells over shapes at equal size and equal minutes: a line of a CSV file a run, and their table.

`benchmarks/cells_shapes.py` adds the lines; those of results/cells_shapes.csv stand in RESULTS.md.
A run that was measured again has two lines, of which the last holds.
"""

import csv
import math
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

FIELDS = {
    "shape": str,
    "cell": str,
    "seed": int,
    "metric": str,  # of the test
    "better": str,  # higher or lower
    "value": float,
    "steps": int,  # of training, in the minutes that all had
    "minutes": float,  # on the clock, with start and test
    "processor_minutes": float,  # far below `minutes` where the machine did other work
    "words": str,  # of train.py's command line, as a shell reads them
    "parameters": int,  # frozen ones too
    "device": str,
    "precision": str,
    "versions": str,
    "commit": str,
    "fingerprint": str,  # of the rows and the vocabulary
}

Runs = list[dict[str, Any]]


def add(file: Path, run: Mapping[str, Any]) -> None:
    """Append a run; several processes may add to one file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("x", newline="", encoding="utf-8") as fresh:
            csv.writer(fresh).writerow(FIELDS)
    except FileExistsError:
        pass
    with file.open("a", newline="", encoding="utf-8") as lines:
        csv.writer(lines).writerow([run[key] for key in FIELDS])


def read(file: Path) -> Runs:
    """The runs of a file, none where there is no file; ValueError where a line is not of the form
    above, or runs of one shape were not measured alike."""
    if not file.is_file():
        return []
    found: dict[tuple[str, str, int], dict[str, Any]] = {}
    with file.open(newline="", encoding="utf-8") as lines:
        for number, line in enumerate(csv.DictReader(lines), 2):
            try:
                run = {key: kind(line[key]) for key, kind in FIELDS.items()}
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{file}, line {number}: {error}") from None
            if not math.isfinite(run["value"]):
                raise ValueError(f"{file}, line {number}: {run['value']} is not a number")
            found[run["shape"], run["cell"], run["seed"]] = run
    runs = list(found.values())
    for shape, own in by_shape(runs).items():
        commands = sorted({command(run) for run in own})
        if len(commands) > 1:
            raise ValueError(
                f"{file}: runs of {shape} cannot be compared, they were not trained alike: "
                f"{' and '.join(commands)}; choose another --table"
            )
    return runs


def by_shape(runs: Runs) -> dict[str, Runs]:
    return {shape: [run for run in runs if run["shape"] == shape] for shape in _in_order(runs)}


def command(run: Mapping[str, Any]) -> str:
    """train.py's command line, the same for all cells and seeds."""
    own = {f"cell={run['cell']}": "cell=CELL", f"seed={run['seed']}": "seed=SEED"}
    return shlex.join(own.get(word, word) for word in shlex.split(run["words"]))


def ranking(runs: Runs) -> list[str]:
    """The cells of one shape by their mean over seeds, the best first."""
    sign = -1 if runs[0]["better"] == "higher" else 1
    means = {run["cell"]: sign * _mean(runs, run["cell"]) for run in runs}
    return sorted(means, key=means.__getitem__)


def table(runs: Runs) -> str:
    """Markdown: a line a cell, by its mean rank over the shapes; mean ± deviation over seeds, the
    best of a shape in bold, and below it the steps that the cell made of its minutes."""
    shapes = by_shape(runs)
    places = {shape: ranking(own) for shape, own in shapes.items()}
    heads = [f"{shape}, `{own[0]['metric'].split('/')[-1]}`" for shape, own in shapes.items()]
    lines = [
        f"| cell | {' | '.join(heads)} | mean rank |",
        f"| --- | {' | '.join(['---:'] * len(heads))} | ---: |",
    ]
    ranks = {}
    for cell in {run["cell"]: None for run in runs}:
        own = [place.index(cell) + 1 for place in places.values() if cell in place]
        ranks[cell] = statistics.fmean(own) if len(own) == len(shapes) else math.inf
    for cell in sorted(ranks, key=ranks.__getitem__):
        values = [_cell(own, cell, best=cell == places[shape][0]) for shape, own in shapes.items()]
        rank = f"{ranks[cell]:.1f}" if math.isfinite(ranks[cell]) else "–"
        lines.append(f"| `{cell}` | {' | '.join(values)} | {rank} |")
    return "\n".join(lines)


def conditions(runs: Runs) -> str:
    """Markdown: what a reader needs to repeat each shape."""
    parts = []
    for shape, own in by_shape(runs).items():

        def all_of(key: str, own: Runs = own) -> str:
            return "; ".join(sorted({str(run[key]) for run in own}))

        sizes = sorted(run["parameters"] for run in own)
        share = statistics.fmean(run["processor_minutes"] / run["minutes"] for run in own)
        facts = {
            "command": f"`python train.py {command(own[0])}`",
            "seeds": all_of("seed"),
            "parameters": f"{sizes[0]:,} to {sizes[-1]:,}",
            "on": f"{all_of('device')}; {all_of('precision')}; {share:.0%} of it",
            "versions": all_of("versions"),
            "commit": all_of("commit"),
            "fingerprint": f"`{all_of('fingerprint')}`",
        }
        parts.append(f"**{shape}**\n\n" + "\n".join(f"- {k}: {v}" for k, v in facts.items()))
    return "\n\n".join(parts)


def _in_order(runs: Runs) -> list[str]:
    return list({run["shape"]: None for run in runs})


def _values(runs: Runs, cell: str, key: str) -> Sequence[float]:
    return [run[key] for run in runs if run["cell"] == cell]


def _mean(runs: Runs, cell: str) -> float:
    return statistics.fmean(_values(runs, cell, "value"))


def _cell(runs: Runs, cell: str, *, best: bool) -> str:
    values = _values(runs, cell, "value")
    if not values:
        return "–"
    mean = f"{statistics.fmean(values):.4g}"
    mean = f"**{mean}**" if best else mean
    spread = f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else ""
    return f"{mean}{spread} ({statistics.fmean(_values(runs, cell, 'steps')):,.0f} steps)"
