"""Run a row of the ledger: a process a seed, and what is done is not done again.

Beside the directory of a run, RUNS/ROW/SEED, lies SEED.json: the config it began with, the minutes
it took so far and, once it is finished, what it measured: all metrics of the test, so that a row
of another metric can have the same runs.
"""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ledger.baselines
import ledger.rows
from ledger.form import verdict

RUNS = Path("runs/reproduce")  # below the working directory, as all runs of train.py


def measure(name: str, *, results: Path = ledger.rows.RESULTS, runs: Path = RUNS) -> str:
    """Run what is missing of a row's seeds, fill its file after each, and return the verdict.

    ValueError where a run ends without a result, or the row needs a GPU that is not there.
    """
    row = ledger.rows.given(name, results)
    if row["needs"] == "gpu" and not _has_gpu():
        raise ValueError(f"{name} needs a GPU, and there is none: it is not run here")
    folder = runs / row.get("runs", name)
    seeds: dict[int, dict[str, Any]] = {}
    baselines: dict[str, dict[str, Any]] = {}
    for seed in row["seeds"]:
        seeds[seed] = run_seed(row, seed, folder)
        ledger.rows.write(name, seeds, baselines=baselines, results=results)
    for baseline in row.get("baselines", []):
        baselines[baseline] = ledger.baselines.measure(row, baseline, folder)
        ledger.rows.write(name, seeds, baselines=baselines, results=results)
    return verdict(row, seeds, baselines)


def run_seed(row: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """The measurements of one seed: read where it is finished, else run (on from where it was)."""
    run, notes = folder / str(seed), folder / f"{seed}.json"
    known: dict[str, Any] = {"config": row["config"], "minutes": 0.0, "measured": None}
    if notes.is_file():
        known = json.loads(notes.read_text(encoding="utf-8"))
    if known["config"] != row["config"]:
        raise ValueError(
            f"{run} was begun with {' '.join(known['config'])}, the row now says "
            f"{' '.join(row['config'])}: move {folder} away to begin anew"
        )
    if known["measured"] is None:
        said: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        commit = _commit()  # of the code that trains, whatever is committed meanwhile
        began = time.monotonic()
        try:
            own = [f"seed={seed}", f"hydra.run.dir={run}", "resume=true"]
            train(["logger=csv", *row["config"], *own], said)
        finally:  # the minutes of a run that was interrupted count, too
            known["minutes"] += (time.monotonic() - began) / 60
            notes.write_text(json.dumps(known), encoding="utf-8")
        known["measured"] = {"signature": _signature(said), "commit": commit, **circumstances(run)}
        known["test"] = json.loads(said[-1])["test"]
        notes.write_text(json.dumps(known), encoding="utf-8")
    value = value_of(row, known["test"])
    return {"value": value, "minutes": round(known["minutes"], 2), **known["measured"]}


def train(words: list[str], said: list[str]) -> None:
    """`train.py` in a process of its own; its lines are shown and added to `said`."""
    command = [sys.executable, str(ledger.rows.ROOT / "train.py"), *words]
    print("python train.py", *words, flush=True)
    environment = {**os.environ, "COLUMNS": "1000"}  # no line is broken
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    ) as process:
        assert process.stdout is not None
        before = signal.signal(signal.SIGTERM, lambda number, _: process.send_signal(number))
        try:
            for line in process.stdout:
                said.append(line.rstrip())
                print(f"  {said[-1]}", flush=True)
        except KeyboardInterrupt:  # train.py has it, too, and saves: it shall say so to somebody
            print(process.stdout.read(), end="", flush=True)
            raise
        finally:
            signal.signal(signal.SIGTERM, before)
    if process.returncode != 0:
        raise ValueError(f"train.py ended with {process.returncode}: {' '.join(words)}")


def value_of(row: Mapping[str, Any], test: Mapping[str, Any]) -> float:
    """The row's metric of a test. ValueError where it was not measured, or is not finite."""
    if row["metric"] not in test:
        raise ValueError(f"the run has no {row['metric']}; it has {', '.join(test)}")
    if test[row["metric"]] is None:
        raise ValueError(f"{row['metric']} of the run is not a finite number")
    return float(test[row["metric"]])


def _signature(said: list[str]) -> str | None:
    """sacreBLEU's, of a run that printed one."""
    return next((line for line in said if re.match(r"BLEU\|nrefs:", line)), None)


def circumstances(run: Path) -> dict[str, Any]:
    """What a number depends on beside the config: size, processor or GPU, versions, data."""
    from omegaconf import OmegaConf

    import build
    from tasks import checkpoint

    config = OmegaConf.load(run / "config.yaml")
    record = checkpoint.read(run)["unroll"]
    return {
        "parameters": sum(p.numel() for p in build.task_of_checkpoint(record).parameters()),
        "device": _device(config.trainer.accelerator),
        "precision": build.precision(config.precision, config.trainer),
        "versions": ", ".join(
            [f"python {platform.python_version()}"]
            + [f"{name} {version(name)}" for name in ("torch", "lightning", "numpy", "sacrebleu")]
        ),
        "fingerprint": record["fingerprint"],
    }


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _device(accelerator: str) -> str:
    import torch

    if accelerator != "cpu" and _has_gpu():
        return torch.cuda.get_device_name()
    names = Path("/proc/cpuinfo")
    found = names.is_file() and re.search(r"model name\s*: (.*)", names.read_text())
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, threads: {torch.get_num_threads()}"


def _commit() -> str:
    """The checkout's commit; "+ changes" where files other than the ledger's differ from it."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *words], cwd=ledger.rows.ROOT, capture_output=True, text=True, check=False
        )

    found = git("rev-parse", "--short=12", "HEAD")
    if found.returncode != 0:
        return "unknown"
    same = git("diff", "--quiet", "HEAD", "--", ".", ":!results", ":!RESULTS.md")
    return found.stdout.strip() + ("" if same.returncode == 0 else " + changes")
