"""Config → objects: the one place that instantiates, and from allowed packages only."""

import inspect
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import hydra
import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from omegaconf import OmegaConf

from data.base import DataModule
from data.codec import Codec, codec_from_plain
from data.declared import check_value
from data.spec import DataSpec
from data.streaming import NO_END
from tasks import checkpoint as checkpoints
from tasks import determinism
from tasks.arguments import check_arguments
from tasks.base import Task
from tasks.checkpoint_files import CheckpointFiles, reason
from tasks.console import say
from tasks.distillation import Distillation
from tasks.memory import check_fits

# A config may come from somebody else's checkpoint, so what it can name is a short list:
# this project's packages and the parts of libraries that build networks and optimisers.
ALLOWED = (
    "models.", "tasks.", "data.", "torch.nn.", "torch.optim.", "lightning.Trainer",
    "lightning.pytorch.callbacks.", "lightning.pytorch.strategies.", "lightning.pytorch.loggers.",
)  # fmt: skip

MADE_IN = ("models.", "tasks.", "data.", "torch.nn.", "torch.optim.", "lightning.pytorch.")


def check_targets(node: Any, where: str = "") -> None:
    """Refuse a `_target_` outside `ALLOWED`, and text that OmegaConf would still fill in (from the
    environment, say). ValueError names the key and the value.
    """
    if isinstance(node, Mapping):
        target = node.get("_target_")
        if target is not None and not _is_allowed(str(target)):
            raise ValueError(
                f"{where or 'the config'} names {target!r}: only {', '.join(ALLOWED)} are built"
            )
        for key, value in node.items():
            check_targets(value, f"{where}.{key}" if where else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            check_targets(value, f"{where}[{i}]")
    elif isinstance(node, str) and "${" in node:
        raise ValueError(f"{where} holds {node!r}: nothing is filled in here")


def _found(target: str) -> Any:
    """What a `_target_` names; None where it names nothing, which is told when it is built."""
    try:
        return hydra.utils.get_object(str(target))
    except Exception:
        return None


@cache
def _is_allowed(target: str) -> bool:
    """Whether it is named and also made in an allowed place: many modules import os."""
    if not target.startswith(ALLOWED):
        return False
    try:
        found = hydra.utils.get_object(target)
    except Exception:  # named when it is built, with what is wrong about it
        return True
    made_in = f"{getattr(found, '__module__', '')}."
    return made_in.startswith(MADE_IN) and callable(found)


def plain(config: Any) -> dict[str, Any]:
    """A composed config → resolved dictionaries, lists, strings and numbers."""
    if OmegaConf.is_config(config):
        config = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    return config  # type: ignore[no-any-return]


def instantiate(node: Any, where: str = "") -> Any:
    """What `node`, the config's part at `where`, describes.

    ValueError names the key of a value of a wrong type, or an argument that nothing takes.
    """
    node = plain(node)
    check_targets(node)
    check_arguments(node, where, find=_found)
    try:
        return hydra.utils.instantiate(OmegaConf.create(_without_budget(node)), _convert_="all")
    except hydra.errors.InstantiationException as error:
        cause = error.__cause__
        said = str(cause) if isinstance(cause, ValueError) else str(error)
        raise ValueError("; ".join(filter(None, said.splitlines()))) from error


def _without_budget(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    return {key: _without_budget(value) for key, value in node.items() if key != "budget"}


def data(config: Any, codec: Codec | None = None) -> DataModule:
    """The data module, prepared and opened; with `codec`, encoded as a trained model expects."""
    module: DataModule = instantiate(config.data, "data")
    module.given_codec = codec
    module.prepare_data()
    module.setup()
    return module


OF_RUN: dict[str, Any] = {
    "seed": int, "precision": str, "find_lr": bool, "fit": bool, "ckpt": str | None,
    "resume": bool | str, "init": str | None,
}  # fmt: skip


def check_run(config: Any) -> None:
    """ValueError where a value is of a wrong type, wherever it stands, before long work."""
    settings = plain(config)
    for key, hint in OF_RUN.items():
        check_value(settings[key], hint, key)
    for part in ("data", "task", "trainer"):
        check_arguments(settings[part], part, find=_found)
    for part in ("callbacks", "logger"):
        check_value(settings[part], dict[str, Any] | None, part)
        for name, one in (settings[part] or {}).items():
            check_value(one, dict[str, Any] | None, f"{part}.{name}")
            check_arguments(one, f"{part}.{name}", find=_found)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed}: give a number from 0 to {2**32 - 1}")


def check_stream(config: Any) -> None:
    """ValueError where training reads a stream and nothing says when it ends."""
    limit = config.trainer.get("limit_train_batches")
    ends = config.trainer.max_steps > 0 or (isinstance(limit, int) and limit > 0)
    if config.data.get("streaming") and config.fit and not ends:
        raise ValueError(NO_END)


def task(
    config: Any, spec: DataSpec, codec: Codec, fingerprint: str = "", *, trains: bool = False
) -> Task:
    """The task with its model, built for the data that `spec` and `codec` describe.

    In `config` the hidden sizes that meet a `model.budget` take its place.
    """
    meet_budget(config, spec=spec, codec=codec)
    settings = plain(config)
    check_arguments(settings["task"], "task", find=_found)
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


def meet_budget(config: Any, *, spec: DataSpec, codec: Codec, tolerance: float = 0.01) -> None:
    """Choose the hidden sizes that give a model `model.budget` trainable parameters.

    They keep their proportions to each other; embeddings keep their sizes. Of the sizes within
    `tolerance` (a share of the budget) the roundest are taken, multiples of 8 before those of 4 and
    2, which cells can divide among heads; where there are none, the closest. ValueError where the
    smallest model is too large.
    """
    settings = plain(config)["model"]
    budget = settings.get("budget")
    if budget is None:
        return
    wanted = parameters(budget)
    sizes = _sizes(settings, "hidden_size")
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(f"model.budget={budget} needs hidden sizes to scale; they are {sizes}")
    unit = min(sizes.values())

    def resize(size: int) -> None:  # the smallest hidden size to this, the others with it
        for path, own in sizes.items():
            OmegaConf.update(config, path, round(size * own / unit))

    @cache
    def count(size: int) -> int:
        resize(size)
        factory = instantiate({**plain(config.task), "_partial_": True})
        with torch.device("meta"):  # shapes without numbers
            built = factory(spec=spec, codec=codec)
        return sum(p.numel() for p in built.parameters() if p.requires_grad)

    if count(1) > wanted:
        embeddings = ", ".join(_sizes(settings, "embedding_size"))
        mend = f" or a smaller {embeddings}" if embeddings else ""
        raise ValueError(
            f"model.budget={budget}: the smallest model has {count(1):,} parameters, at hidden "
            f"size 1; choose a larger budget{mend}"
        )
    top = 8
    while count(top) < wanted:
        top *= 2
    near = 8 * bisect_left(range(top // 8), wanted, key=lambda eights: count(max(1, 8 * eights)))
    best, error = 1, 1.0
    for step in (8, 4, 2, 1):  # sizes that divide badly may need fewer heads, and so other counts
        around = [size for size in range(near - 16, near + 17, step) if size > 0]
        best = min(around, key=lambda size: abs(count(size) - wanted))
        error = count(best) / wanted - 1
        if abs(error) <= tolerance:
            break
    resize(best)
    config.model.budget = None
    said = ", ".join(f"{path}={OmegaConf.select(config, path)}" for path in sizes)
    say(f"model.budget={budget}: {said} has {count(best):,} trainable parameters ({error:+.2%})")
    if abs(error) > tolerance:
        say(f"warning: no hidden size comes within {tolerance:.0%} of model.budget={budget}")


def parameters(budget: str | float) -> int:
    """500k, 1.5M, 2_000_000 or 1e6 → so many parameters. ValueError for what is no such number."""
    text = str(budget).strip().lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:])
    try:
        number = float(text[:-1]) * scale if scale else float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1e12:
        raise ValueError(
            f"model.budget={budget}: give a number of parameters, 1 to 1e12, such as 2_000_000, "
            "1e6, 500k, 1.5M or 1B"
        )
    return round(number)


def _sizes(node: Mapping[str, Any], name: str, where: str = "model") -> dict[str, int]:
    """The sizes called `name` of a model and its parts, by their keys; a cell's own are its own."""
    found = {} if node.get(name) is None else {f"{where}.{name}": node[name]}
    for key, value in node.items():
        if key != "cell" and isinstance(value, Mapping):
            found |= _sizes(value, name, f"{where}.{key}")
    return found


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


def device(name: str) -> torch.device:
    """`auto` is a GPU where there is one. ValueError where the machine lacks what is asked for."""
    if name == "auto":
        gpu = "cuda" if torch.cuda.is_available() else "mps"
        return torch.device(gpu if gpu == "cuda" or torch.backends.mps.is_available() else "cpu")
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device {name!r}: choose auto, cpu, cuda or mps")
    if kind != "cpu":
        check_device({"accelerator": kind})
    return torch.device(name)


def codec(record: Mapping[str, Any]) -> Codec:
    """The codec that a checkpoint holds. ValueError where it is none that any data wrote."""
    try:
        found = codec_from_plain(record["codec"])
        found.vocabularies()  # reads all symbols
    except Exception as error:
        raise ValueError(f"the checkpoint's codec is none of Unroll: {reason(error)}") from error
    return found


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


def of_checkpoint(config: Any, stored: Mapping[str, Any], overrides: Sequence[str]) -> Any:
    """The composed config with the trained run's own task and data, and what the user overrode.

    Where to run (trainer, loggers, paths, precision) is this command line's. ValueError where it
    names another task, model or cell than the checkpoint's.
    """
    chosen = {key: value for key, _, value in (o.partition("=") for o in overrides)}
    for key in ("cell", "recurrent", "model", "optimizer", "scheduler"):
        if not config.fit and any(re.match(rf"{key}\b", k) for k in chosen):
            raise ValueError(f"{key}={chosen.get(key, '...')}: a checkpoint brings its own {key}")
    if "objective" in chosen:
        raise ValueError(
            f"objective={chosen['objective']}: ckpt goes on with the objective of its run; begin a "
            "new one from its weights with init=RUN"
        )
    _check_tokenizer(config, stored, chosen)
    own = stored["task"]["_target_"]
    if "task" in chosen and config.task._target_ != own:
        raise ValueError(f"task={chosen['task']}: the checkpoint is of {own}")
    merged = OmegaConf.create(OmegaConf.to_container(config, resolve=False))
    base = OmegaConf.create(dict(stored))
    kept = ["task", "optimizer", "scheduler", "model", "cell", "recurrent"]
    if "data" not in chosen and "experiment" not in chosen:
        kept += ["data", "tokenizer"]
    for key in kept:
        merged[key] = base[key]
    merged.data.data_dir, merged.data.cache_dir = config.paths.data_dir, config.paths.cache_dir
    for key, value in chosen.items():
        if key.startswith(("task.", "data.")):
            given = OmegaConf.select(config, key)
            if OmegaConf.is_dict(given) and value.startswith("{"):
                # what the mapping does not name stays as the run had it
                named = OverridesParser.create().parse_override(f"{key}={value}").value()
                given = OmegaConf.masked_copy(given, [str(name) for name in named])
            OmegaConf.update(merged, key, given)
    return merged


def _check_tokenizer(config: Any, stored: Mapping[str, Any], chosen: Mapping[str, str]) -> None:
    """ValueError where the command line asks for another tokenizer than the trained one."""
    keys = [key for key in chosen if re.match(r"tokenizer\b|data\.(target_)?tokenizer\b", key)]
    if not keys:
        return
    for name in ("tokenizer", "target_tokenizer"):
        asked, own = OmegaConf.select(config, f"data.{name}"), stored["data"].get(name)
        if (asked and instantiate(asked)) != (own and instantiate(own)):
            raise ValueError(
                f"{keys[0]}={chosen[keys[0]]}: the checkpoint brings its own data.{name} with its "
                f"vocabulary, {own and instantiate(own)}; train a new model for another"
            )


RATES = {"lowest": 1e-7, "highest": 1.0, "steps": 100}  # that find_lr tries


def find_rate(config: Any) -> None:
    """Make of a run's config one of a few steps, at rates that grow, which leaves a picture alone.

    ValueError where the run is not a new one.
    """
    if config.ckpt is not None or config.resume or not config.fit:
        raise ValueError(
            "find_lr=true tries rates on a new model: leave out ckpt, resume and fit=false "
            "(init=RUN begins with the weights of another run)"
        )
    kept = {name: part for name, part in plain(config.callbacks).items() if name == "progress"}
    finder = {"_target_": "tasks.rate_finder.RateFinder"}
    OmegaConf.update(config, "callbacks", {**kept, "finder": finder}, merge=False)
    growing = {"_target_": "tasks.rate_finder.growing", "_partial_": True, **RATES}
    OmegaConf.update(config, "scheduler", growing, merge=False)
    OmegaConf.update(config, "logger", {}, merge=False)
    steps = {"max_steps": RATES["steps"], "max_epochs": -1, "limit_val_batches": 0}
    for name, value in {**steps, "enable_checkpointing": False}.items():
        OmegaConf.update(config.trainer, name, value, force_add=True)


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


def check_device(settings: Mapping[str, Any]) -> None:
    """ValueError when the trainer asks for an accelerator that is not there."""
    wanted = settings.get("accelerator", "auto")
    if wanted in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"trainer.accelerator={wanted}: this machine has no GPU; use trainer=cpu")
    if wanted == "mps" and not torch.backends.mps.is_available():
        raise ValueError("trainer.accelerator=mps: there is no Apple GPU here; use trainer=cpu")


PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}


def precision(name: str, settings: Mapping[str, Any]) -> str:
    """`auto` is bf16 autocast where processor or GPU has the instructions, else fp32."""
    if name == "auto":
        name = "bf16" if _has_bf16(settings.get("accelerator", "auto")) else "fp32"
    if name not in PRECISIONS:
        raise ValueError(f"precision={name}: choose auto, {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _has_bf16(accelerator: str) -> bool:
    if accelerator == "mps" or (accelerator == "auto" and torch.backends.mps.is_available()):
        return False
    if accelerator != "cpu" and torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # the emulated kernels on processors without the instructions are slower than fp32
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
