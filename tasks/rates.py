"""Learning rates of parts: a factory of optimizers around another one."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer

Factory = Callable[..., Optimizer]
Group = dict[str, Any]


def with_rate(factory: Factory, part: nn.Module, share: float) -> Factory:
    """The same optimizer, in which a part learns at this share of the rate of its group.

    It splits the groups that it is given, whatever else they set. A schedule multiplies the rates,
    so the share stays.
    """

    def make(groups: list[Group]) -> Optimizer:
        own = set(part.parameters())
        optimizer = factory([some for group in groups for some in _split(group, own)])
        for group in optimizer.param_groups:
            if group.pop("slowed"):
                group["lr"] *= share
        return optimizer

    return make


def _split(group: Group, own: set[nn.Parameter]) -> Iterator[Group]:
    for slowed in (False, True):
        if some := [p for p in group["params"] if (p in own) == slowed]:
            yield {**group, "params": some, "slowed": slowed}
