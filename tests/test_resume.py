"""The command line's `resume`: what it goes on with, and what it refuses."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import build
import resume
from tests import commands

ROOT = Path(__file__).parent.parent
SMALL = [
    "data.train_size=64", "data.validation_size=32", "data.test_size=32", "data.batch_size=16",
    "model.hidden_size=16", "trainer=cpu", "logger=csv", "precision=fp32",
    "callbacks.estimate=null", "trainer.log_every_n_steps=1",
]  # fmt: skip


def train(*overrides: str, **environment: str) -> commands.Command:
    return commands.Command(["train.py", *SMALL, *overrides], env=os.environ | environment)


def wait_for(path: Path, lines: int, process: commands.Command) -> None:
    while process.returncode is None:
        if path.exists() and path.read_text().count("\n") > lines:
            return
        time.sleep(0.01)
    pytest.fail(process.end())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_so_and_it_goes_on(number: signal.Signals, tmp_path: Path) -> None:
    run = tmp_path / "runs" / "one"
    endless = ["trainer.max_epochs=2000", f"hydra.run.dir={run}"]
    process = train(*endless)
    wait_for(run / "metrics.csv", 8, process)
    process.send_signal(number)
    text = process.end()
    assert process.returncode == 128 + number
    assert "resume=true goes on from there" in text
    rows = (run / "metrics.csv").read_text().count("\n")
    process = train(*endless, "resume=true")
    wait_for(run / "metrics.csv", rows + 3, process)
    process.send_signal(signal.SIGTERM)
    assert "resume: going on after step" in process.end()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("early", [True, False])
def test_slurms_signal_saves_first_and_then_requeues_even_while_the_job_starts(
    early: bool, tmp_path: Path
) -> None:
    run, asked = tmp_path / "runs" / "one", tmp_path / "asked"
    scontrol = tmp_path / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >{asked}\nls {run}/checkpoints >>{asked}\n')
    scontrol.chmod(0o755)
    path = f"{scontrol.parent}:{os.environ['PATH']}"
    endless = ["trainer.max_epochs=2000", f"hydra.run.dir={run}"]
    process = train(*endless, PATH=path, SLURM_JOB_ID="7", SLURM_RESTART_COUNT="2")
    if early:
        while not held(process.pid):
            assert process.returncode is None, process.end()
            time.sleep(0.01)
    else:
        wait_for(run / "metrics.csv", 8, process)
    process.send_signal(signal.SIGUSR1)
    text = process.end()
    assert process.returncode == 128 + signal.SIGUSR1
    assert "SLURM job 7 was requeued (restart 3)" in text
    command, *files = asked.read_text().splitlines()
    assert command == "requeue 7" and "last.ckpt" in files


def held(process: int) -> bool:
    """Whether SIGUSR1 waits in this process."""
    status = Path(f"/proc/{process}/status").read_text()
    blocked = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(blocked, 16) >> (signal.SIGUSR1 - 1) & 1)


@pytest.mark.slow
def test_the_newest_run_of_the_config_goes_on_and_no_other(tmp_path: Path) -> None:
    place = ["trainer.max_epochs=1", "hydra.run.dir=" + str(tmp_path / "runs" / "${run_time:}")]
    first = json.loads(train(*place).end().splitlines()[-1])
    again = train(*place, "resume=true").end()
    assert json.loads(again.splitlines()[-1]) == first
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [Path(first["run"]).name]

    text = train(*place, "resume=true", "model.hidden_size=8").end()
    assert "no run of this config" in text
    run = f"resume={first['run']}"
    text = train(*place, run, "model.hidden_size=8").end()
    assert "cannot go on with another model or other data: model.hidden_size is 8, was 16" in text
    text = train(*place, run, "data.train_size=32").end()
    assert "data.train_size is 32, was 64" in text
    text = train(*place, run, "optimizer.lr=5e-4", "trainer.max_epochs=2").end()
    assert "changed since: optimizer.lr is 0.0005, was" in text and '"test"' in text

    last = Path(first["run"]) / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:1000])
    text = train(*place, run, "trainer.max_epochs=2").end()
    assert "last.ckpt cannot be read" in text and "the one before it is used" in text
    assert "previous.ckpt" in text


@pytest.mark.slow
def test_a_sweep_goes_on_with_each_of_its_runs(tmp_path: Path) -> None:
    def swept(*more: str) -> tuple[str, list[dict[str, object]]]:
        place = [f"hydra.sweep.dir={tmp_path}", "trainer.max_epochs=1", "seed=1,2"]
        done = commands.run(["train.py", "--multirun", *SMALL, *place, *more])
        assert done.returncode == 0, done.stdout + done.stderr
        found = [json.loads(row) for row in done.stdout.splitlines() if row.startswith('{"run"')]
        return done.stdout, found

    _, first = swept()
    text, again = swept("resume=true")
    assert len(first) == 2 and again == first
    assert text.count("resume: going on after step 4 of") == 2
    assert sorted(path.name for path in tmp_path.glob("*/")) == ["0", "1"]


def test_contradictions_are_refused_at_once(tmp_path: Path) -> None:
    place = f"hydra.run.dir={tmp_path / 'run'}"
    processes = {
        "leave out ckpt= and fit=false": train(place, "resume=true", "ckpt=x"),
        "does not exist": train(place, f"resume={tmp_path / 'nothing'}"),
    }
    for expected, process in processes.items():
        text = process.end()
        assert process.returncode == 1 and expected in text and "Traceback" not in text
    assert not list(tmp_path.iterdir())


@pytest.fixture
def run(tmp_path: Path) -> Iterator[partial[Any]]:
    """A run that left a config and a checkpoint of some data; called, it is gone on with."""
    GlobalHydra.instance().clear()
    folder = tmp_path / "run"
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("config", [f"resume={folder}", f"paths.run_dir={folder}"])
        (folder / "checkpoints").mkdir(parents=True)
        OmegaConf.save(OmegaConf.create(build.plain(config)), folder / "config.yaml")
        record = {"format": 1, "config": {}, "spec": {}, "codec": {}, "fingerprint": "old"}
        content = {"global_step": 5, "unroll": record, "state_dict": {}, "ranks": 1}
        torch.save(content, folder / "checkpoints" / "last.ckpt")
        yield partial(resume.earlier, config)


def test_data_that_changed_below_the_same_config_is_refused(run: Callable[..., Any]) -> None:
    found = run("old")
    assert found.checkpoint["global_step"] == 5
    with pytest.raises(ValueError, match="data changed since .* fingerprint old, now it is new"):
        run("new")


def test_the_same_data_may_lie_elsewhere(
    run: partial[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = run.args[0]
    config.data.path = config.data.data_dir = "/elsewhere"
    assert run("old").checkpoint["global_step"] == 5
    assert "data.path is /elsewhere, was None" in capsys.readouterr().out
    config.data.name = "dates"
    with pytest.raises(ValueError, match=r"other data: data\.name is dates, was recipes; give"):
        run("old")


def test_a_link_out_of_the_run_s_directory_is_not_followed(
    run: Callable[..., Any], tmp_path: Path
) -> None:
    folder, elsewhere = tmp_path / "run", tmp_path / "elsewhere.txt"
    elsewhere.write_text("mine")
    (folder / "wandb" / "run-1").mkdir(parents=True)
    (folder / "wandb" / "latest-run").symlink_to("run-1")
    (folder / "wandb" / "run-1" / "core.log").symlink_to(elsewhere)
    assert run("old").folder == folder
    for link in (folder / "metrics.csv", folder / "samples"):
        link.symlink_to(elsewhere if link.suffix else tmp_path)
        with pytest.raises(ValueError, match=rf"{link.name} leads out of the run's directory"):
            run("old")
        link.unlink()
    assert elsewhere.read_text() == "mine"
