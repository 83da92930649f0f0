"""Which cell for which shape: cells on one data set of each shape, at equal size and equal minutes.

    python benchmarks/cells_shapes.py --minutes 5                      # 15 cells, 5 shapes: 6 hours
    python benchmarks/cells_shapes.py lstm hgrn --shapes tagging --seeds 1 2 3

Each cell trains for as many minutes on one thread, whatever it makes of them, in a process of its
own; validation, eight times, says which checkpoint is tested. A run that is there already is not
run again, so a table grows by calling this with more cells, shapes or seeds. Writes
cells_shapes.csv, cells_shapes.md and one JSON file a run; ends with one JSON object,
{shape: {cell: {"value": [one a seed], "steps": [...], "parameters": [...], ...}}}.
"""

import csv
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import training

SOME = [  # of every family: fused, stepwise, scans, matrix states; and one that forgets at once
    "rnn", "lstm", "gru",
    "layernorm_lstm", "slstm", "ugrnn",
    "mingru", "qrnn", "sru", "hgrn", "rglru", "lru",
    "mlstm", "deltanet",
    "memoryless",
]  # fmt: skip


class Shape(NamedTuple):
    words: list[str]  # data that needs no local copy; --set chooses others
    budget: str  # trainable parameters, embeddings counted
    metric: str
    better: str


SHAPES = {
    "classification": Shape(["data=chinese_reviews"], "1M", "test/accuracy", "higher"),
    "tagging": Shape(["data=people_daily"], "4M", "test/accuracy", "higher"),
    "captioning": Shape(["data=shapes"], "700k", "test/bleu4", "higher"),
    "translation": Shape(["data=dates"], "500k", "test/exact_match", "higher"),
    "language_model": Shape(["data=python_source"], "1M", "test/bits_per_character", "lower"),
}


class Run(NamedTuple):
    shape: str
    cell: str
    seed: int

    def file(self, folder: Path) -> Path:
        return folder / self.shape / f"{self.cell}-{self.seed}.json"

    def words(self, minutes: float, overrides: list[str]) -> list[str]:
        """train.py's command line; what the user sets stands last, and holds."""
        shape = SHAPES[self.shape]
        return [
            f"task={self.shape}", *shape.words, f"cell={self.cell}", f"seed={self.seed}",
            f"model.budget={shape.budget}", "scheduler=constant", "scheduler.warmup_steps=50",
            "trainer.max_epochs=-1", f"trainer.max_time={clock(minutes)}",
            f"trainer.val_check_interval={clock(minutes / 8)}",
            "trainer.check_val_every_n_epoch=null", "logger=csv", *overrides,
        ]  # fmt: skip


def clock(minutes: float) -> str:
    """Minutes as Lightning reads a time: days:hours:minutes:seconds."""
    rest, seconds = divmod(max(1, round(60 * minutes)), 60)
    hours, minute = divmod(rest, 60)
    return f"{hours // 24:02d}:{hours % 24:02d}:{minute:02d}:{seconds:02d}"


def main() -> None:
    parser = training.arguments(__doc__, default=" ".join(SOME), out="runs/cells_shapes")
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--minutes", type=float, default=5.0, help="of training, for each run")
    options = training.parsed(parser)
    failed = 0
    for seed in options.seeds:
        for shape in options.shapes:
            for cell in options.cells or SOME:
                run = Run(shape, cell, seed)
                failed += not once(run, options.out, options.minutes, options.overrides)
                write(collect(options.out), options.out)
    print(json.dumps(collect(options.out)))
    if failed:
        sys.exit(f"{failed} runs failed")


def once(run: Run, folder: Path, minutes: float, overrides: list[str]) -> bool:
    """Train and test, unless that was done before with the same words; False where it failed."""
    file, words = run.file(folder), run.words(minutes, overrides)
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["words"] == words:
        return True
    place = file.with_suffix("").resolve()
    start, processor = time.perf_counter(), sum(os.times()[2:4])
    said = training.train(run, [*words, f"hydra.run.dir={place}"])
    if said is None:
        return False
    shape = SHAPES[run.shape]
    result = {
        **run._asdict(),
        "metric": shape.metric,
        "value": json.loads(said.splitlines()[-1])["test"][shape.metric],
        "steps": steps(place / "metrics.csv"),
        "parameters": size(said),
        "minutes": round((time.perf_counter() - start) / 60, 2),  # with start, validation, test
        "processor_minutes": round((sum(os.times()[2:4]) - processor) / 60, 2),
        "words": words,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result), encoding="utf-8")
    print(f"{run.shape} {run.cell} {run.seed}: {result['value']}, {result['steps']} steps")
    return True


def steps(metrics: Path) -> int:
    """Of training, as far as they were logged."""
    with metrics.open(newline="", encoding="utf-8") as file:
        return max(int(row["step"]) for row in csv.DictReader(file)) + 1


def size(said: str) -> int:
    """The number of parameters, from the line of the callback `estimate`."""
    line = next(line for line in said.splitlines() if " parameters" in line and "step" in line)
    return int(line.split(" parameters")[0].split()[-1].replace(",", ""))


Results = dict[str, dict[str, dict[str, Any]]]


def collect(folder: Path) -> Results:
    """All that was measured below the folder; of a shape the best cell first."""
    found: Results = {}
    for file in sorted(folder.glob("*/*.json")):
        run = json.loads(file.read_text(encoding="utf-8"))
        entry = found.setdefault(run["shape"], {}).setdefault(run["cell"], {})
        for key in ("seed", "value", "steps", "parameters", "minutes", "processor_minutes"):
            entry.setdefault(key, []).append(run[key])
    for shape, cells in found.items():
        sign = -1 if SHAPES[shape].better == "higher" else 1
        ordered = sorted(cells.items(), key=lambda one: sign * statistics.fmean(one[1]["value"]))
        found[shape] = dict(ordered)
    return found


def write(results: Results, folder: Path) -> None:
    """cells_shapes.csv, a line a run; cells_shapes.md, a table of means over seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    keys = ["seed", "value", "steps", "parameters", "minutes", "processor_minutes"]
    with (folder / "cells_shapes.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["shape", "cell", *keys])
        for shape, cells in results.items():
            for cell, entry in cells.items():
                lines = zip(*(entry[key] for key in keys), strict=True)
                writer.writerows([shape, cell, *line] for line in lines)
    named = [f"{shape} `{SHAPES[shape].metric.removeprefix('test/')}`" for shape in results]
    cells = sorted({cell for found in results.values() for cell in found})
    lines = ["| cell | " + " | ".join(named) + " |", "|---|" + "--:|" * len(named)]
    for cell in cells:
        entries = [describe(found, cell) for found in results.values()]
        lines.append(f"| `{cell}` | " + " | ".join(entries) + " |")
    (folder / "cells_shapes.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def describe(found: dict[str, dict[str, Any]], cell: str) -> str:
    """Mean ± deviation over seeds (steps in those minutes); the best of a shape is bold."""
    if cell not in found:
        return ""
    values, steps = found[cell]["value"], statistics.fmean(found[cell]["steps"])
    mean = f"{statistics.fmean(values):.4f}"
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    mean = f"**{mean}**" if cell == next(iter(found)) else mean
    return f"{mean}{spread} ({steps:,.0f} steps)"


if __name__ == "__main__":
    main()
