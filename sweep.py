"""Search for hyperparameters: many runs of train.py, chosen by Optuna, on one machine or many.

    python sweep.py [task=T] [space=S] [trials=20] [workers=1] [any.key=value ...] [--dashboard]

    python sweep.py task=tagging                        20 trials of configs/sweep/tagging.yaml
    python sweep.py task=translation workers=2 pruner=hyperband trainer.max_epochs=8
    python sweep.py 'optimizer.lr=tag(log,interval(1e-4,1e-1))' space=none      a space of your own
    python sweep.py task=language_model launcher=slurm workers=16 slurm.partition=gpu
    python sweep.py storage=postgresql://user@host/studies name=mine      the same on every machine
    python sweep.py sweep=wandb                         a W&B sweep file of the same space

The same command goes on with a sweep that was stopped, and joins one that runs elsewhere. What is
not a key of the sweep (below) goes to train.py; a sweep expression there adds to the space, a value
fixes a key of it. The last line is one JSON object.
"""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

import sweeping.command_line
import sweeping.space
from launch import CONFIGS, describe, quote_plain_values
from sweeping.command_line import Settings
from sweeping.lock import Lock
from sweeping.plan import Plan


def main(arguments: list[str]) -> None:
    settings, others = sweeping.command_line.read(arguments)
    words, expressions = sweeping.command_line.words(others, settings.space)
    config = composed(words, expressions)
    plan = make_plan(settings, config, words, expressions)
    if settings.sweep == "wandb":
        from sweeping import wandb_sweep

        if not config.logger.get("wandb"):
            raise ValueError(
                "sweep=wandb needs the metrics at W&B: leave out logger=, or logger=wandb"
            )
        path = Path(plan.folder) / "wandb_sweep.yaml"
        wandb_sweep.run(wandb_sweep.write(path, plan), settings)
        return
    from sweeping.study import Queue, open_storage  # imports Optuna

    storage = open_storage(plan.storage)
    study = join(plan, storage)
    trials = plan.trial_folder
    queue = Queue(study, storage, trials=plan.trials, folder=trials, lease=plan.lease)
    filling = Lock(Path(plan.folder) / "filling.lock")
    while not filling.take():  # another sweep.py of this folder does it
        time.sleep(0.1)
    queue.fill(baseline(config, expressions) if settings.baseline else {})
    filling.leave()
    plan.write()
    print(f"{plan.name}: {told(queue)}, in {plan.storage}", flush=True)
    dashboard = start_dashboard(plan.storage) if settings.dashboard else None
    from sweeping import launchers, report

    stopped = launchers.run(settings.launcher, plan, dict(settings.slurm))
    found = report.write(study, queue, plan)
    if found["best"] is not None and settings.test and queue.finished():
        found["test"] = report.test(Path(found["run"]))
    print(json.dumps(found), flush=True)
    if dashboard is not None and queue.finished():
        dashboard.wait()
    if stopped:
        sys.exit(stopped)


def composed(words: list[str], expressions: dict[str, str]) -> Any:
    """The config of a trial, before the sweep chooses; a key that does not exist is refused."""
    import numpy as np

    random = np.random.default_rng(0)
    drawn = [one.word(one.draw(random)) for one in sweeping.space.parse(expressions).values()]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("config", overrides=[*words, *drawn])
        return compose("config", overrides=words, return_hydra_config=True)


def make_plan(
    settings: Settings, config: Any, words: list[str], expressions: dict[str, str]
) -> Plan:
    """What the workers need; the data is read, which says what is monitored."""
    from sweeping import devices

    cluster = settings.launcher == "slurm"
    gpus = devices.wanted(config.trainer, elsewhere=cluster)
    if not cluster:
        devices.check(settings.workers, gpus, settings.share)
    import build

    if not cluster:
        build.check_device(config.trainer)
    if "auto" in (config.task.monitor, config.task.mode):
        build.choose_monitor(config, build.data(config).spec)
    choices = config.hydra.runtime.choices
    name = f"{choices.task}-{choices.data}" if settings.name == "auto" else settings.name
    folder = f"runs/sweeps/{name}" if settings.folder == "auto" else settings.folder
    folder = str(Path(folder).absolute())
    storage = f"{folder}/study.journal" if settings.storage == "auto" else settings.storage
    if "://" not in storage:
        storage = str(Path(storage).absolute())
    return Plan(
        name=name, storage=storage, folder=folder, program=str(CONFIGS.parent / "train.py"),
        words=words, space=expressions,
        monitor=config.task.monitor, mode=config.task.mode, seed=config.seed,
        sampler=settings.sampler, pruner=settings.pruner, trials=settings.trials,
        lease=settings.lease, give_up=settings.give_up, gpus=gpus, share=settings.share,
        workers=settings.workers,
    )  # fmt: skip


def join(plan: Plan, storage: Any) -> Any:
    """The study, made where it is not there. ValueError where it is one of another command."""
    import optuna

    study = optuna.create_study(
        storage=storage, study_name=plan.name, load_if_exists=True,
        direction="minimize" if plan.mode == "min" else "maximize",
    )  # fmt: skip
    own = {
        "words": sorted(plan.words),
        "space": plan.space,
        "monitor": plan.monitor,
        "mode": plan.mode,
    }
    before = study.user_attrs.get("plan", own)
    for what, value in own.items():
        if before[what] != value:
            raise ValueError(
                f"the study {plan.name} in {plan.storage} was begun with other {what}: "
                f"{before[what]}, now {value}; give that command again, or another name="
            )
    study.set_user_attr("plan", own)
    return study


def baseline(config: Any, expressions: dict[str, str]) -> dict[str, Any]:
    """The values that the config has already, of those keys whose part of the space holds them."""
    choices = config.hydra.runtime.choices
    found = {}
    for name, one in sweeping.space.parse(expressions).items():
        value = choices.get(name) if name in choices else OmegaConf.select(config, name)
        if one.holds(value):
            found[name] = value
    return found


def told(queue: Any) -> str:
    counts: dict[str, int] = {}
    for trial in queue.wanted():
        counts[trial.state.name.lower()] = counts.get(trial.state.name.lower(), 0) + 1
    return ", ".join(f"{count} {state}" for state, count in counts.items())


def start_dashboard(storage: str) -> subprocess.Popen[bytes]:
    if shutil.which("optuna-dashboard") is None:
        raise ValueError("--dashboard needs optuna-dashboard: pip install optuna-dashboard")
    return subprocess.Popen(["optuna-dashboard", storage])


if __name__ == "__main__":
    if {"--help", "-h"} & set(sys.argv):
        print(f"{__doc__}\n{sweeping.command_line.meanings()}")
        sys.exit()
    try:
        main(quote_plain_values(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit("interrupted: the same command goes on")
    except ModuleNotFoundError as error:
        if error.name not in ("optuna", "submitit", "joblib"):
            raise
        sys.exit(f"error: sweep.py needs {error.name}: pip install -e '.[sweep]'")
    except Exception as error:
        message = describe(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")
