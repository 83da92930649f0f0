"""Config → objects: data, task and trainer, from the parts that building/ has."""

import inspect
from collections.abc import Mapping
from typing import Any

import hydra
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from building.budget import meet_budget
from building.instantiate import instantiate, named, plain
from building.machine import check_device, precision
from building.trained import codec
from data.base import DataModule
from data.codec import Codec
from data.spec import DataSpec
from tasks import checkpoint as checkpoints
from tasks import determinism
from tasks.arguments import check_arguments
from tasks.base import Task
from tasks.checkpoint_files import CheckpointFiles, reason
from tasks.distillation import Distillation
from tasks.memory import check_fits


def data(config: Any, codec: Codec | None = None) -> DataModule:
    """The data module, prepared and opened; with `codec`, encoded as a trained model expects."""
    module: DataModule = instantiate(config.data, "data")
    module.given_codec = codec
    module.prepare_data()
    module.setup()
    return module


def task(
    config: Any, spec: DataSpec, codec: Codec, fingerprint: str = "", *, trains: bool = False
) -> Task:
    """The task with its model, built for the data that `spec` and `codec` describe.

    In `config` the hidden sizes that meet a `model.budget` take its place.
    """
    meet_budget(config, spec=spec, codec=codec)
    settings = plain(config)
    check_arguments(settings["task"], "task", find=named)
    _check_keys(settings["task"])
    for key, value in settings["task"]["optimizer"].items():
        if isinstance(value, (int, float)) and value < 0:  # not every optimizer says so
            raise ValueError(f"optimizer.{key} is 0 or more, got {value}")
    factory = instantiate({**settings["task"], "_partial_": True}, "task")
    sizes = settings["task"].get("model") or settings["model"]  # the latter of several tasks
    check_fits(lambda: factory(spec=spec, codec=codec), sizes, "model", trains=trains)
    built: Task = factory(spec=spec, codec=codec)
    built.record = {
        "config": settings,
        "spec": spec.to_plain(),
        "codec": codec.to_plain(),
        "fingerprint": fingerprint,
    }
    return built


def _check_keys(settings: Mapping[str, Any]) -> None:
    """ValueError where a task was given a key that others have, such as an objective."""
    kind = hydra.utils.get_class(settings["_target_"])
    known = inspect.signature(kind).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
    for key in settings:
        if key not in known and key[0] != "_" and not takes_any:
            raise ValueError(f"task={kind.name} has no {key}: leave it out, or choose another task")


def task_of_checkpoint(record: Mapping[str, Any]) -> Task:
    """The task that a checkpoint describes, without its weights and without the data."""
    own, no_model = codec(record), "the checkpoint describes no model that can be built"
    try:
        spec = DataSpec.from_plain(record["spec"])
        own.check(spec)
    except Exception as error:
        raise ValueError(f"{no_model}: {reason(error)}") from error
    try:
        return task(record["config"], spec, own, record["fingerprint"])
    except ValueError:
        raise
    except Exception as error:  # not what any training wrote: it may fail anywhere
        raise ValueError(f"{no_model}: {reason(error)}") from error


def bring_teacher(task: Task) -> None:
    """Open the trained run that a task's objective learns from, where it learns from one."""
    objective = task.objective
    if not isinstance(objective, Distillation):
        return
    checkpoint = checkpoints.read(objective.place())
    teacher = task_of_checkpoint(checkpoint["unroll"])
    checkpoints.restore(teacher, checkpoint)
    objective.learn_from(teacher, task)


def choose_monitor(config: Any, spec: DataSpec) -> None:
    """Put the task's own choice where `task.monitor` and `task.mode` are auto, of parts too."""
    _choose_monitor(config.task, spec)


def _choose_monitor(task: Any, spec: DataSpec) -> None:
    kind = hydra.utils.get_class(task._target_)
    kind.check(spec)
    for name, part in (spec.parts or {}).items():
        _choose_monitor(task.parts[name], part)
    monitor, mode = kind.monitor_for(spec)
    if task.monitor == "auto":
        task.monitor = monitor
        task.mode = mode if task.mode == "auto" else task.mode
    elif task.mode == "auto":
        lower = (
            "loss",
            "mse",
            "mae",
            "ece",
            "perplexity",
            "bits_per_",
            "nll_per_frame",
        )  # and _word
        name = task.monitor.split("/")[-1]
        task.mode = "min" if name.startswith(lower) else "max"


def best_checkpoint(trainer: Trainer) -> ModelCheckpoint | None:
    """The callback that kept the best checkpoint, if it kept one."""
    kept = [c for c in trainer.callbacks if isinstance(c, ModelCheckpoint) and c.monitor]  # type: ignore[attr-defined]
    return kept[0] if kept and kept[0].best_model_path else None


# what Lightning would divide by, or take without a word
OF_TRAINER = {
    "accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "num_nodes": 1,
    "gradient_clip_val": 0, "log_every_n_steps": 1, "num_sanity_val_steps": -1,
}  # fmt: skip


def trainer(config: Any) -> Trainer:
    """The trainer with its callbacks and loggers, checked against what this machine has."""
    settings = plain(config)
    check_device(settings["trainer"])
    for name, one in (settings.get("callbacks") or {}).items():
        if one and one.get("monitor") == "":
            raise ValueError(f"callbacks.{name}.monitor='': name a metric, such as val/loss")
    callbacks, loggers = (
        [instantiate(c, f"{part}.{name}") for name, c in (settings.get(part) or {}).items() if c]
        for part in ("callbacks", "logger")
    )
    own, interval = settings["trainer"], settings["trainer"].get("val_check_interval")
    if own.get("check_val_every_n_epoch", 1) is None and isinstance(interval, float):
        raise ValueError(
            "trainer.check_val_every_n_epoch=null counts steps over all epochs: give "
            f"trainer.val_check_interval a whole number, got {interval}"
        )
    for name, least in OF_TRAINER.items():
        value = settings["trainer"].get(name)
        if isinstance(value, (int, float)) and value < least:
            raise ValueError(f"trainer.{name} is {least} or more, got {value}")
    factory = instantiate({**settings["trainer"], "_partial_": True}, "trainer")
    try:
        return factory(
            callbacks=callbacks,
            logger=loggers or False,
            precision=precision(settings["precision"], settings["trainer"]),
            deterministic=determinism.choice(settings["deterministic"]),
            plugins=[CheckpointFiles()],
        )
    except (MisconfigurationException, TypeError) as error:
        raise ValueError(f"trainer: {reason(error)}") from error


def ranks(config: Any) -> int:
    """How many processes train together."""
    bare = instantiate({**plain(config)["trainer"], "_partial_": True})
    return int(bare(callbacks=[], logger=False, enable_checkpointing=False).world_size)
