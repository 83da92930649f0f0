"""The learning rate of one step goes with the length of the window that it learns from."""

from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback


class RateByWindow(Callback):
    """Each step's rate times its window's length over `steps`; windows of `steps` change nothing.

    A short window has as much of a step as a long one, so that without this its symbols would
    count for more (Merity et al. 2018, arXiv 1708.02182). The optimizer's own rates, which
    schedules and loggers see, stay as they are.
    """

    def __init__(self, *, steps: int) -> None:
        if steps < 1:
            raise ValueError(f"callbacks.window_rate.steps must be at least 1, got {steps}")
        self.steps = steps
        self.lengths: list[int] = []  # of the batches since the last step
        self.changed: list[tuple[dict[str, Any], float, float]] = []  # group, own rate, changed one

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for optimizer in trainer.optimizers:
            # before a schedule has its turn
            optimizer.register_step_post_hook(lambda *_: self._put_back())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.lengths.append(batch.inputs.size(1))

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        share = sum(self.lengths) / (len(self.lengths) * self.steps)
        self.lengths.clear()
        self._put_back()  # where half precision has left out a step
        if share == 1:
            return
        for group in optimizer.param_groups:
            own, group["lr"] = group["lr"], group["lr"] * share
            self.changed.append((group, own, group["lr"]))

    def _put_back(self) -> None:
        for group, own, changed in self.changed:
            if group["lr"] == changed:  # not where a schedule has set another since
                group["lr"] = own
        self.changed.clear()
