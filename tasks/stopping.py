"""A training that is asked to stop: by Ctrl-C, by SIGTERM, by a cluster that wants its machine."""

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from tasks.console import say

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)
)


class Stopped(Exception):
    """Training stopped for a signal, after its step was finished and saved."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number
        self.code = 128 + number  # what a shell reports of a process that a signal ended


class Signals:
    """Notes the first signal, and lets the second of Ctrl-C interrupt at once.

    SIGUSR1 is noted in a SLURM job alone, where `--signal=USR1@120` sends it before the job's time
    is up; elsewhere it keeps its meaning. What came while the job was still starting has waited
    (`launch.hold_requeue`).
    """

    def __init__(self) -> None:
        self.number = 0  # of the signal that came; 0: none
        self._before: dict[int, Any] = {}

    def remember(self) -> None:
        """What is to be there again at the end: before Lightning puts handlers of its own."""
        if threading.current_thread() is not threading.main_thread():
            return  # only there can handlers be set
        self.number = 0
        elsewhere = getattr(signal, "SIGUSR1", None) if "SLURM_JOB_ID" not in os.environ else None
        self._before = {n: signal.getsignal(n) for n in SIGNALS if n != elsewhere}

    def listen(self) -> None:
        for number in self._before:
            signal.signal(number, self._note)
            if number not in (signal.SIGINT, signal.SIGTERM):
                signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})

    def leave(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._before = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.number:
            raise KeyboardInterrupt
        if not self.number:
            name = signal.Signals(number).name
            say(f"{name}: training stops after this step (or batch of validation)")
        self.number = number


def requeue(stopped: Stopped, run: Callable[..., Any] = subprocess.run) -> str:
    """Put this SLURM job into the queue again, and say so; nothing outside SLURM or after Ctrl-C.

    SLURM ends the job at once: this is the last thing that it does. The job's command must hold
    resume=true, so that it goes on where it stopped.
    """
    job, restarts = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_RESTART_COUNT", "0")
    if job is None or shutil.which("scontrol") is None or stopped.number == signal.SIGINT:
        return ""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    array, task = (os.environ.get(f"SLURM_ARRAY_{part}_ID") for part in ("JOB", "TASK"))
    name = f"{array}_{task}" if array and task else job
    done = run(["scontrol", "requeue", name], capture_output=True, text=True)
    if done.returncode:
        return f"; SLURM would not requeue job {name}: {done.stderr.strip()}"
    return f"; SLURM job {name} was requeued (restart {int(restarts) + 1})"
