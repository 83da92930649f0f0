"""Real processes, killed at random steps and resumed, end as one that nobody touched."""

import contextlib
import csv
import json
import os
import random
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import commands

KILLS = 3  # of each run, one after the other
COMMON = [
    "trainer=cpu", "logger=csv", "precision=fp32", "callbacks.estimate=null",
    "trainer.log_every_n_steps=1", "callbacks.last.minutes=0.002",
]  # fmt: skip
RUNS = {
    "classification, two workers": (
        "classification", ["data.num_workers=2", "trainer.max_epochs=10"]
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
    return ["train.py", *keys.values(), f"hydra.run.dir={folder}"]


def finish(line: list[str]) -> str:
    process = commands.Command(line)
    said = process.end()
    assert process.returncode == 0, said
    return said


def kill(line: list[str], step: int, *, writing: bool, wait: float = 0) -> None:
    """Run until a step begins, or the first checkpoint after it is half written, and SIGKILL."""
    words = [str(step), str(writing), str(wait)]
    process = commands.Command(["-c", DIES, *words, *line])
    said = process.end()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # the other ranks
    assert process.returncode == -signal.SIGKILL, said


# train.py as it is, in a process that kills itself
DIES = """
import os, runpy, signal, sys, time
step, writing, wait = int(sys.argv[1]), sys.argv[2] == "True", float(sys.argv[3])
sys.argv = sys.argv[4:]
sys.path.insert(0, os.getcwd())
from tasks import checkpoint_files
from tasks.base import Task
begin = Task.on_train_batch_start

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def watch(task, batch, batch_idx):
    if task.global_step >= step:
        if not writing:
            time.sleep(wait)
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


def wandb_history(run: Path) -> Iterator[tuple[str, str]]:
    """Step and name of each number that W&B's files of all pieces hold, for they have no reader."""
    from wandb.proto.wandb_internal_pb2 import Record

    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        for content in leveldb_log(file.read_bytes()[7:], begin=7):
            record = Record.FromString(content)
            items = {
                item.key or item.nested_key[0]: json.loads(item.value_json)
                for item in record.history.item
            }
            for key, value in items.items():
                if not key.startswith(("_", "trainer/")) and isinstance(value, float | int):
                    yield str(items["trainer/global_step"]), key


def leveldb_log(content: bytes, begin: int) -> Iterator[bytes]:
    """Records of LevelDB's log format: blocks of 32 KiB, a record in one fragment or several."""
    place, parts = 0, b""
    while place < len(content):
        left = 32768 - (place + begin) % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        if kind not in (1, 2, 3, 4):
            return  # zeros: what a killed process had not filled
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of its fragments
            yield parts
            parts = b""


@pytest.mark.slow
def test_the_pieces_of_a_killed_run_are_one_history_for_wandb(
    smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    pytest.importorskip("wandb")
    again = [*command("tagging, accumulated", smalls, tmp_path / "run"), "resume=true"]
    again = [word.replace("logger=csv", "logger=default") for word in again]
    kill(again, 13, writing=False, wait=3)  # W&B's own process writes what it has every second
    finish(again)
    found = [(step, key) for step, key in wandb_history(tmp_path / "run") if key != "epoch"]
    assert len(found) == len(set(found))
    assert len(list((tmp_path / "run" / "wandb").glob("offline-run-*"))) == 2
    rows = history(tmp_path / "run")
    logged = {(row["step"], key) for row in rows for key in row if key not in ("step", "epoch")}
    assert logged <= set(found)


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
    process = commands.Command(["-c", STOPS, "5", str(number.value), *again])
    said = process.end()
    assert process.returncode == 128 + number, said
    assert "stopped after step" in said and "saved in" in said
    assert "resume: going on after step" in finish(again)
    assert_alike(whole, stopped)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root mounts a disk")
def test_a_training_that_fills_the_disk_stops_and_goes_on_when_there_is_room(
    smalls: dict[str, list[str]], tmp_path: Path
) -> None:
    small = [*smalls["tagging"], *COMMON, "model.num_layers=4", "trainer.max_epochs=5"]
    keys = {key.partition("=")[0]: key for key in [*small, "callbacks.last.minutes=9"]}
    line = ["train.py", *keys.values()]
    whole, disk = tmp_path / "whole", tmp_path / "disk"
    finish([*line, f"hydra.run.dir={whole}"])
    disk.mkdir()
    room = int(3.4 * (whole / "checkpoints" / "last.ckpt").stat().st_size)  # for three, not four
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    try:
        again = [*line, f"hydra.run.dir={disk}/run", "resume=true"]
        process = commands.Command(again)
        said = process.end()
        assert process.returncode == 1, said
        assert "No space left on device" in said and "Traceback" not in said
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert "resume: going on after step" in finish(again)
        assert_alike(whole, disk / "run")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
