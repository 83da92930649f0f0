"""A trained model in a directory of its own: weights as safetensors, all else as JSON. No pickle.

weights.safetensors   every tensor once
config.json           version, config, spec, fingerprint, measured, tied tensors, checksums
codec.json            vocabularies, tokenizers, labels, units
README.md             the model card, for people alone
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data.tokenizer_file import MOST_BYTES
from tasks.checkpoint_files import reason

VERSION = 1  # of the directory; the record's own is that of the checkpoints
WEIGHTS, CONFIG, CODEC, CARD = "weights.safetensors", "config.json", "codec.json", "README.md"
MOST_LEVELS = 64  # of JSON; a config has ten

Plain = dict[str, Any]
# a version → what makes the next one of the content of its config.json
OLDER: dict[int, Callable[[Plain], Plain]] = {}


def write(
    checkpoint: Mapping[str, Any],
    folder: Path,
    *,
    card: str,
    measured: Mapping[str, float] | None = None,
) -> None:
    """Write an opened checkpoint into a directory, new or empty; the weights come last, so that an
    export that was cut off is not taken for a model. ValueError where the directory holds anything,
    OSError where it cannot be written.
    """
    check_free(folder)
    record = checkpoint["unroll"]
    weights, tied = _once(checkpoint["state_dict"])
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / f".{WEIGHTS}.new"
    try:
        save_file(weights, aside, metadata={"format": "pt"})
        _write_json(folder / CODEC, record["codec"])
        content = {
            "version": VERSION,
            "format": record["format"],
            "config": portable(record["config"]),
            "spec": record["spec"],
            "fingerprint": record["fingerprint"],
            "step": checkpoint.get("global_step", 0),
            "measured": dict(measured or {}),
            "tied": tied,
            "sha256": {WEIGHTS: _hash(aside), CODEC: _hash(folder / CODEC)},
        }
        _write_json(folder / CONFIG, content)
        (folder / CARD).write_text(card, encoding="utf-8")
        aside.replace(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        for name in (aside.name, CODEC, CONFIG, CARD):
            (folder / name).unlink(missing_ok=True)
        raise OSError(f"{folder} could not be written ({reason(error)})") from error


def check_free(folder: Path) -> None:
    """ValueError where something would be written over."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: give a new directory")
    held = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if held:
        raise ValueError(
            f"{folder} is not empty (it holds {', '.join(held[:5])}): give a new directory"
        )


def read(folder: Path) -> Plain:
    """What `write` wrote, as a checkpoint: `state_dict`, `unroll`, `global_step`, `measured`.

    ValueError names the file that is damaged, missing, of a later version or of another export.
    """
    content = _read_json(folder / CONFIG)
    content = _current(content, folder / CONFIG)
    wanted = {"config": dict, "spec": dict, "fingerprint": str, "format": int, "step": int,
              "measured": dict, "tied": dict, "sha256": dict}  # fmt: skip
    for key, kind in wanted.items():
        if type(content.get(key)) is not kind:
            raise ValueError(f"{folder / CONFIG} has no {key} ({kind.__name__}) as an export has")
    if not all(type(value) is float for value in content["measured"].values()):
        raise ValueError(f"{folder / CONFIG} has measured values that are no numbers")
    codec = _read_json(folder / CODEC)
    weights = _read_weights(folder / WEIGHTS)
    for name in (CODEC, WEIGHTS):
        if content["sha256"].get(name) != _hash(folder / name):
            raise ValueError(
                f"{folder / name} is not the file that was exported: its SHA-256 is not that of "
                f"{CONFIG}; take both from one export"
            )
    for name, kept in content["tied"].items():
        if not isinstance(kept, str) or kept not in weights:
            raise ValueError(f"{folder / CONFIG} ties {name} to {kept!r}, which is not there")
        weights[name] = weights[kept]
    record = {key: content[key] for key in ("format", "config", "spec", "fingerprint")}
    return {
        "state_dict": weights,
        "unroll": {**record, "codec": codec},
        "global_step": content["step"],
        "measured": content["measured"],
    }


def portable(config: Mapping[str, Any]) -> Plain:
    """A run's config without the places and the loggers of the machine that trained it."""
    kept = {k: v for k, v in config.items() if k not in ("paths", "logger", "callbacks")}
    for part, keys in {"trainer": ["default_root_dir"], "data": ["data_dir", "cache_dir"]}.items():
        if isinstance(kept.get(part), Mapping):
            kept[part] = {**kept[part], **{key: None for key in keys if key in kept[part]}}
    return kept


def _once(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor once, contiguous and with memory of its own; and the others' names → its name."""
    first: dict[Any, str] = {}
    kept, tied = {}, {}
    for name, value in state.items():
        place = (value.data_ptr(), value.dtype, value.shape, value.stride())
        own = first.setdefault(place if value.numel() else name, name)
        if own == name:
            kept[name] = value.detach().clone(memory_format=torch.contiguous_format)
        else:
            tied[name] = own
    return kept, tied


def _write_json(path: Path, content: Plain) -> None:
    text = json.dumps(content, indent=1)
    if json.loads(text) != content:  # a key that is no text, say: it would come back as another
        raise ValueError(f"{path.name}: this run's record is not plain JSON")
    path.write_text(text + "\n", encoding="utf-8")


def _read_json(path: Path) -> Plain:
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise ValueError(f"{size:,} bytes, more than {MOST_BYTES:,}")
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({reason(error)})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not what an export wrote")
    level: list[Any] = [content]
    for _ in range(MOST_LEVELS):
        level = [
            item
            for one in level
            for item in (one.values() if isinstance(one, dict) else one)
            if isinstance(item, (dict, list))
        ]
    if level:
        raise ValueError(f"{path} is nested deeper than {MOST_LEVELS} levels")
    return content


def _current(content: Plain, path: Path) -> Plain:
    """The content in this version; an older one is brought up step by step."""
    version = content.get("version")
    if type(version) is not int or version < min(OLDER, default=VERSION):
        raise ValueError(f"{path} has version {version!r}, which no export has")
    if version > VERSION:
        raise ValueError(f"{path} has version {version}; this Unroll reads up to {VERSION}")
    for older in range(version, VERSION):
        content = {**OLDER[older](content), "version": older + 1}
    return content


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError, ValueError, RuntimeError, KeyError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors: it is cut short or damaged ({reason(error)})"
        ) from error


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
