"""What must never be written: the values of the environment's keys, tokens and passwords."""

import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?)$", re.IGNORECASE)
LEAST = 8  # characters: a shorter value stands in too many other words


def refuse(config: Any, where: str = "") -> None:
    """ValueError where a config, which every run and checkpoint holds, has a secret in it.

    It names the key and the variable, and not the value.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            refuse(value, f"{where}.{key}" if where else str(key))
    elif isinstance(config, (list, tuple)):
        for value in config:
            refuse(value, where)
    elif isinstance(config, str):
        _refuse([config], where)


def refuse_line(arguments: Iterable[str]) -> None:
    """ValueError where a command line, which a sweep writes down, has a secret in it."""
    _refuse(arguments, "the command line")


def _refuse(texts: Iterable[str], where: str) -> None:
    texts = list(texts)
    for name, value in os.environ.items():
        if NAME.search(name) and len(value) >= LEAST and any(value in text for text in texts):
            raise ValueError(
                f"{where} holds the value of the environment's {name}, and would be saved with the "
                "run: leave it out (W&B and the Hugging Face libraries read the environment "
                "themselves)"
            )
