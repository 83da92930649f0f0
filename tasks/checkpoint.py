"""Checkpoints: found by run or file, opened without executing anything, checked before use."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.codec import Codec, codec_from_plain
from tasks import exported
from tasks.base import FORMAT, Task
from tasks.checkpoint_files import damage, reason


def find(place: str | Path) -> Path:
    """A run's directory, an exported one or a checkpoint's path → the checkpoint's path (a run: its
    best one; an export: its weights).
    """
    path = Path(place).expanduser()
    if path.is_file():
        return path
    if not path.exists():
        raise ValueError(
            f"{path} does not exist: give a run's directory or a .ckpt file{_near(path)}"
        )
    for name in ("checkpoints/best.ckpt", "best.ckpt", "checkpoints/last.ckpt", "last.ckpt"):
        if (path / name).is_file():
            return path / name
    if (path / exported.WEIGHTS).is_file():
        return path / exported.WEIGHTS
    runs = sorted(str(p.parent.parent) for p in path.rglob("checkpoints/best.ckpt"))
    there = f"; there are runs below it: {', '.join(runs[-5:])}" if runs else ""
    raise ValueError(f"{path} holds no checkpoint (checkpoints/best.ckpt){there}")


def read(place: str | Path) -> dict[str, Any]:
    """The checkpoint of a run or file: plain data and tensors. ValueError says what is wrong."""
    path = find(place)
    checkpoint = exported.read(path.parent) if path.name == exported.WEIGHTS else _opened(path)
    record = checkpoint.get("unroll") if isinstance(checkpoint, dict) else None
    if not isinstance(record, dict) or not {"config", "spec", "codec"} <= record.keys():
        raise ValueError(f"{path} is not a checkpoint of Unroll: it has no config, spec and codec")
    if type(record.get("format")) is not int or record["format"] > FORMAT:
        own = record.get("format")
        raise ValueError(f"{path} has format {own!r}; this version of Unroll reads up to {FORMAT}")
    weights = checkpoint.get("state_dict")
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{path} is not a checkpoint of Unroll: its state_dict holds no tensors")
    checkpoint["path"] = str(path)
    return checkpoint


def _opened(path: Path) -> Any:
    """What torch saved in a file. ValueError where it is damaged or holds more than plain data."""
    if (damaged := damage(path)) is not None:
        raise ValueError(
            f"{path} cannot be read ({path.stat().st_size:,} bytes): it is cut short, damaged or "
            f"no checkpoint of Unroll ({damaged})"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read: it is no checkpoint of Unroll ({reason(error)})"
        ) from error


def check_goes_on(checkpoint: dict[str, Any]) -> None:
    """ValueError where training cannot go on: an exported model has no state of the optimizer."""
    if "optimizer_states" not in checkpoint:
        raise ValueError(
            f"ckpt={checkpoint['path']} holds weights alone, with no state of a training to go on "
            "from: begin a new run with its weights (init=), or test it (fit=false)"
        )


def average(places: Sequence[str | Path]) -> dict[str, Any]:
    """The first of some checkpoints with the mean of all weights. ValueError names what differs."""
    first, *others = map(read, places)
    for other in others:
        for part in ("spec", "codec"):
            if first["unroll"][part] != other["unroll"][part]:
                raise ValueError(f"{other['path']} differs from {first['path']} in its {part}")
        own, theirs = first["unroll"]["config"], other["unroll"]["config"]
        for part in ("task", "model", "cell"):
            if _model_of(own.get(part)) != _model_of(theirs.get(part)):
                raise ValueError(f"{other['path']} differs from {first['path']} in config {part}")
        if first["state_dict"].keys() != other["state_dict"].keys():
            raise ValueError(f"{other['path']} differs from {first['path']} in its weights' names")
    weights = {}
    for name, value in first["state_dict"].items():
        if value.is_floating_point():
            several = torch.stack([c["state_dict"][name].double() for c in (first, *others)])
            value = several.mean(0).to(value.dtype)
        weights[name] = value
    return {**first, "state_dict": weights}


def _model_of(part: Any) -> Any:
    """A task's name and model without its training; another part as it is."""
    if isinstance(part, dict) and "_target_" in part and "model" in part:
        return part["_target_"], part["model"]
    return part


def last(place: str | Path, count: int) -> list[Path]:
    """The newest `count` checkpoints beside a run's best one, those of one step counted once."""
    files = sorted(find(place).parent.glob("*.ckpt"), key=lambda file: file.stat().st_mtime)
    steps: dict[int, Path] = {read(file)["global_step"]: file for file in files}
    found = [steps[step] for step in sorted(steps)]
    if not 1 <= count <= len(found):
        raise ValueError(
            f"average={count}: there are {len(found)} checkpoints (steps {sorted(steps)})"
        )
    return found[-count:]


def restore(task: Task, checkpoint: dict[str, Any]) -> None:
    """Put the weights into a task. ValueError names what does not fit."""
    own, given = task.state_dict(), checkpoint["state_dict"]
    where = checkpoint.get("path", "the checkpoint")
    _check_vocabularies(task, checkpoint, where)
    for key in own.keys() | given.keys():
        if key not in own or key not in given:
            side = "the model" if key in own else "the checkpoint"
            raise ValueError(f"{where} does not fit the model: only {side} has {key}")
        if own[key].shape != given[key].shape:
            raise ValueError(
                f"{where} does not fit the model: {key} has shape {tuple(given[key].shape)}, the "
                f"model wants {tuple(own[key].shape)}"
            )
    task.load_state_dict(given)


def _check_vocabularies(task: Task, checkpoint: dict[str, Any], where: str) -> None:
    """Equal shapes are not enough: in another vocabulary every number means another word."""
    record = checkpoint.get("unroll")
    if record is None:
        return
    check_vocabularies(
        task.codec, codec_from_plain(record["codec"]), where,
        mend="encode the data with the checkpoint's (train.py ckpt=... does), or train a new model",
    )  # fmt: skip


def check_vocabularies(own: Codec, trained: Codec, where: str, *, mend: str) -> None:
    """ValueError where a number means another symbol to what was trained than in the data."""
    theirs = trained.vocabularies()
    for name, vocabulary in own.vocabularies().items():
        if vocabulary != theirs.get(name):
            raise ValueError(
                f"{where} was trained with another vocabulary ({name}): "
                f"{theirs.get(name, 'none')}, but the data has {vocabulary}; {mend}"
            )


def _near(path: Path) -> str:
    parent = next((p for p in path.absolute().parents if p.exists()), None)
    if parent is None:
        return ""
    names = sorted(p.name for p in parent.iterdir() if not p.name.startswith("."))[:12]
    return f" ({parent} holds: {', '.join(names) or 'nothing'})"
