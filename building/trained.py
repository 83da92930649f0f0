"""What a trained run's checkpoint brings to a command line: its config and its codec."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from building.instantiate import instantiate
from data.codec import Codec, codec_from_plain
from tasks.checkpoint_files import reason


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


def codec(record: Mapping[str, Any]) -> Codec:
    """The codec that a checkpoint holds. ValueError where it is none that any data wrote."""
    try:
        found = codec_from_plain(record["codec"])
        found.vocabularies()  # reads all symbols
    except Exception as error:
        raise ValueError(f"the checkpoint's codec is none of Unroll: {reason(error)}") from error
    return found
