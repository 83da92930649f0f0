"""Which cell for which shape: cells on one data set of each shape, at equal size and equal minutes.

    python benchmarks/cells_shapes.py --minutes 5                      # 15 cells, 5 shapes: 7 hours
    python benchmarks/cells_shapes.py lstm hgrn --shapes tagging --seeds 1 2 3
    python benchmarks/cells_shapes.py --shapes translation --set data=dates model.budget=500k

Each cell trains for as many minutes on one thread, whatever it makes of them, in a process of its
own; validation, eight times, says which checkpoint is tested. A line a run is added to the table,
a CSV file (ledger/comparison.py): a run that is there already is not run again, so a table grows by
calling this with more cells, shapes or seeds, in several processes where there are cores for them.
What stands in results/cells_shapes.csv, `python reproduce.py report` writes into RESULTS.md. Ends
with one JSON object, {shape: {cell: {"value": [one a seed], "steps": [...], ...}}}.
"""

import csv
import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import training
from ledger import comparison
from ledger.runs import circumstances, commit_of_code

SOME = [  # of every family: fused, stepwise, scans, matrix states; and one that forgets at once
    "rnn", "lstm", "gru",
    "layernorm_lstm", "slstm", "ugrnn",
    "mingru", "qrnn", "sru", "hgrn", "rglru", "lru",
    "mlstm", "deltanet",
    "memoryless",
]  # fmt: skip


class Shape(NamedTuple):
    words: list[str]  # small data that tell cells apart within minutes; --set chooses others
    budget: str  # trainable parameters, embeddings counted
    metric: str
    better: str


# features of a frozen backbone, which are computed once
PICTURES = [
    "data=ucm_captions",
    "task.weights=${paths.data_dir}/weights/squeezenet1_0.safetensors",
]
# small vocabularies and vectors, so that an epoch takes two minutes
PAIRS = [
    "data=multi30k", "tokenizer.vocab_size=2000", "data.batch_size=32",
    "model.encoder.embedding_size=128", "model.decoder.embedding_size=128",
]  # fmt: skip
# few rows a step; and 512 to validate, since all of them take a slow cell a minute
PARAGRAPHS = ["data=people_daily", "data.batch_size=8", "trainer.limit_val_batches=2"]
SCENES = ["data=tiny_shakespeare", "data.batch_size=8"]  # 64 rows leave 129 steps in two minutes
SHAPES = {
    "classification": Shape(["data=chinese_reviews"], "1M", "test/accuracy", "higher"),
    "tagging": Shape(PARAGRAPHS, "4M", "test/accuracy", "higher"),
    "captioning": Shape(PICTURES, "1M", "test/cider", "higher"),
    "translation": Shape(PAIRS, "1500k", "test/bleu", "higher"),
    "language_model": Shape(SCENES, "1M", "test/bits_per_character", "lower"),
}


class Run(NamedTuple):
    shape: str
    cell: str
    seed: int

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
    parser.add_argument("--table", type=Path, help="default: OUT/cells_shapes.csv")
    options = training.parsed(parser)
    table = options.table or options.out / "cells_shapes.csv"
    runs = [
        Run(shape, cell, seed)
        for seed in options.seeds
        for shape in options.shapes
        for cell in options.cells or SOME
    ]
    try:
        for run in runs:  # before the first of them takes its minutes
            known(run, table, run.words(options.minutes, options.overrides))
        failed = sum(
            not once(run, options.out, table, run.words(options.minutes, options.overrides))
            for run in runs
        )
        found = comparison.read(table)
    except ValueError as error:
        sys.exit(f"error: {error}")
    print(comparison.table(found), json.dumps(collected(found)), sep="\n")
    if failed:
        sys.exit(f"{failed} runs failed")


def known(run: Run, table: Path, words: list[str]) -> bool:
    """Whether the table has this run; ValueError where its runs of the shape have other words."""
    own = [other for other in comparison.read(table) if other["shape"] == run.shape]
    said = comparison.command({**run._asdict(), "words": shlex.join(words)})
    if own and comparison.command(own[0]) != said:
        raise ValueError(
            f"{table} has runs of {run.shape} that were trained otherwise: "
            f"{comparison.command(own[0])}, now {said}; choose another --table"
        )
    return (run.cell, run.seed) in {(other["cell"], other["seed"]) for other in own}


def once(run: Run, folder: Path, table: Path, words: list[str]) -> bool:
    """Train and test, unless the table has this run; False where it failed."""
    if known(run, table, words):
        return True
    place = (folder / run.shape / f"{run.cell}-{run.seed}").resolve()
    commit = commit_of_code()
    start, processor = time.perf_counter(), sum(os.times()[2:4])
    said = training.train(run, [*words, f"hydra.run.dir={place}"])
    if said is None:
        return False
    shape = SHAPES[run.shape]
    value = json.loads(said.splitlines()[-1])["test"][shape.metric]
    if value is None:
        print(f"{run} failed: {shape.metric} is not a finite number", flush=True)
        return False
    result = {
        **run._asdict(),
        "metric": shape.metric,
        "better": shape.better,
        "value": value,
        "steps": steps(place / "metrics.csv"),
        "minutes": round((time.perf_counter() - start) / 60, 2),  # with start, validation, test
        "processor_minutes": round((sum(os.times()[2:4]) - processor) / 60, 2),
        "words": shlex.join(words),
        "commit": commit,
        **circumstances(place, threads=1),
    }
    comparison.add(table, result)
    print(f"{run.shape} {run.cell} {run.seed}: {value}, {result['steps']} steps", flush=True)
    return True


def steps(metrics: Path) -> int:
    """Of training: the number at which the test was logged."""
    with metrics.open(newline="", encoding="utf-8") as file:
        return max(int(row["step"]) for row in csv.DictReader(file))


def collected(runs: comparison.Runs) -> dict[str, dict[str, dict[str, list[Any]]]]:
    """All that was measured, of a shape the best cell first."""
    keys = ["seed", "value", "steps", "parameters", "minutes", "processor_minutes"]
    return {
        shape: {
            cell: {key: [run[key] for run in own if run["cell"] == cell] for key in keys}
            for cell in comparison.ranking(own)
        }
        for shape, own in comparison.by_shape(runs).items()
    }


if __name__ == "__main__":
    main()
