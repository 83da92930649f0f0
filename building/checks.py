"""What of a config can be refused before anything long."""

from typing import Any

from building.instantiate import named, plain
from data.declared import check_value
from data.streaming import NO_END
from tasks.arguments import check_arguments

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
        check_arguments(settings[part], part, find=named)
    for part in ("callbacks", "logger"):
        check_value(settings[part], dict[str, Any] | None, part)
        for name, one in (settings[part] or {}).items():
            check_value(one, dict[str, Any] | None, f"{part}.{name}")
            check_arguments(one, f"{part}.{name}", find=named)
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed={config.seed}: give a number from 0 to {2**32 - 1}")


def check_stream(config: Any) -> None:
    """ValueError where training reads a stream and nothing says when it ends."""
    limit = config.trainer.get("limit_train_batches")
    ends = config.trainer.max_steps > 0 or (isinstance(limit, int) and limit > 0)
    if config.data.get("streaming") and config.fit and not ends:
        raise ValueError(NO_END)
