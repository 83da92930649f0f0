"""The command line before torch is imported: quoting, one directory a run, plain errors."""

import contextlib
import ctypes
import difflib
import errno
import os
import re
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

CONFIGS = Path(__file__).parent / "configs"


def quote_plain_values(arguments: list[str]) -> list[str]:
    """Put quotes around values that Hydra's grammar refuses, such as data.path=/a/数据."""
    parser = OverridesParser.create()
    quoted = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not key.startswith("-"):
            try:
                parser.parse_override(argument)
            except HydraException:
                escaped = value.replace("\\", "\\\\").replace("'", "\\'")
                argument = f"{key}='{escaped}'"
        quoted.append(argument)
    return quoted


def place_tests(arguments: list[str]) -> list[str]:
    """With fit=false, leave what the test makes below the tested run, unless told where."""
    keys = {key: value for key, _, value in (a.partition("=") for a in arguments)}
    run = Path(keys.get("ckpt", "").strip("'\""))
    is_run = (run / "checkpoints").is_dir() or (run / "best.ckpt").is_file()
    if keys.get("fit") != "false" or "hydra.run.dir" in keys or not is_run:
        return arguments
    return [*arguments, f"hydra.run.dir='{run}/tests/${{run_time:}}'"]


def name_task(arguments: list[str]) -> list[str]:
    """With `task.…` set and no task named, name that of the run in `ckpt`, whose keys these are."""
    keys = {key: value for key, _, value in (a.partition("=") for a in arguments)}
    asked = any(key.startswith("task.") for key in keys)
    if not asked or "ckpt" not in keys or keys.keys() & {"task", "experiment"}:
        return arguments
    run = Path(keys["ckpt"].strip("'\""))
    for file in (folder / "config.yaml" for folder in (run, *run.parents[:2])):
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            own = re.search(r"^task:\n(?:  .*\n)*?  _target_: tasks\.(\w+)\.", text, re.M)
            return [f"task={own[1]}", *arguments] if own else arguments
    return arguments


def keep_memory() -> None:
    """Let glibc keep freed memory for the next batch.

    By default it hands tensors of megabytes back to the system, which clears every page of them
    anew: a third of a small model's training step on a processor.
    """
    trim_threshold, mmap_max = -1, -4  # malloc.h
    with contextlib.suppress(OSError, AttributeError, TypeError):  # not glibc: nothing to set
        libc = ctypes.CDLL(None)
        libc.mallopt(trim_threshold, -1)  # never
        libc.mallopt(mmap_max, 0)


def hold_requeue() -> None:
    """Let SLURM's SIGUSR1 wait until a training listens for it (`tasks.stopping.Signals`).

    Whoever does not listen is ended by it: a job whose time is nearly up while it still starts
    would not be put into the queue again.
    """
    if "SLURM_JOB_ID" in os.environ:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})


def run_time() -> str:
    """When the run began, for its directory's name: the same on all ranks of a run.

    Lightning's own launcher passes the directory on. Under torchrun the ranks agree through its
    store; under SLURM the job and step are the name.
    """
    now = time.strftime("%Y-%m-%d_%H-%M-%S") + f"-{time.time_ns() // 1_000_000 % 1000:03d}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return _agree(now)
    if int(os.environ.get("SLURM_NTASKS", "1")) > 1:
        parts = [os.environ.get(f"SLURM_{name}") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        return "slurm-" + "-".join(part for part in parts if part)
    return now


def _agree(now: str) -> str:
    from torch.distributed import TCPStore

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    key = f"unroll/run_time/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
    return store.compare_set(key, "", now).decode()


def describe(error: BaseException) -> str | None:
    """A user's mistake in one message; None for what is not the user's."""
    if isinstance(error, ValueError) and not isinstance(error, OmegaConfBaseException):
        return str(error)
    if isinstance(error, OSError) and "could not be written" in str(error):  # of a checkpoint
        return str(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full: make room; resume=true goes on from the last checkpoint"
    if type(error).__name__ == "MisconfigurationException":  # Lightning's, which names its keys
        return "; ".join(str(error).split("\n"))
    if isinstance(error, RuntimeError) and "torch" in sys.modules:
        from tasks.determinism import forbidden
        from tasks.finite import is_out_of_memory  # imports torch, so not before

        return str(error).splitlines()[0] if is_out_of_memory(error) else forbidden(error)
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    if not str(error) and error.__cause__ is not None:
        return f"{type(error.__cause__).__name__}: {error.__cause__}"
    text = re.sub(r"\n(?:\s*\n)+", "\n", str(error)).strip()
    missing = re.search(r"Could not find '([\w/]+)/([^'/]+)'", text)
    if missing:
        group, name = missing.groups()
        return _unknown(f"{group} {name!r}", group_names(group))
    key = re.search(r"Could not override '([\w./@]+)'", text)
    if key:  # of a mapping (task.decoding={a: 1}) it is one of the keys within that is not there
        key = re.search(r"full_key: ([\w./@]+)", str(error.__cause__)) or key
        return _unknown_key(key[1])
    return text


def group_names(group: str) -> list[str]:
    """What a config group holds."""
    return sorted(file.stem for file in (CONFIGS / group).glob("*.yaml"))


def groups() -> list[str]:
    return sorted(folder.name for folder in CONFIGS.iterdir() if folder.is_dir())


def _unknown_key(key: str) -> str:
    *parents, _ = key.split(".")
    chosen = _chosen()
    node: Any = chosen
    walked: list[str] = []
    for part in parents:
        if not isinstance(node, DictConfig) or part not in node:
            break
        walked.append(part)
        written: Any = OmegaConf.to_container(node)  # with interpolations as they are
        if meant := re.fullmatch(r"\$\{([\w.]+)\}", str(written[part])):
            own = meant[1] + key.removeprefix(".".join(walked))
            if OmegaConf.select(chosen, own, default=chosen) is chosen:
                return _unknown_key(own)
            return f"{key} cannot be set: {'.'.join(walked)} is {meant[0]}; set {own}"
        node = node[part]
    there = ".".join(walked)
    options: Iterable[str] = (str(k) for k in node) if isinstance(node, DictConfig) else ()
    if not walked:
        options = {*options, *groups()} - {"hydra"}
    place = f" below {there}" if there else ""
    return _unknown(f"key {key!r}", sorted(options), f"{place}")


def composed(words: Iterable[str]) -> DictConfig:
    """The config of `python train.py WORDS`."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("config", overrides=list(words))


def _chosen() -> DictConfig:
    """The config of this command line, without the keys that do not fit it."""
    words = (a for a in sys.argv[1:] if re.match(r"\w+=", a) and a.split("=")[0] in groups())
    try:
        return composed(words)
    except (HydraException, OmegaConfBaseException):
        return OmegaConf.create()


def _unknown(what: str, options: list[str], place: str = "") -> str:
    name = re.search(r"'([^']*)'", what)
    near = difflib.get_close_matches(name[1].split(".")[-1], options, n=1) if name else []
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"there is no {what}{hint}; there are{place}: {', '.join(options)}"
