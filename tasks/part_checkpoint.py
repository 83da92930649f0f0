"""One part of a run of several tasks, as the checkpoint that a run of it alone would have left."""

from collections.abc import Mapping
from typing import Any

from tasks.base import FORMAT

GIVEN = ("optimizer", "scheduler", "seed")  # to every part, by the task of all
PLACES = ("seed", "data_dir", "cache_dir", "batch_size", "num_workers")  # to every part's data


def take_part(checkpoint: Mapping[str, Any], name: str | None) -> dict[str, Any]:
    """An opened checkpoint → that of its part `name`: weights, record and measured numbers.

    Of a run of one task, without a name, it is the checkpoint itself. ValueError where a part is
    named that is not there, or none is and the run has several.
    """
    record, where = checkpoint["unroll"], checkpoint.get("path", "the checkpoint")
    parts = _parts(record)
    if parts is None and name is None:
        return dict(checkpoint)
    if not parts:
        raise ValueError(f"{where} is of one task: it has no part {name!r}; leave the part out")
    if name not in parts:
        told = "say which part" if name is None else f"there is no part {name!r}"
        raise ValueError(f"{where} is of several tasks: {told}; there are {', '.join(parts)}")
    inside = f"parts.{name}."
    weights = {
        key.removeprefix(inside): value
        for key, value in checkpoint["state_dict"].items()
        if key.startswith(inside)
    }
    try:
        own = {
            "format": record.get("format", FORMAT),
            "config": _config(record["config"], name),
            "spec": record["spec"]["parts"][name],
            "codec": record["codec"]["parts"][name],
            "fingerprint": _fingerprints(record["fingerprint"]).get(name, ""),
        }
    except (AttributeError, KeyError, TypeError) as error:  # not what any training wrote
        raise ValueError(f"{where} describes no part {name!r}: it lacks {error}") from error
    step = checkpoint.get("global_step", 0)
    return {"state_dict": weights, "unroll": own, "global_step": step, "path": where}


def _parts(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The parts of a run by name; None where it has one task, or where the record is damaged."""
    config = record["config"]
    task = config.get("task") if isinstance(config, Mapping) else None
    parts = task.get("parts") if isinstance(task, Mapping) else None
    return parts if isinstance(parts, Mapping) else None


def measured_of(measured: Mapping[str, float], name: str) -> dict[str, float]:
    """The metrics `<split>/<part>/<metric>` of one part, as `<split>/<metric>`."""
    found = {}
    for key, value in measured.items():
        split, _, rest = key.partition("/")
        if rest.startswith(f"{name}/"):
            found[f"{split}/{rest.removeprefix(f'{name}/')}"] = value
    return found


def _config(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The run's config with the part's task, model, data and tokenizer in the places of its own."""
    whole, mixed = config["task"], config["data"]
    task = {key: value for key, value in whole["parts"][name].items() if key != "_partial_"}
    data = {key: value for key, value in mixed["parts"][name].items() if key != "_partial_"}
    task |= {key: whole[key] for key in GIVEN}
    data |= {key: mixed[key] for key in PLACES if key in mixed}
    kept = {key: value for key, value in config.items() if key != "parts"}
    tokenizer = data.get("tokenizer", config.get("tokenizer"))
    return {**kept, "task": task, "model": task["model"], "data": data, "tokenizer": tokenizer}


def _fingerprints(joined: str) -> dict[str, str]:
    """Each part's, from what `data.mixed` made of them."""
    each = (one.partition("=") for one in joined.split(", "))
    return {name: value for name, _, value in each}
