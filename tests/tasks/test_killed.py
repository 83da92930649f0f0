"""Real processes, killed at random steps and resumed, end as one that nobody touched."""

import contextlib
import csv
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
KILLS = 3  # of each run, one after the other
COMMON = [
    "trainer=cpu", "logger=csv", "precision=fp32", "callbacks.estimate=null",
    "trainer.log_every_n_steps=1", "callbacks.last.minutes=0.002",
]  # fmt: skip
RUNS = {
    "classification, two workers": (
        "classification", ["data.num_workers=2", "trainer.max_epochs=30"]
    ),
    "tagging, accumulated": (
        "tagging", ["trainer.accumulate_grad_batches=2", "data.batch_size=4",
                    "trainer.max_epochs=20"]
    ),
    "captioning, averaged weights": ("captioning", ["callbacks=ema", "trainer.max_epochs=12"]),
    "translation, validated within the epoch": (
        "translation", ["trainer.val_check_interval=2", "trainer.max_epochs=12",
                        "data.batch_size=8"]
    ),
    "language model, carried state": (
        "language_model", ["trainer.max_epochs=3", "cell=lstm"]
    ),
    "language model, two ranks": (
        "language_model", ["trainer=ddp_cpu", "trainer.devices=2", "trainer.max_epochs=4"]
    ),
    "language model, averaged from where it stalls on": (
        "language_model", ["callbacks=ntasgd", "callbacks.average.patience=0",
                           "optimizer=sgd", "optimizer.lr=5", "trainer.val_check_interval=5",
                           "trainer.max_epochs=3"]
    ),
    "classification, early stopping": (
        "classification", ["callbacks=early_stopping",
                           "trainer.max_epochs=25", "model.dropout=0.3"]
    ),
    "tagging, a rate that falls on a plateau": (
        "tagging", ["scheduler=plateau", "optimizer.lr=0.05", "trainer.max_epochs=25"]
    ),
}  # fmt: skip


def command(name: str, smalls: dict[str, list[str]], folder: Path) -> list[str]:
    shape, more = RUNS[name]
    keys = {key.partition("=")[0]: key for key in [*smalls[shape], *COMMON, *more]}
    return [sys.executable, "train.py", *keys.values(), f"hydra.run.dir={folder}"]


def start(line: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        line, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finish(line: list[str]) -> str:
    process = start(line)
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    return said


def kill(line: list[str], step: int, *, writing: bool) -> None:
    """Run until a step begins, or the first checkpoint after it is half written, and SIGKILL."""
    process = start([sys.executable, "-c", DIES, str(step), str(writing), *line[1:]])
    said, _ = process.communicate(timeout=600)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the other ranks
    assert process.returncode == -signal.SIGKILL, said


# train.py as it is, in a process that kills itself
DIES = """
import os, runpy, signal, sys
step, writing, *sys.argv = int(sys.argv[1]), sys.argv[2] == "True", *sys.argv[3:]
sys.path.insert(0, os.getcwd())
from tasks import checkpoint_files
from tasks.base import Task
begin = Task.on_train_batch_start

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def watch(task, batch, batch_idx):
    if task.global_step >= step:
        if not writing:
            die()
        checkpoint_files.os.fsync = die
    begin(task, batch, batch_idx)

Task.on_train_batch_start = watch
runpy.run_path("train.py", run_name="__main__")
"""


# the same, in a process that sends itself a signal in the middle of a validation
STOPS = """
import os, runpy, signal, sys
step, number, *sys.argv = int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:]
sys.path.insert(0, os.getcwd())
from tasks.base import Task
evaluate, sent = Task.validation_step, []

def watch(task, batch, batch_idx):
    assert not sent, "it did not stop"
    if task.global_step >= step:
        sent.append(os.kill(os.getpid(), number))
    evaluate(task, batch, batch_idx)

Task.validation_step = watch
runpy.run_path("train.py", run_name="__main__")
"""


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if v and k != "tokens_per_second"} for row in rows]


def assert_alike(one: Path, other: Path) -> None:
    assert history(one) == history(other)
    for name in ("best.ckpt", "last.ckpt"):
        a, b = (torch.load(run / "checkpoints" / name, weights_only=True) for run in (one, other))
        assert a["global_step"] == b["global_step"]
        assert a["state_dict"].keys() == b["state_dict"].keys()
        for key, value in a["state_dict"].items():
            assert torch.equal(value, b["state_dict"][key]), f"{name}: {key}"
    files = [f.relative_to(one) for kind in ("*.jsonl", "*.csv") for f in one.rglob(kind)]
    files = [file for file in files if file.name != "metrics.csv"]  # has times, and is read above
    assert files
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_killed_and_resumed_equals_untouched(
    name: str, smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    whole, killed = tmp_path / "one" / "whole", tmp_path / "other" / "killed"
    finish(command(name, smalls, whole))
    steps = int(history(whole)[-1]["step"])
    again = [*command(name, smalls, killed), "resume=true"]
    chosen = random.Random(name)  # the same steps in every run of this test
    places = sorted(chosen.sample(range(2, max(6, int(0.85 * steps))), KILLS))
    for number, step in enumerate(places):
        kill(again, step, writing=number % 2 == 1)
    said = finish(again)
    assert "resume: going on after step" in said
    assert_alike(whole, killed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tagging, accumulated", "language model, two ranks"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_in_a_validation_and_resumed_equals_untouched(
    name: str, number: signal.Signals, smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    whole, stopped = tmp_path / "one" / "whole", tmp_path / "other" / "stopped"
    small = [*command(name, smalls, whole), "data.eval_batch_size=1", "trainer.max_epochs=2"]
    finish(small)
    again = [*small, f"hydra.run.dir={stopped}", "resume=true"]
    process = start([sys.executable, "-c", STOPS, "5", str(number.value), *again[1:]])
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 128 + number, said
    assert "stopped after step" in said and "saved in" in said
    assert "resume: going on after step" in finish(again)
    assert_alike(whole, stopped)
