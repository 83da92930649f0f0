"""The parts of task=multi: each is composed as a command line of its own would be."""

from collections.abc import Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from building.leaves import leaves
from data.names import check_part_name
from launch import CONFIGS, quote_plain_values

GROUPS = ("task", "data", "tokenizer", "model")  # that a part has of its own
OF_ALL = {"data": ("batch_size", "num_workers", "seed", "data_dir", "cache_dir"), "task": ("seed",)}
GIVEN = ("optimizer", "scheduler")  # to a part's task, by the task of all


def composed(config: DictConfig) -> DictConfig:
    """The config with `task.parts` and `data.parts` made of `parts`, where it has parts.

    A part is a data set's name, or a mapping of groups and keys to their values. Its name is its
    `data.name`. ValueError names the part that cannot be composed.
    """
    asked = config.get("parts")
    if asked is None:
        return config
    if "parts" not in config.data:
        raise ValueError(
            f"task=multi needs several data sets: name them in parts=[{config.data.name},...] and "
            "leave data= out"
        )
    plain = OmegaConf.to_container(asked, resolve=True)
    if not isinstance(plain, list) or not plain:
        raise ValueError(
            f"parts={plain}: give a list of data sets, or of groups and keys, such as "
            "parts=[recipes,{task: tagging,data: recipes_online}]"
        )
    made: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
    for part in plain:
        name, task, data = _part(config, part)
        if name in made:
            raise ValueError(
                f"parts: two of them are called {name}: name one of them another way, such as "
                f"{{data: ..., data.name: {name}_2}}"
            )
        made[name] = task, data
    tasks, data = ({name: both[i] for name, both in made.items()} for i in (0, 1))
    OmegaConf.update(config, "task.parts", tasks, merge=False, force_add=True)
    OmegaConf.update(config, "data.parts", data, merge=False, force_add=True)
    return config


def _part(config: DictConfig, asked: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """One part → its name, and the nodes of its task and data, resolved."""
    words = _words(asked)
    _check_words(words)
    part = _compose(words)
    for key in ("paths", "seed", "cell", "recurrent"):  # of the run
        part[key] = config[key]
    where = part.model.encoder if "encoder" in part.model else part.model
    path = "model.encoder" if "encoder" in part.model else "model"
    for key, value in config.model.items():
        if value is not None and key in where and f"{path}.{key}" not in words:
            where[key] = value
    if part.model.get("budget") is not None:
        raise ValueError(
            f"parts: model.budget={part.model.budget} of {part.data.name}: the stack is one, so "
            "its size is given, model.hidden_size=..."
        )
    task, data = (_node(part[key], drop=OF_ALL[key]) for key in ("task", "data"))
    name = str(data["name"])
    check_part_name(name)
    return name, {key: value for key, value in task.items() if key not in GIVEN}, data


def _node(node: Any, drop: tuple[str, ...]) -> dict[str, Any]:
    """A node with a `_target_` that makes a factory, without what all parts are given."""
    plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    return {**{str(key): v for key, v in plain.items() if key not in drop}, "_partial_": True}


def _words(asked: Any) -> dict[str, Any]:
    """A part's nested and dotted keys alike → dotted keys and their values."""
    if isinstance(asked, str):
        return {"data": asked}
    if not isinstance(asked, Mapping):
        raise ValueError(f"parts: {asked!r} is neither a data set's name nor a mapping of keys")
    return dict(leaves(asked, empty=False))


def _check_words(words: Mapping[str, Any]) -> None:
    """ValueError for a key that only the run as a whole has."""
    for key in words:
        group, _, below = key.partition(".")
        if group.partition("/")[0].partition("@")[0] not in GROUPS:
            raise ValueError(
                f"parts: {key} is of the whole run: give it outside of parts; a part has "
                f"{', '.join(GROUPS)} of its own"
            )
        if below in OF_ALL.get(group, ()):
            raise ValueError(f"parts: {key} is of all parts: give it outside of parts")


def _compose(words: Mapping[str, Any]) -> DictConfig:
    line = quote_plain_values([f"{key}={_value(value)}" for key, value in words.items()])
    try:
        if GlobalHydra.instance().is_initialized():
            part = compose("config", line)
        else:
            with initialize_config_dir(str(CONFIGS), version_base="1.3"):
                part = compose("config", line)
    except (HydraException, OmegaConfBaseException) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"parts: {' '.join(line)} cannot be composed: {reason}") from error
    OmegaConf.set_struct(part, False)
    return part


def _value(value: Any) -> str:
    """A value as a command line has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{','.join(map(_value, value))}]"
    return str(value)
