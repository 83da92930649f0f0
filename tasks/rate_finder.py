"""A learning rate is looked for: it grows from step to step, and the loss tells how far it may."""

import math
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tasks.console import say
from tasks.drawing import save, style, subplots
from tasks.schedules import Schedule


def growing(
    optimizer: Optimizer, total_steps: int, *, lowest: float, highest: float, steps: int
) -> Schedule:
    """The first group's rate goes from `lowest` to `highest` in `steps` equal factors, and all
    others with it (Smith 2017, arXiv 1506.01186)."""
    full = float(optimizer.param_groups[0]["lr"])

    def factor(step: int) -> float:
        return lowest * (highest / lowest) ** (step / max(1, steps - 1)) / full

    return {"scheduler": LambdaLR(optimizer, factor), "interval": "step"}


class RateFinder(callbacks.Callback):
    """Notes rate and loss of every step, stops where the loss has gone astray, and draws both.

    The loss is the running mean of those so far, newest first (`smoothing` is what stays of it at a
    step). It has gone astray at four times its least, or where it is no number.
    """

    def __init__(self, *, smoothing: float = 0.9) -> None:
        self.smoothing = smoothing
        self.rates: list[float] = []
        self.losses: list[float] = []  # smoothed
        self.mean = 0.0

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        if trainer.global_step == len(self.rates):  # not within accumulated batches
            self.rates.append(rate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == len(self.losses):
            return  # of accumulated batches the last one speaks
        loss = trainer.callback_metrics["train/loss"].detach().float()
        loss = float(trainer.strategy.reduce(loss, reduce_op="mean"))
        self.mean = self.smoothing * self.mean + (1 - self.smoothing) * loss
        smooth = self.mean / (1 - self.smoothing ** (len(self.losses) + 1))
        self.losses.append(smooth)
        if not math.isfinite(smooth) or smooth > 4 * min(self.losses):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        rates, losses = self.rates[: len(self.losses)], self.losses
        found = suggestion(rates, losses)
        path = Path(trainer.default_root_dir) / "lr_finder.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw(rates, losses, found, path)
        tried = f"{len(rates)} steps, {rates[0]:.2g} to {rates[-1]:.2g}, {path}"
        if found is None:
            say(f"find_lr: the loss never fell: there is no rate to suggest ({tried})")
        else:
            say(f"find_lr: optimizer.lr={found:.2g} ({tried})")


def suggestion(rates: list[float], losses: list[float]) -> float | None:
    """The rate at which the loss falls most steeply as the rate's logarithm grows, and a tenth of
    that of the least loss at most, behind which training soon breaks; None where it never falls."""
    kept = [loss if math.isfinite(loss) else math.inf for loss in losses]
    end = min(range(len(kept)), key=kept.__getitem__) + 1 if kept else 0
    if end < 2:
        return None
    logs = torch.tensor(rates[:end], dtype=torch.float64).log()
    (slopes,) = torch.gradient(torch.tensor(kept[:end], dtype=torch.float64), spacing=(logs,))
    steepest = int(slopes.argmin())
    return min(rates[steepest], rates[end - 1] / 10) if slopes[steepest] < 0 else None


def draw(rates: list[float], losses: list[float], found: float | None, path: Path) -> None:
    """The loss over the rate, and the suggestion in it."""
    with style():
        figure, (ax,) = subplots(1, columns=1, size=(5.0, 3.4))
        ax.plot(rates, losses, color="C0")
        if found is not None:
            ax.axvline(found, color="C1", label=f"{found:.2g}")
            ax.legend(frameon=False)
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")  # the style prints TeX as it is
        ax.minorticks_off()
        ax.set_xlabel("learning rate")
        ax.set_ylabel("training loss, smoothed")
        ax.grid(alpha=0.3)
        save(figure, path)
