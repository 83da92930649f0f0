"""Whether the seeds of a row were run with the settings that its words compose to."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch import composed

ASIDE = ("resume", "logger.")  # say nothing about what was trained


def digest(row: Mapping[str, Any]) -> str:
    """Of all values that the row's words compose to, wherever its folders lie: seeds of one digest
    belong together, whichever machines ran them.
    """
    values = _values(composed([*row["config"], "paths.run_dir=run"]))
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:24]


def check(row: Mapping[str, Any], folder: Path) -> None:
    """ValueError where a seed was run with settings that the row's words compose to no more, since
    a file of the configs was changed after it.

    A key that one of the two does not know is no change, nor is what the data settles: `auto`, and
    the sizes that meet a `model.budget`, in whose place the run has them.
    """
    from omegaconf import OmegaConf

    for seed in row["seeds"]:
        run = folder / str(seed)
        if not (run / "config.yaml").is_file():
            continue
        stored = OmegaConf.load(run / "config.yaml")
        config = composed([*row["config"], f"seed={seed}"])
        config.paths.run_dir = stored.paths.run_dir  # Hydra's own is known to a job alone
        was, now = _values(stored), _values(config)
        met = now.get("model.budget") is not None and was.get("model.budget") is None
        settled = {"budget", "hidden_size"} if met else set()
        changed = [
            f"{key} was {was[key]}, is {now[key]}" for key in sorted(was.keys() & now.keys())
            if was[key] != now[key] != "auto" and key.rpartition(".")[2] not in settled
        ]  # fmt: skip
        if changed:
            raise ValueError(
                f"seed {seed} was run with other settings than {' '.join(row['config'])} has now: "
                f"{', '.join(changed[:4])}{', ...' if changed[4:] else ''}; move {folder} away to "
                "measure the row anew"
            )


def _values(config: Any) -> dict[str, Any]:
    """What a config trains with, by key, wherever its folders lie."""
    from building.defaults import placeless
    from building.instantiate import plain

    values = placeless(plain(config))
    return {key: value for key, value in values.items() if not key.startswith(ASIDE)}
