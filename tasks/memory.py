"""Whether a model fits in this machine's memory, told before its first number is made."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

COPIES = 4  # of each weight in training: itself, its gradient, two moments of the optimizer


def check_fits(make: Callable[[], nn.Module], settings: Mapping[str, Any], where: str) -> None:
    """ValueError, with the largest of the `settings` of the model at the key `where`, if its
    weights alone take more memory than is free.

    `make` builds it, here on the meta device: shapes without numbers.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            built = make()
    except Exception as error:
        if "overflow" not in str(error):
            return  # what else is wrong is told when it is built
        _refuse("more weights than can be counted", settings, where)
    else:
        size, there = weight_bytes(built), free()
        if size > there:
            _refuse(
                f"{size / 1e9:,.1f} GB of weights; {there / 1e9:.1f} GB are free", settings, where
            )


def check_trains(task: nn.Module, settings: Mapping[str, Any], where: str) -> None:
    """ValueError where gradients and an optimizer's moments do not fit beside a model's weights."""
    size, there = weight_bytes(task), free()
    if (COPIES - 1) * size > there:
        told = (
            f"{size / 1e9:,.1f} GB of weights, and training {COPIES - 1} times as much beside "
            f"them; {there / 1e9:.1f} GB are free"
        )
        _refuse(told, settings, where)


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
