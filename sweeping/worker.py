"""A worker of a sweep: takes a trial, trains it, says how it ended, and takes the next.

python -m sweeping.worker FOLDER    one more worker for the sweep whose plan.json lies there
"""

import contextlib
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

import sweeping.space
from sweeping.devices import Held
from sweeping.plan import Plan, read_plan
from sweeping.study import Queue, open_storage
from sweeping.training import Lost, Training

IDLE = 2.0  # seconds until a worker with nothing to do looks again whether somebody died


class Terminated(Exception):
    """This worker was asked to stop."""


def sampler(kind: str, seed: int) -> optuna.samplers.BaseSampler:
    """`tpe` (Bergstra et al. 2011; all keys together, trials that run count as bad ones) or
    `random`.
    """
    if kind == "tpe":
        return optuna.samplers.TPESampler(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


def pruner(kind: str) -> optuna.pruners.BasePruner:
    """`median` (of the others at the same validation), `hyperband` (Li et al. 2016, arXiv
    1603.06560) or `none`.
    """
    if kind == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1)
    if kind == "hyperband":
        return optuna.pruners.HyperbandPruner()
    return optuna.pruners.NopPruner()


def work(folder: str | Path) -> None:
    """Run trials until all are finished. ValueError where the first `give_up` have all failed."""
    plan = read_plan(folder)
    storage = open_storage(plan.storage)
    study = optuna.load_study(study_name=plan.name, storage=storage, pruner=pruner(plan.pruner))
    queue = Queue(
        study, storage, trials=plan.trials, folder=plan.trial_folder, lease=plan.lease
    )  # fmt: skip
    devices = Held(plan.gpus, share=plan.share)
    with _asked_to_stop():
        while not queue.finished():
            check_failures(queue, plan.give_up)
            trial = queue.next()
            if trial is None:
                time.sleep(IDLE)
                continue
            # a sampler begun anew with an old seed would repeat its points
            study.sampler = sampler(plan.sampler, (plan.seed * 1_000_003 + trial.number) % 2**32)
            _run(trial, queue, plan, devices)
    devices.leave()
    check_failures(queue, plan.give_up)


def check_failures(queue: Queue, give_up: int) -> None:
    """ValueError where as many trials as that have failed and none has not."""
    ended = [trial for trial in queue.wanted() if trial.state.is_finished()]
    failed = [trial for trial in ended if trial.state == TrialState.FAIL]
    if len(failed) == len(ended) >= min(give_up, queue.trials):
        raise ValueError(
            f"the first {len(failed)} trials have all failed, the last with: "
            f"{failed[-1].user_attrs.get('error')}"
        )


def _run(trial: Trial, queue: Queue, plan: Plan, devices: Held) -> None:
    """One trial to its end; given back where this worker is asked to stop."""
    name = f"trial {trial.number}"
    try:
        space = sweeping.space.parse(plan.space)
        values = {key: one.suggest(trial) for key, one in space.items()}
        again = " goes on" if trial.user_attrs["starts"] > 1 else ""
        _say(f"{name}{again}: {' '.join(f'{key}={_short(v)}' for key, v in values.items())}")
        words = [space[key].word(value) for key, value in values.items()]
        ended = Training(trial, queue, plan, devices, words).run()
        if not queue.beat(trial, force=True):
            raise Lost
        if ended.error is not None:
            trial.set_user_attr("error", ended.error)
        trial.study.tell(trial, ended.value, state=ended.state)
        told = f"{plan.monitor} {_short(ended.value)}" if ended.value is not None else "pruned"
        _say(f"{name}: {told if ended.error is None else f'failed: {ended.error}'}")
    except Lost:
        _say(f"{name}: another worker has taken it over, and this one leaves it")
    except (Terminated, SystemExit):  # the last of submitit's, to be requeued
        queue.release(trial)
        _say(f"{name}: given back; the same command goes on with it")
        raise
    finally:
        queue.let_go()


@contextlib.contextmanager
def _asked_to_stop() -> Iterator[None]:
    """SIGTERM and Ctrl-C end this worker by an exception; once, as it saves and gives back."""
    numbers = (signal.SIGTERM, signal.SIGINT)

    def stop(number: int, frame: FrameType | None) -> None:
        for one in numbers:
            signal.signal(one, signal.SIG_IGN)
        raise Terminated

    before = [signal.signal(number, stop) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _say(text: str) -> None:
    print(text, flush=True)


def main(folder: str) -> None:
    """`work`, with what stops it as an exit status."""
    try:
        work(folder)
    except (Terminated, KeyboardInterrupt):
        sys.exit(128 + signal.SIGTERM)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main(sys.argv[1])
