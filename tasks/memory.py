"""Whether a model fits in this machine's memory, told before its first number is made."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.finite import is_out_of_memory

MOST_PARTS = 20_000  # parameters of a model: the deepest have some thousands
COPIES = 4  # of each weight in training: itself, its gradient, two moments of the optimizer


class _TooLarge(Exception):
    """What there would be too much of."""


def check_fits(
    make: Callable[[], nn.Module], settings: Mapping[str, Any], where: str, *, trains: bool = False
) -> None:
    """ValueError, with the largest of the `settings` of the model at the key `where`, if it takes
    more memory than is free: its weights alone, or where it `trains`, what stands beside them.

    `make` builds it, here on the meta device: shapes without numbers.
    """
    seen = itertools.count(1)

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if next(seen) > MOST_PARTS:
            raise _TooLarge(f"more than {MOST_PARTS:,} weights and biases")

    hook = nn.modules.module.register_module_parameter_registration_hook(count)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            size, there = weight_bytes(make()), free()
        if (COPIES if trains else 1) * size > there:
            beside = f" and takes {COPIES} times as much to train" if trains else ""
            raise _TooLarge(
                f"{size / 1e9:,.1f} GB of weights{beside}; {there / 1e9:.1f} GB are free"
            )
    except _TooLarge as error:
        _refuse(str(error), settings, where)
    except Exception as error:  # what else is wrong is told when it is built
        if "overflow" in str(error) or is_out_of_memory(error):
            _refuse("more weights than there is memory for", settings, where)
    finally:
        hook.remove()


def weight_bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in (*module.parameters(), *module.buffers()))


def free() -> int:
    """Bytes that a process may still take without the system having to swap."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _refuse(told: str, settings: Mapping[str, Any], where: str) -> None:
    sizes = sorted(_sizes(settings, where), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{key}={size}" for key, size in sizes)
    raise ValueError(f"the model has {told}: choose smaller sizes, the largest are {named}")


def _sizes(node: Any, where: str) -> Iterator[tuple[str, int]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _sizes(value, f"{where}.{key}")
    elif isinstance(node, list):
        for item in node:
            yield from _sizes(item, where)
    elif type(node) is int:
        yield where, node
