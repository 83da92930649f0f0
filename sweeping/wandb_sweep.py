"""A W&B sweep of the same space: its file, and what runs it where a key is configured.

https://docs.wandb.ai/guides/sweeps/define-sweep-configuration
"""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

import sweeping.space
from sweeping.command_line import Settings
from sweeping.plan import Plan

METHODS = {"tpe": "bayes", "random": "random"}  # W&B's own; TPE is not among them


def described(plan: Plan) -> dict[str, Any]:
    """What W&B calls a sweep configuration.

    Its agent starts `train.py` with KEY=VALUE for each key, which is Hydra's own form.
    """
    space = sweeping.space.parse(plan.space)
    found: dict[str, Any] = {
        "name": plan.name,
        "program": plan.program,
        "method": METHODS[plan.sampler],
        "metric": {"name": plan.monitor, "goal": "minimize" if plan.mode == "min" else "maximize"},
        "run_cap": plan.trials,
        "parameters": {key: one.for_wandb() for key, one in space.items()},
        "command": ["${env}", "python", "${program}", *plan.words, "${args_no_hyphens}"],
    }
    if plan.pruner != "none":  # by halving, the one way that W&B has
        found["early_terminate"] = {"type": "hyperband", "min_iter": 2, "eta": 3}
    return found


def write(path: Path, plan: Plan) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(described(plan), sort_keys=False, allow_unicode=True), "utf-8")
    print(f"written: {path}", flush=True)
    return path


def run(path: Path, settings: Settings) -> None:
    """Make the sweep at W&B's server and run its trials here. ValueError where no key is known."""
    from tasks.loggers import wandb_mode

    if settings.workers > 1:
        raise ValueError(
            "sweep=wandb runs one agent: start `wandb agent SWEEP` once more for each device, with "
            "its own CUDA_VISIBLE_DEVICES"
        )
    if wandb_mode() != "online":
        raise ValueError(
            f"{path} is written; W&B needs a key to run it: `wandb login`, and the same command "
            f"again, or `wandb sweep {path}`"
        )
    wandb = shutil.which("wandb") or "wandb"
    made = subprocess.run([wandb, "sweep", str(path)], capture_output=True, text=True, check=False)
    said = made.stdout + made.stderr
    print(said, end="", flush=True)
    agent = re.search(r"wandb agent (\S+)", said)
    if made.returncode or agent is None:
        raise ValueError(f"`wandb sweep {path}` made no sweep: {said.strip().splitlines()[-1:]}")
    command = [wandb, "agent", "--count", str(settings.trials), agent[1]]
    done = subprocess.run(command, env={**os.environ, "WANDB_MODE": "online"}, check=False)
    if done.returncode:
        raise ValueError(f"`{' '.join(command)}` ended with {done.returncode}")
