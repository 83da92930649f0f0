"""`model.budget=2M`: the hidden sizes that give a model so many trainable parameters."""

from bisect import bisect_left
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from omegaconf import OmegaConf

from building.instantiate import instantiate, plain
from data.codec import Codec
from data.spec import DataSpec
from tasks.console import say


def meet_budget(config: Any, *, spec: DataSpec, codec: Codec, tolerance: float = 0.01) -> None:
    """Choose the hidden sizes that give a model `model.budget` trainable parameters.

    They keep their proportions to each other; embeddings keep their sizes. Of the sizes within
    `tolerance` (a share of the budget) the roundest are taken, multiples of 8 before those of 4 and
    2, which cells can divide among heads; where there are none, the closest. ValueError where the
    smallest model is too large.
    """
    settings = plain(config)["model"]
    budget = settings.get("budget")
    if budget is None:
        return
    wanted = parameters(budget)
    sizes = _sizes(settings, "hidden_size")
    if not sizes or min(sizes.values()) < 1:
        raise ValueError(f"model.budget={budget} needs hidden sizes to scale; they are {sizes}")
    unit = min(sizes.values())

    def resize(size: int) -> None:  # the smallest hidden size to this, the others with it
        for path, own in sizes.items():
            OmegaConf.update(config, path, round(size * own / unit))

    @cache
    def count(size: int) -> int:
        resize(size)
        factory = instantiate({**plain(config.task), "_partial_": True})
        with torch.device("meta"):  # shapes without numbers
            built = factory(spec=spec, codec=codec)
        return sum(p.numel() for p in built.parameters() if p.requires_grad)

    if count(1) > wanted:
        embeddings = ", ".join(_sizes(settings, "embedding_size"))
        mend = f" or a smaller {embeddings}" if embeddings else ""
        raise ValueError(
            f"model.budget={budget}: the smallest model has {count(1):,} parameters, at hidden "
            f"size 1; choose a larger budget{mend}"
        )
    top = 8
    while count(top) < wanted:
        top *= 2
    near = 8 * bisect_left(range(top // 8), wanted, key=lambda eights: count(max(1, 8 * eights)))
    best, error = 1, 1.0
    for step in (8, 4, 2, 1):  # sizes that divide badly may need fewer heads, and so other counts
        around = [size for size in range(near - 16, near + 17, step) if size > 0]
        best = min(around, key=lambda size: abs(count(size) - wanted))
        error = count(best) / wanted - 1
        if abs(error) <= tolerance:
            break
    resize(best)
    config.model.budget = None
    said = ", ".join(f"{path}={OmegaConf.select(config, path)}" for path in sizes)
    say(f"model.budget={budget}: {said} has {count(best):,} trainable parameters ({error:+.2%})")
    if abs(error) > tolerance:
        say(f"warning: no hidden size comes within {tolerance:.0%} of model.budget={budget}")


def parameters(budget: str | float) -> int:
    """500k, 1.5M, 2_000_000 or 1e6 → so many parameters. ValueError for what is no such number."""
    text = str(budget).strip().lower()
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(text[-1:])
    try:
        number = float(text[:-1]) * scale if scale else float(text)
    except ValueError:
        number = 0.0
    if not 1 <= number <= 1e12:
        raise ValueError(
            f"model.budget={budget}: give a number of parameters, 1 to 1e12, such as 2_000_000, "
            "1e6, 500k, 1.5M or 1B"
        )
    return round(number)


def _sizes(node: Mapping[str, Any], name: str, where: str = "model") -> dict[str, int]:
    """The sizes called `name` of a model and its parts, by their keys; a cell's own are its own."""
    found = {} if node.get(name) is None else {f"{where}.{name}": node[name]}
    for key, value in node.items():
        if key != "cell" and isinstance(value, Mapping):
            found |= _sizes(value, name, f"{where}.{key}")
    return found
