"""How long a memory every cell learns to have: the experiments of configs/experiment/memory.

    python benchmarks/long_memory.py lru gru --experiments adding_600 --seeds 1 2 3 --jobs 2

Each cell trains on each experiment with each seed, as `python train.py experiment=memory/E cell=C
seed=S` does, in a process of its own with one thread; `--jobs` of them at a time. What is there
already is not run again, so a table grows by calling this with more cells or seeds. Writes
long_memory.csv, long_memory.md and one JSON file a run; ends with one JSON object,
{experiment: {cell: {"seed": [...], "error": [...], "steps": [...], "minutes": [...]}}}. The error
is test/mse for `adding` and test/loss in nats a step for `copy`.
"""

import csv
import json
import re
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from benchmarks import training
from benchmarks.training import CELLS, ROOT

EXPERIMENTS = sorted(
    path.stem for path in (ROOT / "configs" / "experiment" / "memory").glob("*.yaml")
)


# To copy over 1,000 steps a cell must know how many have passed. These can from the start, when
# they are told how long the memory is to last; all else stays as their YAML has it.
TOLD = {
    "copy_1000": {
        "lru": ["cell.min_radius=0.999", "cell.max_radius=0.9999"],  # 1,000 to 10,000 steps
        "hgrn": ["cell.rotation=true", "cell.lower_bound=0.999"],
    }
}


STEPS = "trainer.max_steps"
COLUMNS = ["seed", "error", "steps", "minutes"]  # of a run


class Run(NamedTuple):
    experiment: str
    cell: str
    seed: int

    @property
    def metric(self) -> str:
        return "test/mse" if self.experiment.startswith("adding") else "test/loss"

    @property
    def told(self) -> list[str]:
        return TOLD.get(self.experiment, {}).get(self.cell, [])

    def steps(self, overrides: list[str]) -> int:
        """Of training: the last word of the command line, or the experiment's own."""
        experiment = ROOT / "configs" / "experiment" / "memory" / f"{self.experiment}.yaml"
        own = re.findall(r"^  max_steps: (\d+)", experiment.read_text(encoding="utf-8"), re.M)
        told = [value for key, _, value in (o.partition("=") for o in overrides) if key == STEPS]
        return int((own + told)[-1])

    def file(self, folder: Path) -> Path:
        return folder / self.experiment / f"{self.cell}-{self.seed}.json"


def main() -> None:
    parser = training.arguments(__doc__, default="all", out="runs/long_memory")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=EXPERIMENTS)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    options = training.parsed(parser)
    runs = [
        Run(experiment, cell, seed)
        for seed in options.seeds
        for experiment in options.experiments
        for cell in options.cells or CELLS
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        done = list(pool.map(lambda run: once(run, options.out, options.overrides), runs))
    results = collect(options.out)
    write(results, options.out)
    print(json.dumps(results))
    if not all(done):
        sys.exit(f"{done.count(False)} of {len(done)} runs failed")


def once(run: Run, folder: Path, overrides: list[str]) -> bool:
    """Train and test, unless that was done before with the same settings; False where it failed."""
    file, overrides = run.file(folder), [*run.told, *overrides]
    if file.exists() and json.loads(file.read_text())["overrides"] == overrides:
        return True
    place = file.with_suffix("")
    words = [
        f"experiment=memory/{run.experiment}", f"cell={run.cell}", f"seed={run.seed}", "logger=csv",
        f"hydra.run.dir={place.resolve()}", *overrides,
    ]  # fmt: skip
    start = time.perf_counter()
    said = training.train(run, words)
    seconds = time.perf_counter() - start
    if said is None:
        return False
    error = json.loads(said.splitlines()[-1])["test"][run.metric]
    result = {
        **run._asdict(),
        "metric": run.metric,
        "error": error,
        "steps": run.steps(overrides),
        "minutes": round(seconds / 60, 2),
        "overrides": overrides,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result))
    print(f"{run.experiment} {run.cell} {run.seed}: {error} in {seconds / 60:.1f} min", flush=True)
    return True


def collect(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """All that was measured below the folder, best cell first."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for file in sorted(folder.glob("*/*.json")):
        run = json.loads(file.read_text())
        cells = found.setdefault(run["experiment"], {})
        entry = cells.setdefault(run["cell"], {name: [] for name in COLUMNS})
        for name in COLUMNS:
            entry[name].append(run[name])
    return {
        experiment: dict(sorted(cells.items(), key=lambda item: statistics.fmean(item[1]["error"])))
        for experiment, cells in found.items()
    }


def write(results: dict[str, dict[str, dict[str, Any]]], folder: Path) -> None:
    """long_memory.csv, a line a run; long_memory.md, a table of means over seeds."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "long_memory.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["experiment", "cell", *COLUMNS])
        for experiment, cells in results.items():
            for cell, entry in cells.items():
                lines = zip(*(entry[name] for name in COLUMNS), strict=True)
                writer.writerows([experiment, cell, *line] for line in lines)
    names = list(results)
    cells = sorted({cell for found in results.values() for cell in found})
    lines = ["| cell | " + " | ".join(names) + " |", "|---|" + "--:|" * len(names)]
    for cell in cells:
        entries = [describe(results[name].get(cell)) for name in names]
        lines.append(f"| `{cell}` | " + " | ".join(entries) + " |")
    (folder / "long_memory.md").write_text("\n".join(lines) + "\n")


def describe(entry: dict[str, Any] | None) -> str:
    """Mean error ± deviation over seeds (steps, minutes a run)."""
    if entry is None:
        return ""
    errors, minutes = entry["error"], statistics.fmean(entry["minutes"])
    spread = f" ± {statistics.stdev(errors):.1g}" if len(errors) > 1 else ""
    steps = "/".join(f"{count:,}" for count in sorted(set(entry["steps"])))
    return f"{statistics.fmean(errors):.2g}{spread} ({steps} steps, {minutes:.1f} min)"


if __name__ == "__main__":
    main()
