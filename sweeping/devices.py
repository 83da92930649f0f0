"""Which GPUs or processor cores a job of a sweep has to itself."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeping.lock import Lock

LOCKS = Path(tempfile.gettempdir()) / f"unroll-devices-{os.getuid()}"  # of this machine, not NFS


def gpus() -> list[str]:
    """The names of the GPUs that this process may use: UUIDs where the driver tells them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return []
    listed = []
    if shutil.which("nvidia-smi"):
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        listed = done.stdout.split() if done.returncode == 0 else []
    if visible is None:
        return listed
    names = [name.strip() for name in visible.split(",")]
    return [listed[int(n)] if n.isdigit() and int(n) < len(listed) else n for n in names]


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def wanted(trainer: Mapping[str, Any], *, elsewhere: bool = False) -> int:
    """How many GPUs a job with this trainer takes; 0: it runs on the processor (or on `mps`).

    A job that runs `elsewhere`, on a cluster's node, takes those that the trainer names.
    """
    kinds = ("gpu", "cuda") if elsewhere else ("auto", "gpu", "cuda")
    if trainer["accelerator"] not in kinds or not (elsewhere or gpus()):
        return 0
    devices = trainer["devices"]
    if elsewhere and devices in ("auto", -1, "-1"):
        raise ValueError(f"trainer.devices={devices}: say how many GPUs a job of the cluster takes")
    if devices in ("auto", -1, "-1"):
        return len(gpus())
    return len(devices) if isinstance(devices, (list, tuple)) else int(devices)


def check(workers: int, each: int, share: int) -> None:
    """ValueError where so many jobs on this machine would meet on a device."""
    found, what = (len(gpus()) // each, f"{len(gpus())} GPUs, {each} a job") if each else (
        cores(), f"{cores()} cores")  # fmt: skip
    if workers > found * share:
        raise ValueError(
            f"workers={workers}: there are {what}; choose workers={max(found * share, 1)} or less, "
            f"or let {-(-workers // max(found, 1))} jobs share a device on purpose: "
            f"share={-(-workers // max(found, 1))}"
        )


class Held:
    """Devices that this process, and the jobs that it starts, have to themselves.

    A lock of the machine stands for each, so that sweeps that know nothing of each other keep
    apart. Under SLURM the scheduler has given each job its own, and nothing is locked.
    """

    def __init__(self, count: int, *, share: int = 1) -> None:
        """ValueError where fewer than `count` GPUs are free."""
        self.names: list[str] = []
        self.locks: list[Lock] = []
        if "SLURM_JOB_ID" in os.environ:
            self.names = gpus()[:count]
            return
        for place in range(share):
            for name in gpus():
                if len(self.names) == count:
                    return
                lock = Lock(LOCKS / f"{name.replace('/', '-')}.{place}")
                if name not in self.names and lock.take():
                    self.names.append(name)
                    self.locks.append(lock)
                else:
                    lock.leave()
        if len(self.names) < count:
            self.leave()
            raise ValueError(
                f"{count} of {len(gpus())} GPUs should be free, but other sweeps of this machine "
                f"have them: wait for them, or let jobs share a GPU: share={share + 1}"
            )

    def environment(self) -> dict[str, str]:
        return {"CUDA_VISIBLE_DEVICES": ",".join(self.names)} if self.names else {}

    def leave(self) -> None:
        for lock in self.locks:
            lock.leave()
        self.names, self.locks = [], []


_own: list[Held] = []  # what this process has, for all the jobs that it runs


def hold(trainer: Mapping[str, Any]) -> None:
    """Let this process, a job of `--multirun`, see GPUs that no other sweep's job has.

    Before torch is imported. ValueError where none is free.
    """
    count = wanted(trainer)
    if count and not _own:
        _own.append(Held(count))
        os.environ |= _own[0].environment()
