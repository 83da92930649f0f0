"""The command line of a sweep: its own keys, train.py's words, and what of them is varied."""

from dataclasses import dataclass, field, fields
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf, ValidationError

import sweeping.space


@dataclass(kw_only=True)
class Settings:
    """The sweep's own keys; all others are train.py's. MEANINGS says what they are."""

    space: str = "auto"
    name: str = "auto"
    folder: str = "auto"
    storage: str = "auto"
    trials: int = 20
    workers: int = 1
    launcher: str = "processes"
    slurm: dict[str, Any] = field(default_factory=dict)
    sampler: str = "tpe"
    pruner: str = "median"
    baseline: bool = True
    share: int = 1
    lease: float = 60.0
    give_up: int = 5
    test: bool = True
    sweep: str = "optuna"
    dashboard: bool = False


MEANINGS = {
    "space": "a file of configs/sweep, or a path; none: only what the command line varies",
    "name": "of the study; auto: TASK-DATA",
    "folder": "where all of it lies; auto: runs/sweeps/NAME",
    "storage": "a journal file or a database's URL; auto: study.journal in the folder",
    "trials": "how many in all, over all machines; with more, later, it goes on",
    "workers": "trainings at a time on this machine, or jobs of the cluster",
    "launcher": "what starts the workers: processes, joblib, local or slurm (both by submitit)",
    "slurm": "of launcher=slurm: slurm.partition, slurm.time, ...: submitit's slurm_*",
    "sampler": "what chooses: tpe or random",
    "pruner": "what ends bad trials early: median, hyperband or none",
    "baseline": "whether the first trial is the config as it stands, as far as the space holds it",
    "share": "trainings that may share one GPU, or one core",
    "lease": "seconds of silence after which a worker of another machine is dead",
    "give_up": "where so many trials have failed and none has not, the sweep stops",
    "test": "whether the best run is tested at the end; trials are only validated",
    "sweep": "who chooses: optuna, or wandb (which writes a W&B sweep file and runs it)",
    "dashboard": "also --dashboard: the study in a browser, by optuna-dashboard",
}
CHOICES = {
    "launcher": ("processes", "joblib", "local", "slurm"),
    "sampler": ("tpe", "random"),
    "pruner": ("median", "hyperband", "none"),
    "sweep": ("optuna", "wandb"),
}
SETTLED = ("ckpt", "resume", "fit", "find_lr", "hydra", "paths.run_dir")  # of a trial, by the sweep


def meanings() -> str:
    """The keys with their defaults, for --help."""
    defaults = Settings()
    rows = ((name, str(getattr(defaults, name)).lower(), told) for name, told in MEANINGS.items())
    return "\n".join(
        ["Keys of the sweep, their defaults and meanings:", ""]
        + [f"    {name:10} {default:10} {told}" for name, default, told in rows]
    )


def read(arguments: list[str]) -> tuple[Settings, list[str]]:
    """The sweep's keys, and the other words. ValueError where a key has a value that it cannot."""
    arguments = ["dashboard=true" if word == "--dashboard" else word for word in arguments]
    names = {one.name for one in fields(Settings)}
    own = [word for word in arguments if word.partition("=")[0].partition(".")[0] in names]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Settings), OmegaConf.from_dotlist(own))
    except ValidationError as error:
        raise ValueError(f"{error.full_key}: {str(error).splitlines()[0]}") from error
    settings: Any = OmegaConf.to_object(merged)
    for name, choices in CHOICES.items():
        if getattr(settings, name) not in choices:
            raise ValueError(f"{name}={getattr(settings, name)}: choose {', '.join(choices)}")
    for name in ("trials", "workers", "share", "lease", "give_up"):
        if getattr(settings, name) <= 0:
            raise ValueError(f"{name}={getattr(settings, name)}: give a number above 0")
    return settings, [word for word in arguments if word not in own]


def words(arguments: list[str], space: str) -> tuple[list[str], dict[str, str]]:
    """train.py's words, the same for all trials, and the expressions of what is varied.

    An expression on the command line beats that of the space's file, a value takes the key out of
    it. ValueError where nothing is left, or a word says what the sweep itself must.
    """
    fixed, varied, task = [], {}, "classification"
    for override in OverridesParser.create().parse_overrides(arguments):
        name, text = override.key_or_group, str(override.input_line).partition("=")[2]
        if any(name == one or name.startswith(f"{one}.") for one in SETTLED):
            raise ValueError(f"{override.input_line}: the sweep itself says it, for each trial")
        if override.is_sweep_override():
            varied[name] = text
        else:
            fixed.append(str(override.input_line))
            task = text if name == "task" else task
    found = {} if space == "none" else sweeping.space.read(task if space == "auto" else space)
    settled = [word.partition("=")[0].lstrip("+") for word in fixed]
    expressions = {key: text for key, text in found.items() if key not in settled} | varied
    if not expressions:
        raise ValueError(
            f"space={space} leaves nothing to vary: add KEY=choice(...) or KEY=interval(...)"
        )
    return fixed, expressions
