"""`train.py verify=true`: is a run the same again, bit for bit? Two short ones, compared."""

import contextlib
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from tasks.console import say
from tasks.trace import FILES, digest

STEPS = 8
BATCHES = 4  # of validation and of the test
TIMES = ("tokens_per_second",)  # what a clock measured


def check(config: Any) -> int:
    """How many steps each run takes. ValueError where `verify` contradicts other keys."""
    steps = STEPS if config.verify is True else config.verify
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"verify={config.verify}: choose true or a number of steps")
    if config.ckpt is not None or config.resume or config.find_lr or not config.fit:
        raise ValueError(
            "verify compares two new runs: leave out ckpt, resume, find_lr and fit=false "
            "(init=RUN begins both with the weights of another run)"
        )
    if "WORLD_SIZE" in os.environ or int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        raise ValueError(
            "verify starts its runs itself: call train.py once, with trainer.devices=N for ranks"
        )
    return steps


def alike(config: Any, overrides: Sequence[str]) -> bool:
    """Train twice for a few steps, each in a process of its own, and say what differs first.

    What was written is deleted where the runs are identical, and named where they are not.
    """
    steps = check(config)
    folder = Path(config.paths.run_dir) / "verify"
    shutil.rmtree(folder, ignore_errors=True)  # of one before
    runs = [folder / "first", folder / "second"]
    say(f"verify: two runs of {steps} steps, one after the other")
    for run in runs:
        line = command(run, overrides, steps, accumulated=config.trainer.accumulate_grad_batches)
        done = subprocess.run(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if done.returncode:
            raise ValueError(f"verify: the {run.name} run failed:\n{done.stdout.strip()}")
    difference = compare(*runs)
    if difference is not None:
        say(f"verify: different: {difference}; the runs are in {folder}")
        return False
    count = sum(1 for _ in _lines(runs[0]))
    say(f"verify: identical: weights, metrics, samples and answers ({count:,} records)")
    shutil.rmtree(folder)
    with contextlib.suppress(OSError):  # where Hydra made it for this alone
        folder.parent.rmdir()
    return True


def command(run: Path, overrides: Sequence[str], steps: int, *, accumulated: int) -> list[str]:
    """The command line of one of the two runs."""
    own = [text for text in overrides if text.partition("=")[0] not in ("verify", "logger")]
    batches = steps * accumulated
    return [
        sys.executable, str(Path(__file__).with_name("train.py")), *own, "verify=false",
        f"hydra.run.dir='{run}'", f"trainer.max_steps={steps}", "trainer.max_epochs=-1",
        "trainer.check_val_every_n_epoch=null", f"trainer.val_check_interval={batches}",
        f"trainer.limit_val_batches={BATCHES}", f"trainer.limit_test_batches={BATCHES}",
        "trainer.log_every_n_steps=1", "logger=csv", "callbacks.estimate=null",
        "+callbacks.trace._target_=tasks.trace.Trace", f"+callbacks.trace.folder='{run}'",
    ]  # fmt: skip


def compare(one: Path, other: Path) -> str | None:
    """The first thing that differs between two traced runs, with its step; None: nothing does.

    In the order in which things happen: batch, loss, gradient and weights of each step, metrics of
    the evaluations, then samples, answers, logged metrics and the saved weights.
    """
    for a, b in zip_longest(_lines(one), _lines(other)):
        if a is None or b is None:
            name, place, _ = a or b  # type: ignore[misc]
            return f"{place}: only one of the runs has it ({name})"
        if a[:2] != b[:2]:
            return f"{a[1]} ({a[0]}) in one run is {b[1]} ({b[0]}) in the other"
        if a != b:
            return f"{a[1]}: {_which(a[2], b[2])} ({a[0]})"
    return None


Line = tuple[str, str, Any]  # file, place in it, values


def _lines(run: Path) -> Iterator[Line]:
    """All that a run left and that must be the same again."""
    for path in sorted(run.glob(FILES)):
        for line in path.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            yield path.name, f"step {record['step']}, {record['what']}", record["values"]
    for pattern in ("samples/*.jsonl", "predictions/*.jsonl"):
        for path in sorted(run.glob(pattern)):
            for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                record = json.loads(text)
                step = f"step {record.pop('step')}, " if "step" in record else ""
                yield path.relative_to(run).as_posix(), f"{step}line {number}", record
    for path in sorted(run.glob("*.csv")):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                step = f"step {row.get('step', '?')}"
                yield path.name, step, {k: v for k, v in row.items() if k not in TIMES}
    for path in sorted(run.glob("checkpoints/*.ckpt")):
        saved = torch.load(path, map_location="cpu", weights_only=True)
        step = f"step {saved['global_step']}"
        for part in ("state_dict", "optimizer_states", "lr_schedulers"):
            yield path.name, f"{step}, {part}", dict(_tensors(saved.get(part), part))


def _tensors(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _tensors(value, f"{where}.{key}")
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _tensors(value, f"{where}.{i}")
    else:
        yield where, digest(node) if isinstance(node, torch.Tensor) else node


def _which(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """The first key whose values differ, and how many others do."""
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    first = names[0]
    more = f", and {len(names) - 1} others differ" if len(names) > 1 else ""
    return f"{first} is {one.get(first)} and {other.get(first)}{more}"
