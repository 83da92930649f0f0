"""Learning-rate schedules: factories (optimizer, total_steps) → what Lightning steps."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

Schedule = dict[str, Any]  # Lightning's scheduler dictionary


def _check(name: str, value: float, least: float, most: float = math.inf) -> None:
    if not least <= value <= most:
        to = "or more" if most == math.inf else f"to {most:g}"
        raise ValueError(f"scheduler.{name} is {least:g} {to}, got {value}")


def _by_step(optimizer: Optimizer, factor: Callable[[int], float]) -> Schedule:
    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


def _warm(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / (warmup + 1))


def constant(optimizer: Optimizer, total_steps: int, *, warmup_steps: int = 0) -> Schedule:
    """The same rate at every step, after a linear warm-up."""
    _check("warmup_steps", warmup_steps, 0)
    return _by_step(optimizer, lambda step: _warm(step, warmup_steps))


def cosine(
    optimizer: Optimizer,
    total_steps: int,
    *,
    warmup_steps: int = 0,
    warmup_share: float = 0.0,
    final: float = 0.0,
) -> Schedule:
    """Half a cosine from the full rate to `final` of it (Loshchilov and Hutter 2017, 1608.03983).

    Warm-up is linear, over `warmup_steps` or over a share of all steps, whichever is more.
    """
    _check("warmup_steps", warmup_steps, 0)
    _check("warmup_share", warmup_share, 0, 1)
    _check("final", final, 0)
    warmup = max(warmup_steps, int(warmup_share * total_steps))

    def factor(step: int) -> float:
        done = min(1.0, max(0, step - warmup) / max(1, total_steps - warmup))
        return _warm(step, warmup) * (final + (1 - final) * (1 + math.cos(math.pi * done)) / 2)

    return _by_step(optimizer, factor)


def one_cycle(
    optimizer: Optimizer, total_steps: int, *, rise: float = 0.3, start: float = 0.04
) -> Schedule:
    """Up in a cosine over the share `rise` of the steps, then down to nothing (Smith 2018,
    arXiv 1803.09820)."""
    _check("rise", rise, 0, 1)
    _check("start", start, 0)

    def factor(step: int) -> float:
        done = min(1.0, step / max(1, total_steps))
        if done < rise:
            return start + (1 - start) * (1 - math.cos(math.pi * done / rise)) / 2
        return (1 + math.cos(math.pi * (done - rise) / (1 - rise))) / 2 if rise < 1 else 1.0

    return _by_step(optimizer, factor)


def slanted_triangular(
    optimizer: Optimizer, total_steps: int, *, rise: float = 0.1, ratio: float = 32.0
) -> Schedule:
    """Up in a line over the share `rise` of the steps, then down in a line, both from and to 1 /
    `ratio` of the full rate (Howard and Ruder 2018, arXiv 1801.06146)."""
    _check("rise", rise, 0, 1)
    _check("ratio", ratio, 1)
    cut = max(1, int(rise * total_steps))

    def factor(step: int) -> float:
        left = max(0, total_steps - step) / max(1, total_steps - cut)
        share = step / cut if step < cut else min(1.0, left)
        return (1 + share * (ratio - 1)) / ratio

    return _by_step(optimizer, factor)


def step(
    optimizer: Optimizer, total_steps: int, *, start_share: float, every_share: float, decay: float
) -> Schedule:
    """Full rate for a share of the steps, then times `decay` for every further share
    (Zaremba et al. 2014, arXiv 1409.2329, count in epochs)."""
    _check("start_share", start_share, 0)
    _check("every_share", every_share, 1e-9)
    _check("decay", decay, 0, 1)

    def factor(at: int) -> float:
        late = at / max(1, total_steps) - start_share
        return decay ** max(0, math.floor(late / every_share) + 1) if late >= 0 else 1.0

    return _by_step(optimizer, factor)


class Plateau(ReduceLROnPlateau):
    """Torch's, stepped as soon as a validation is over: before anything of it is saved.

    Lightning would step it when the epoch's checkpoint is on the disk already, and a run that goes
    on from there would never hear of that validation. Its calls, which bring no metric, do nothing.
    """

    def __init__(self, optimizer: Optimizer, *, monitor: str, **settings: Any) -> None:
        super().__init__(optimizer, **settings)
        self.monitor = monitor

    def step(self, metrics: Any = None, epoch: int | None = None) -> None:
        if metrics is not None:
            super().step(metrics)

    def hear(self, metrics: Mapping[str, float]) -> None:
        """What a validation measured. ValueError where `monitor` is not in it."""
        if self.monitor not in metrics:
            raise ValueError(
                f"scheduler.monitor={self.monitor} is not measured in validation: choose one of "
                f"{', '.join(sorted(metrics))}"
            )
        self.step(metrics[self.monitor])


def plateau(
    optimizer: Optimizer,
    total_steps: int,
    *,
    monitor: str,
    mode: str,
    decay: float = 0.25,
    patience: int = 0,
) -> Schedule:
    """Times `decay` whenever `monitor` has not improved for more than `patience` validations."""
    if not 0 <= decay < 1:
        raise ValueError(f"scheduler.decay is 0 or more and below 1, got {decay}")
    _check("patience", patience, 0)
    scheduler = Plateau(optimizer, monitor=monitor, mode=mode, factor=decay, patience=patience)
    return {"scheduler": scheduler, "interval": "epoch", "reduce_on_plateau": False}


def tell(schedulers: Iterable[Any], metrics: Mapping[str, float]) -> None:
    """Tell those schedulers that depend on it what a validation measured."""
    for scheduler in schedulers:
        if isinstance(scheduler, Plateau):
            scheduler.hear(metrics)
