"""A trial's `train.py`: started, followed from validation to validation, stopped, read."""

import contextlib
import csv
import ctypes
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from optuna.trial import Trial, TrialState

from sweeping.devices import Held, cores
from sweeping.plan import Plan
from sweeping.study import Queue

POLL = 0.5  # seconds between two looks at a training
GRACE = 60.0  # seconds that a training has to save, before it is killed
STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
TRIES = 3  # starts of a training that somebody else stops


class Lost(Exception):
    """Another worker has taken the trial over."""


class Ended(NamedTuple):
    """How a trial ended: with a value, pruned, or with an error."""

    state: TrialState
    value: float | None = None
    error: str | None = None


class Training:
    """`train.py` in a process of its own, in `trials/<number>`; it goes on where it was."""

    def __init__(
        self, trial: Trial, queue: Queue, plan: Plan, devices: Held, words: list[str]
    ) -> None:
        self.trial, self.queue, self.plan, self.devices = trial, queue, plan, devices
        self.folder = plan.trial_folder / str(trial.number)
        self.log = plan.trial_folder / f"{trial.number}.log"
        self.words = [*plan.words, *words]
        self.reported = set(queue.storage.get_trial(trial._trial_id).intermediate_values)
        self.looked = 0.0

    def run(self) -> Ended:
        self.trial.set_user_attr("run", str(self.folder))
        if self.trial.user_attrs["starts"] == 1:  # what lies there is of a study that is no more
            shutil.rmtree(self.folder, ignore_errors=True)
            self.log.unlink(missing_ok=True)
        if (value := _result(self.log)) is not None:  # whoever ran it died before it could say so
            self._validated()
            return self._complete(value)
        for _ in range(TRIES):
            with self._started() as process:
                pruned = self._follow(process)
            if pruned:
                return Ended(TrialState.PRUNED)
            if process.returncode not in STOPPED:
                break
        if process.returncode == 0 and (value := _result(self.log)) is not None:
            return self._complete(value)
        return Ended(TrialState.FAIL, error=_error(self.log, process.returncode))

    def _complete(self, value: float) -> Ended:
        if not math.isfinite(value):
            return Ended(TrialState.FAIL, error=f"{self.plan.monitor} is not a finite number")
        return Ended(TrialState.COMPLETE, value)

    @contextlib.contextmanager
    def _started(self) -> Iterator[subprocess.Popen[bytes]]:
        where = [f"hydra.run.dir='{self.folder}'", "trainer.limit_test_batches=0"]
        if list((self.folder / "checkpoints").glob("*.ckpt")):
            where.append(f"resume='{self.folder}'")
        else:
            shutil.rmtree(self.folder, ignore_errors=True)  # killed before it saved anything
        # a job of its own: not a rank of the scheduler's, and no signal puts this one in its queue
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        here = 1 if "SLURM_JOB_ID" in os.environ else self.plan.workers
        threads = max(1, cores() // here)
        environment.setdefault("OMP_NUM_THREADS", str(threads))
        environment |= {"COLUMNS": "1000", "PYTHONUNBUFFERED": "1", **self.devices.environment()}
        assert self.queue.lock is not None
        kept = [self.queue.lock.file, *(lock.file for lock in self.devices.locks)]
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, self.plan.program, *self.words, *where],
                stdout=log, stderr=subprocess.STDOUT, env=environment, pass_fds=kept,
                start_new_session=True, preexec_fn=as_child(),
            )  # fmt: skip
        try:
            yield process
        finally:
            _stop(process)

    def _follow(self, process: subprocess.Popen[bytes]) -> bool:
        """Until the training has ended; True where it was pruned."""
        while process.poll() is None:
            if not self.queue.beat(self.trial):
                raise Lost
            if self._validated() and self.trial.should_prune():
                return process.poll() is None
            time.sleep(POLL)
        self._validated()
        return False

    def _validated(self) -> bool:
        """Report what was validated since the last look; True where there was something."""
        path = self.folder / "metrics.csv"
        with contextlib.suppress(FileNotFoundError):
            changed = path.stat().st_mtime
            if changed == self.looked:
                return False
            self.looked = changed
        new = False
        for step, value in enumerate(validations(path, self.plan.monitor), 1):
            if step not in self.reported:
                self.trial.report(value, step)
                self.reported.add(step)
                new = True
        return new


def validations(path: Path, monitor: str) -> list[float]:
    """The monitored metric of each validation that a run's metrics.csv has, in their order."""
    if not path.is_file():
        return []
    whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # a row may be half written
    rows = csv.DictReader(whole.splitlines())
    return [float(value) for row in rows if (value := row.get(monitor))]


def _result(log: Path) -> float | None:
    """The value in the last line of a run that finished; NaN where that had none."""
    line = _last_lines(log)[-1:]
    try:
        value = json.loads(line[0])["value"]
    except (IndexError, ValueError, KeyError, TypeError):
        return None
    return math.nan if value is None else float(value)


def _error(log: Path, code: int) -> str:
    """What a failed run said last."""
    lines = _last_lines(log)
    told = next((line for line in reversed(lines) if re.match(r"(\w+\.)*\w*(Error|error)\b", line)),
                lines[-1] if lines else "")  # fmt: skip
    if code < 0:
        return f"killed by {signal.Signals(-code).name}; its last line: {told}"[:500]
    return (told or f"ended with {code}").removeprefix("error: ")[:500]


def _last_lines(log: Path) -> list[str]:
    if not log.is_file():
        return []
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 20_000))
        lines = file.read().decode("utf-8", "replace").splitlines()
    return [line.strip() for line in lines if line.strip()]


def as_child() -> Callable[[], None]:
    """Run in the new process: it gets SIGTERM when this one ends, however it does (Linux only),
    and is deaf to what a cluster sends to all processes of a job for its worker.
    """
    linux, parent = sys.platform.startswith("linux"), os.getpid()
    library = ctypes.CDLL(None) if linux else None

    def ask() -> None:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        if library is not None:
            library.prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG, sys/prctl.h
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)

    return ask


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM to the training and what it began: it saves; after a while SIGKILL."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
