"""What a sweep found: its table, sweep.csv, pictures, and the best run as an experiment."""

import csv
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

import sweeping.space
from launch import groups
from sweeping.pictures import draw
from sweeping.plan import Plan
from sweeping.study import Queue

ROOT = Path(__file__).resolve().parent.parent
SHOWN = 5


def write(study: optuna.Study, queue: Queue, plan: Plan) -> dict[str, Any]:
    """Write everything into the sweep's folder, print the table; the facts of the last line."""
    folder, trials = Path(plan.folder), queue.wanted()
    keys = list(plan.space)
    write_csv(folder / "sweep.csv", trials, keys)
    complete = ranked(trials, plan.mode)
    counts = Counter(trial.state.name.lower() for trial in trials)
    found: dict[str, Any] = dict.fromkeys(["best", "value", "run", "experiment", "test"])
    found = {"sweep": str(folder), "monitor": plan.monitor, "trials": counts} | found
    pictures = draw(folder, study, complete, plan)
    if complete:
        best = complete[0]
        place = write_experiment(folder / "experiment" / "best.yaml", best, plan)
        run = best.user_attrs.get("run")
        found |= {"best": best.number, "value": best.value, "run": run, "experiment": str(place)}
    show(complete, trials, plan)
    print(f"written: {', '.join(str(p) for p in [folder / 'sweep.csv', *pictures])}")
    if complete:
        print(f"the best again: python train.py --config-dir {folder} experiment=best")
    return found


def ranked(trials: Iterable[FrozenTrial], mode: str) -> list[FrozenTrial]:
    """Those with a value, the best first."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return sorted(done, key=lambda trial: trial.value or 0.0, reverse=mode == "max")


def write_csv(path: Path, trials: Iterable[FrozenTrial], keys: list[str]) -> None:
    """A row a trial: what was tried, how it ended, where it ran."""
    columns = [
        "trial",
        "state",
        "value",
        "validations",
        "minutes",
        *keys,
        "starts",
        "worker",
        "run",
        "error",
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for trial in trials:
            told = {key: trial.user_attrs.get(key) for key in ("starts", "worker", "run", "error")}
            minutes = trial.duration and round(trial.duration.total_seconds() / 60, 2)
            writer.writerow(
                {"trial": trial.number, "state": trial.state.name.lower(), "value": trial.value,
                 "validations": len(trial.intermediate_values), "minutes": minutes,
                 **trial.params, **told}
            )  # fmt: skip


def write_experiment(path: Path, best: FrozenTrial, plan: Plan) -> Path:
    """The sweep's own words and what was found, as a file of the group `experiment`.

    A choice of a group becomes an entry of its defaults list, an experiment that the sweep was of
    stands first there.
    """
    space = sweeping.space.parse(plan.space)
    words = [*plan.words, *(space[key].word(value) for key, value in best.params.items())]
    known, parents, chosen, values = groups(), [], [], OmegaConf.create()
    for override in OverridesParser.create().parse_overrides(words):
        key, value = override.key_or_group, override.value()
        if key == "experiment":
            parents.append(str(value))
        elif key.partition("/")[0] in known and "." not in key:
            chosen.append({f"override /{key}": str(value)})
        elif not key.startswith(("paths.", "logger.")):
            OmegaConf.update(values, key, override.value(), force_add=True)
    head = [
        "# @package _global_",
        f"# Trial {best.number} of the sweep {plan.name}: {plan.monitor} {best.value:.6g}.",
    ]
    chosen = [one for one in chosen if next(iter(one)).split("/")[-1] not in ("logger", "paths")]
    body = {"defaults": [*parents, *chosen, "_self_"], **OmegaConf.to_container(values)}  # type: ignore[dict-item]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(head) + "\n" + OmegaConf.to_yaml(body), encoding="utf-8")
    return path


def show(complete: list[FrozenTrial], trials: list[FrozenTrial], plan: Plan) -> None:
    """The best trials, and what became of the others."""
    keys = list(plan.space)
    rows = [["trial", plan.monitor, *keys]]
    for trial in complete[:SHOWN]:
        cells = [trial.params.get(key) for key in keys]
        rows.append([str(trial.number), f"{trial.value:.6g}",
                     *(f"{c:.4g}" if isinstance(c, float) else str(c) for c in cells)])  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    pruned = sum(trial.state == TrialState.PRUNED for trial in trials)
    print(
        f"{len(complete)} of {len(trials)} trials complete, {pruned} pruned, {len(failed)} failed"
    )
    for trial in failed:
        print(f"  trial {trial.number} failed: {trial.user_attrs.get('error')}")


def test(run: Path) -> dict[str, float] | None:
    """Test the best run: the only look at the test set. None where it is not on this machine."""
    if not (run / "checkpoints").is_dir():
        print(f"{run} is on another machine: test it there (train.py fit=false ckpt={run})")
        return None
    command = [sys.executable, str(ROOT / "train.py"), "fit=false", f"ckpt='{run}'"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, encoding="utf-8")
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(f"the test of {run} ended with {done.returncode}")
        return None
    return json.loads(done.stdout.splitlines()[-1])["test"]  # type: ignore[no-any-return]
