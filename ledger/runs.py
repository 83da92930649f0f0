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
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

import ledger.baselines
import ledger.rows
import ledger.settings
from ledger.form import Baselines, verdict

RUNS = Path("runs/reproduce")  # below the working directory, as all runs of train.py


def measure(
    name: str,
    *,
    only: Sequence[int] | None = None,
    results: Path = ledger.rows.RESULTS,
    runs: Path = RUNS,
) -> str:
    """Run what is missing of a row's seeds, fill its file after each, and return the verdict.

    `only`: these seeds, while other processes run others of the row; whichever is done enters the
    file. Seeds that another machine entered stay until they are run here, as long as settings and
    data are the same.

    ValueError where a run ends without a result, a seed is none of the row's or is being run by
    another process, was run with other settings than the row's experiment has now, or the row
    needs a GPU that is not there.
    """
    row = ledger.rows.given(name, results)
    if row["needs"] == "gpu" and not _has_gpu():
        raise ValueError(f"{name} needs a GPU, and there is none: it is not run here")
    chosen = list(row["seeds"] if only is None else only)
    if unknown := [seed for seed in chosen if seed not in row["seeds"]]:
        raise ValueError(f"--seeds: {unknown[0]} is none of {name}'s, {row['seeds']}")
    folder = runs / row.get("runs", name)
    folder.mkdir(parents=True, exist_ok=True)
    for seed in row["seeds"]:
        _begun(row, seed, folder)  # refuses another config, before anything is run
    ledger.settings.check(row, folder)
    settings = ledger.settings.digest(row)
    others = {
        seed: one for seed, one in ledger.rows.seeds(name, results).items()
        if seed in row["seeds"] and one.get("settings") == settings
    }  # fmt: skip

    def enter(baselines: Baselines) -> dict[int, dict[str, Any]]:
        """Write all seeds that are done, whoever ran them, into the row's file; and return them."""
        with FileLock(folder / "row.lock"):
            found = _done(row, folder, settings)
            data = {one["fingerprint"] for one in found.values()}
            found = {s: one for s, one in others.items() if one["fingerprint"] in data} | found
            ledger.rows.write(name, found, baselines=baselines, results=results)
        return found

    for seed in chosen:
        try:
            with FileLock(folder / f"{seed}.lock", timeout=0):
                run_seed(row, seed, folder)
        except Timeout:
            raise ValueError(
                f"seed {seed} of {name} is being run by another process: --seeds chooses others"
            ) from None
        seeds = enter({})
    baselines: dict[str, dict[str, Any]] = {}
    if len(seeds) == len(row["seeds"]):
        for baseline in row.get("baselines", []):
            baselines[baseline] = ledger.baselines.measure(row, baseline, folder)
            enter(baselines)
    return verdict(row, seeds, baselines)


def _done(row: Mapping[str, Any], folder: Path, settings: str) -> dict[int, dict[str, Any]]:
    """What the row's file shall say of each seed that is finished here."""
    notes = {seed: _begun(row, seed, folder) for seed in row["seeds"]}
    return {
        seed: {
            "value": value_of(row, known["test"]),
            "minutes": round(known["minutes"], 2),
            **known["measured"],
            "settings": settings,
        }
        for seed, known in notes.items()
        if known["measured"]
    }


def _begun(row: Mapping[str, Any], seed: int, folder: Path) -> dict[str, Any]:
    """What is noted of a seed so far. ValueError where it was begun with another config."""
    notes = folder / f"{seed}.json"
    if not notes.is_file():
        return {"config": row["config"], "minutes": 0.0, "measured": None}
    known: dict[str, Any] = json.loads(notes.read_text(encoding="utf-8"))
    if known["config"] != row["config"]:
        raise ValueError(
            f"{folder / str(seed)} was begun with {' '.join(known['config'])}, the row now says "
            f"{' '.join(row['config'])}: move {folder} away to begin anew"
        )
    return known


def run_seed(row: Mapping[str, Any], seed: int, folder: Path) -> None:
    """Run a seed, on from where it was, unless it is finished; what it measured is noted."""
    run, notes = folder / str(seed), folder / f"{seed}.json"
    known = _begun(row, seed, folder)
    if known["measured"] is None:
        said: list[str] = []
        commit = commit_of_code()  # of the code that trains, whatever is committed meanwhile
        began = time.monotonic()
        try:
            own = [f"seed={seed}", f"hydra.run.dir={run}", "resume=true"]
            train(["logger=csv", *row["config"], *own], said)
        finally:  # the minutes of a run that was interrupted count, too
            known["minutes"] += (time.monotonic() - began) / 60
            ledger.rows.write_whole(notes, json.dumps(known))
        known["measured"] = {"signature": _signature(said), "commit": commit, **circumstances(run)}
        known["test"] = json.loads(said[-1])["test"]
        ledger.rows.write_whole(notes, json.dumps(known))


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


def circumstances(run: Path, *, threads: int | None = None) -> dict[str, Any]:
    """What a number depends on beside the config: size, processor or GPU, versions, data.

    `threads`: of the process that trained; None: as many as this one has.
    """
    from omegaconf import OmegaConf

    import build
    from tasks import checkpoint

    config = OmegaConf.load(run / "config.yaml")
    record = checkpoint.read(run)["unroll"]
    return {
        "parameters": sum(p.numel() for p in build.task_of_checkpoint(record).parameters()),
        "device": _device(config.trainer.accelerator, threads),
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


def _device(accelerator: str, threads: int | None) -> str:
    import torch

    if accelerator != "cpu" and _has_gpu():
        return torch.cuda.get_device_name()
    names = Path("/proc/cpuinfo")
    found = names.is_file() and re.search(r"model name\s*: (.*)", names.read_text())
    name = found[1].strip() if found else platform.processor() or platform.machine()
    return f"{name}, threads: {threads or torch.get_num_threads()}"


def commit_of_code() -> str:
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
