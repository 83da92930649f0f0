"""A sweep runs every trial once, whoever dies, and says what it found. Trials are a stand-in's."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from optuna.trial import TrialState

import sweeping.launchers
import sweeping.report
import sweeping.space
import sweeping.training
import sweeping.worker
from launch import CONFIGS
from sweeping.plan import Plan
from sweeping.study import Queue, open_storage

ROOT = Path(__file__).parents[2]
SPACE = {"optimizer.lr": "interval(0.1,0.9)", "cell": "choice(gru,lstm)"}

# what a sweep knows of train.py: its words, metrics.csv, checkpoints, the last line, its signals
STAND_IN = """
import json, pathlib, signal, sys, time
words = dict(word.split("=", 1) for word in sys.argv[1:])
run = pathlib.Path(words["hydra.run.dir"].strip("'"))
number, rate = int(run.name), float(words["optimizer.lr"])
with (run.parent / "ran.txt").open("a") as file:
    file.write(f"{number} {'resume' if 'resume' in words else 'start'}\\n")
(run / "checkpoints").mkdir(parents=True, exist_ok=True)
def save(signal, _):
    (run / "checkpoints" / "last.ckpt").touch()
    sys.exit(128 + signal)
signal.signal(signal.SIGTERM, save)
print("begun", flush=True)
BEHAVE
with (run / "metrics.csv").open("a") as file:
    for step in range(int(words.get("trainer.max_epochs", "2"))):
        if step == 0: file.write("step,val/accuracy\\n")
        file.write(f"{step},{rate}\\n"); file.flush()
        time.sleep(PAUSE)
print(json.dumps({"run": str(run), "value": rate}))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a train.py in place of the real one."""
    monkeypatch.setattr(sweeping.training, "POLL", 0.02)
    monkeypatch.setattr(sweeping.worker, "IDLE", 0.05)

    def write(behave: str = "", pause: float = 0.0) -> None:
        text = STAND_IN.replace("BEHAVE", behave).replace("PAUSE", str(pause))
        (tmp_path / "train.py").write_text(text)

    write()
    return write


def planned(folder: Path, **changed: Any) -> Plan:
    settings: dict[str, Any] = {
        "name": "one", "storage": f"{folder}/study.journal", "folder": str(folder), "words": [],
        "program": str(folder / "train.py"),
        "space": SPACE, "monitor": "val/accuracy", "mode": "max", "seed": 1, "sampler": "random",
        "pruner": "none", "trials": 3, "lease": 60.0, "give_up": 3, "gpus": 0, "share": 1,
        "workers": 1,
    }  # fmt: skip
    return Plan(**{**settings, **changed})


def begun(plan: Plan) -> tuple[optuna.Study, Queue]:
    storage = open_storage(plan.storage)
    direction = "maximize" if plan.mode == "max" else "minimize"
    study = optuna.create_study(
        storage=storage, study_name=plan.name, direction=direction, load_if_exists=True
    )
    queue = Queue(study, storage, trials=plan.trials, folder=plan.trial_folder, lease=plan.lease)
    queue.fill({})
    plan.write()
    return study, queue


def ran(plan: Plan) -> list[str]:
    return (plan.trial_folder / "ran.txt").read_text().splitlines()


STORAGES = pytest.mark.parametrize("place", ["study.journal", "sqlite:///study.db"])


@STORAGES
def test_a_trial_is_run_by_one_worker_and_taken_over_by_one(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, storage=place, trials=2)
    (_, first), (_, second), (_, third) = (begun(plan) for _ in range(3))
    one, two = first.next(), second.next()
    assert one is not None and two is not None and {one.number, two.number} == {0, 1}
    assert third.next() is None
    first.let_go()  # as the system does with the lock of a process that was killed
    taken = third.next()
    assert taken is not None and taken.number == one.number
    assert second.next() is None
    assert not first.beat(one, force=True) and third.beat(taken, force=True)
    assert len(third.study.get_trials()) == 2


@STORAGES
def test_elsewhere_a_lease_decides_and_of_two_who_claim_one_wins(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = planned(tmp_path, storage=place, trials=1, lease=0.3)
    _, dead = begun(plan)
    others = [begun(planned(tmp_path / str(i), storage=place, trials=1, lease=0.3))[1]
              for i in range(2)]  # fmt: skip
    assert dead.next() is not None
    assert [other.next() for other in others] == [None, None]
    time.sleep(0.4)
    monkeypatch.setattr(others[0], "_claim", lambda *_: False)  # killed in the middle of it
    assert others[0].next() is None
    assert others[1].next() is not None and others[0].next() is None
    # both saw the same round; the order of the storage decides
    for other in others:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
        other.let_go()
    assert [other._claim(0, 7) for other in others] == [True, False]


def test_a_trial_that_was_given_back_is_taken_at_once(tmp_path: Path) -> None:
    storage = f"{tmp_path}/study.journal"
    _, first = begun(planned(tmp_path, trials=1))
    _, elsewhere = begun(planned(tmp_path / "elsewhere", storage=storage, trials=1))
    trial = first.next()
    assert trial is not None and elsewhere.next() is None
    first.release(trial)
    assert elsewhere.next() is not None


def test_the_workers_of_a_sweep_run_each_trial_once(tmp_path: Path, stand_in: Any) -> None:
    plan = planned(tmp_path, trials=4)
    study, queue = begun(plan)
    sweeping.worker.work(plan.folder)
    assert queue.finished() and sorted(ran(plan)) == [f"{i} start" for i in range(4)]
    assert [trial.value for trial in study.trials] == [
        t.params["optimizer.lr"] for t in study.trials
    ]
    assert len({trial.value for trial in study.trials}) == 4
    assert study.trials[0].intermediate_values.keys() == {1, 2}
    more = planned(tmp_path, trials=6)  # goes on, and repeats no point
    begun(more)
    sweeping.worker.work(plan.folder)
    assert len({trial.value for trial in study.trials}) == 6 and len(ran(plan)) == 6


def test_a_failed_trial_is_told_and_the_sweep_goes_on(tmp_path: Path, stand_in: Any) -> None:
    plan = planned(tmp_path, trials=4)
    study, _ = begun(plan)
    stand_in(
        "if number == 1: sys.exit('error: no such thing')\nif number == 2: rate = float('nan')"
    )
    sweeping.worker.work(plan.folder)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[1].user_attrs["error"] == "no such thing"
    assert study.trials[2].user_attrs["error"] == "val/accuracy is not a finite number"


def test_a_sweep_stops_where_the_first_trials_all_fail(tmp_path: Path, stand_in: Any) -> None:
    stand_in("import os; os.kill(os.getpid(), 9)")
    plan = planned(tmp_path, trials=9, give_up=2)
    _, queue = begun(plan)
    with pytest.raises(ValueError, match=r"first 2 trials have all failed.*SIGKILL.*begun"):
        sweeping.worker.work(plan.folder)
    assert len(ran(plan)) == 2 and not queue.finished()


def test_a_training_that_somebody_stops_goes_on(tmp_path: Path, stand_in: Any) -> None:
    stand_in("import os\nif 'resume' not in words: os.kill(os.getpid(), signal.SIGTERM)")
    plan = planned(tmp_path, trials=1)
    study, _ = begun(plan)
    sweeping.worker.work(plan.folder)
    assert ran(plan) == ["0 start", "0 resume"]
    assert study.trials[0].state == TrialState.COMPLETE


def test_a_bad_trial_is_pruned_and_saves(tmp_path: Path, stand_in: Any) -> None:
    stand_in("if number == 5: rate = 0.0", pause=0.15)
    plan = planned(tmp_path, trials=6, pruner="median", words=["trainer.max_epochs=3"])
    study, _ = begun(plan)
    sweeping.worker.work(plan.folder)
    last = study.trials[5]
    assert last.state == TrialState.PRUNED and len(last.intermediate_values) < 3
    assert (plan.trial_folder / "5" / "checkpoints" / "last.ckpt").exists()


def test_hyperband_runs_through(tmp_path: Path, stand_in: Any) -> None:
    stand_in(pause=0.05)
    plan = planned(tmp_path, trials=5, pruner="hyperband", words=["trainer.max_epochs=4"])
    study, queue = begun(plan)
    sweeping.worker.work(plan.folder)
    assert queue.finished() and any(t.state == TrialState.COMPLETE for t in study.trials)
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


def test_tpe_comes_near_the_best_and_repeats_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def instead(training: Any) -> sweeping.training.Ended:
        rate = training.trial.params["optimizer.lr"]
        return sweeping.training.Ended(TrialState.COMPLETE, -((rate - 0.3) ** 2))

    monkeypatch.setattr(sweeping.training.Training, "run", instead)
    rates = []
    for again in ("a", "b"):
        plan = planned(tmp_path / again, trials=24, sampler="tpe")
        study, _ = begun(plan)
        sweeping.worker.work(plan.folder)
        rates.append([trial.params["optimizer.lr"] for trial in study.trials])
    assert rates[0] == rates[1] and len(set(rates[0])) == 24
    away = [abs(rate - 0.3) for rate in rates[0]]
    assert sum(away[-10:]) < sum(away[:10]) / 2  # the first ten are random


def test_what_lies_there_from_another_study_counts_for_nothing(
    tmp_path: Path, stand_in: Any
) -> None:
    plan = planned(tmp_path, trials=1)
    study, _ = begun(plan)
    (plan.trial_folder / "0" / "checkpoints").mkdir(parents=True)
    (plan.trial_folder / "0" / "checkpoints" / "last.ckpt").touch()
    (plan.trial_folder / "0.log").write_text(json.dumps({"value": 0.25}) + "\n")
    sweeping.worker.work(plan.folder)
    assert study.trials[0].value != 0.25 and ran(plan) == ["0 start"]


def test_a_result_that_was_not_told_is_read_and_not_run_again(
    tmp_path: Path, stand_in: Any
) -> None:
    plan = planned(tmp_path, trials=1)
    study, queue = begun(plan)
    assert queue.next() is not None
    (plan.trial_folder / "0.log").write_text(json.dumps({"value": 0.25}) + "\n")
    queue.let_go()  # its worker died there
    sweeping.worker.work(plan.folder)
    assert study.trials[0].value == 0.25 and not (plan.trial_folder / "ran.txt").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_killed_worker_loses_no_trial_and_none_is_run_twice(
    number: signal.Signals, tmp_path: Path, stand_in: Any
) -> None:
    stand_in("if number == 0 and 'resume' not in words: time.sleep(30)", pause=0.1)
    plan = planned(tmp_path, trials=5, workers=2)
    study, queue = begun(plan)
    command = [sys.executable, "-m", "sweeping.worker", plan.folder]
    workers = [subprocess.Popen(command, cwd=ROOT)]
    log = plan.trial_folder / "0.log"
    deadline = time.monotonic() + 60
    while not (log.is_file() and "begun" in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers.append(subprocess.Popen(command, cwd=ROOT))
    workers[0].send_signal(number)
    assert workers[0].wait(60) != 0 and workers[1].wait(60) == 0
    assert queue.finished() and len(study.trials) == 5
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert sorted(ran(plan)) == ["0 resume", *(f"{i} start" for i in range(5))]
    assert study.trials[0].user_attrs["starts"] == 2


@pytest.mark.parametrize(
    "launcher",
    ["processes", *(pytest.param(name, marks=pytest.mark.slow) for name in ("joblib", "local"))],
)
def test_every_launcher_runs_each_trial_once(
    launcher: str, tmp_path: Path, stand_in: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    plan = planned(tmp_path, trials=4, workers=2)
    study, _ = begun(plan)
    assert sweeping.launchers.run(launcher, plan, {}) is None
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert sorted(ran(plan)) == [f"{i} start" for i in range(4)]
    stand_in("sys.exit('error: no such thing')")
    worse = planned(tmp_path / "worse", program=plan.program, workers=2)
    begun(worse)
    assert "no such thing" in str(sweeping.launchers.run(launcher, worse, {}))


def test_what_was_found_is_written(tmp_path: Path, stand_in: Any) -> None:
    plan = planned(
        tmp_path, trials=6, words=["task=classification", "data.path='/数据/a b'", "trainer=cpu"]
    )
    study, queue = begun(plan)
    stand_in("if number == 2: sys.exit('error: no such thing')")
    sweeping.worker.work(plan.folder)
    found = sweeping.report.write(study, queue, plan)
    best = max((t for t in study.trials if t.value is not None), key=lambda t: t.value or 0)
    assert (found["best"], found["value"]) == (best.number, best.value)
    assert found["trials"] == {"complete": 5, "fail": 1}
    with (tmp_path / "sweep.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == list("012345")
    assert rows[2]["state"] == "fail" and rows[2]["error"] == "no such thing"
    assert float(rows[best.number]["optimizer.lr"]) == best.params["optimizer.lr"]
    for name in ("parallel_coordinates.png", "importance.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_the_best_run_is_an_experiment(tmp_path: Path) -> None:
    space = {"optimizer.lr": "tag(log,interval(1e-4,1e-1))", "cell": "choice(rnn,lstm)",
             "model.dropout": "choice(0.0,0.5)"}  # fmt: skip
    words = ["experiment=sst2", "data.batch_size=7", "trainer=cpu", "data.path='/数据/a b'"]
    plan = planned(tmp_path, space=space, words=words)
    study = optuna.create_study(direction="maximize")
    values = {"optimizer.lr": 0.0123, "cell": "rnn", "model.dropout": 0.5}
    dimensions = sweeping.space.parse(space)
    study.enqueue_trial(values)
    trial = study.ask()
    assert {key: one.suggest(trial) for key, one in dimensions.items()} == values
    study.tell(trial, 0.5)
    sweeping.report.write_experiment(tmp_path / "experiment" / "best.yaml", study.best_trial, plan)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        asked = [f"{key}={value}" for key, value in values.items()]
        wanted = compose("config", overrides=[*words, *asked])
        search = f"hydra.searchpath=['file://{tmp_path}']"
        assert compose("config", overrides=[search, "experiment=best"]) == wanted


def test_a_sweep_of_another_command_is_refused(tmp_path: Path) -> None:
    import sweep

    plan = planned(tmp_path, words=["data.limit=3", "trainer=cpu"])
    sweep.join(plan, open_storage(plan.storage))
    again = planned(tmp_path, trials=50, words=["trainer=cpu", "data.limit=3"])
    sweep.join(again, open_storage(plan.storage))
    other = planned(tmp_path, words=["cell=gru"])
    with pytest.raises(ValueError, match=r"other words: .*limit=3.*, now \['cell=gru'\]"):
        sweep.join(other, open_storage(plan.storage))


def test_half_a_line_of_metrics_waits_for_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("step,val/loss,train/loss\n1,0.5,\n2,,0.1\n3,0.2")
    assert sweeping.training.validations(path, "val/loss") == [0.5]
    path.write_text(path.read_text() + "5,\n")
    assert sweeping.training.validations(path, "val/loss") == [0.5, 0.25]
    assert math.isnan(sweeping.training.validations(_nan(tmp_path), "v")[0])


def _nan(folder: Path) -> Path:
    path = folder / "nan.csv"
    path.write_text("v\nnan\n")
    return path


TINY = [
    "data.train_size=64", "data.validation_size=32", "data.test_size=32", "data.batch_size=16",
    "trainer=cpu", "trainer.max_epochs=16", "logger=csv", "precision=fp32",
    "callbacks.estimate=null", "trainer.log_every_n_steps=1", "model.hidden_size=16",
]  # fmt: skip


@pytest.mark.slow
def test_two_workers_train_and_one_is_killed(tmp_path: Path) -> None:
    command = [
        sys.executable, str(ROOT / "sweep.py"), "name=two", "trials=3", "workers=2", "pruner=none",
        f"share={2 // len(os.sched_getaffinity(0)) or 1}", *TINY,
    ]  # fmt: skip
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        trials = tmp_path / "runs" / "sweeps" / "two" / "trials"
        deadline = time.monotonic() + 300
        while not (trials / "0" / "checkpoints" / "last.ckpt").is_file():
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        storage = open_storage(str(trials.parent / "study.journal"))
        study = optuna.load_study(storage=storage, study_name="two")
        host, _, _ = study.trials[0].user_attrs["worker"].rpartition("-")
        os.kill(int(host.rpartition("-")[2]), signal.SIGKILL)
        said, _ = process.communicate(timeout=600)
    assert process.returncode == 0, said
    assert {trial.state for trial in study.trials} == {TrialState.COMPLETE}
    assert len(study.trials) == 3 and study.trials[0].user_attrs["starts"] == 2
    text = (trials / "0.log").read_text()
    assert text.count("resume: going on after step") == 1
    last = json.loads(said.splitlines()[-1])
    assert last["trials"] == {"complete": 3} and "test/accuracy" in last["test"]
    for trial in study.trials:  # 16 epochs each, none left out and none done twice
        assert len(trial.intermediate_values) == 16
        rows = sweeping.training.validations(
            trials / str(trial.number) / "metrics.csv", "val/accuracy"
        )
        assert len(rows) == 16
