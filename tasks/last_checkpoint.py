"""Saving what a training needs to go on, every few minutes and when it is asked to stop."""

import signal
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks

from tasks import journal
from tasks.checkpoint_files import LAST
from tasks.stopping import Signals, Stopped, requeue


class LastCheckpoint(callbacks.Checkpoint):
    """`<folder>/last.ckpt`: after each epoch, every `minutes` within one, and on a signal.

    Within an epoch it saves only where gradients were just applied and no validation is due, so
    that a run that goes on from there does all that the one before would have done.
    """

    def __init__(self, *, folder: str, minutes: float = 10.0) -> None:
        super().__init__()
        if minutes < 0:
            raise ValueError(f"callbacks.last.minutes must be 0 or more, got {minutes}")
        self.path = Path(folder) / LAST
        self.seconds = 60 * minutes
        self.signals = Signals()
        self._saved_at = 0.0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.listen()
        self._saved_at = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        every, batches = trainer.accumulate_grad_batches, trainer.val_check_batch
        last = batches in (None, float("inf"), trainer.num_training_batches)
        if not last and int(batches) % every:
            raise ValueError(
                f"trainer.val_check_interval comes every {int(batches)} batches, in the middle of "
                f"trainer.accumulate_grad_batches={every}: choose a multiple of {every}"
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loop = trainer.fit_loop
        if loop._should_accumulate() or loop.epoch_loop.batch_progress.is_last_batch:
            return
        if loop.epoch_loop._should_check_val_fx(loop._data_fetcher):  # type: ignore[arg-type]
            return
        number = self._agreed(trainer)
        if number or self._due(trainer):
            self._save(trainer)
        self._stop(trainer, number)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._save(trainer)
        self._stop(trainer, self._agreed(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.signals.leave()

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["journal"] = journal.lines(Path(trainer.default_root_dir))

    def _save(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.path)
        self._saved_at = time.monotonic()

    def _due(self, trainer: Trainer) -> bool:
        due = time.monotonic() - self._saved_at >= self.seconds
        return bool(trainer.strategy.broadcast(due)) if trainer.world_size > 1 else due

    def _agreed(self, trainer: Trainer) -> int:
        """The signal that came to any rank, the same on all."""
        if trainer.world_size == 1:
            return self.signals.number
        number = torch.tensor(float(self.signals.number), device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))

    def _stop(self, trainer: Trainer, number: int) -> None:
        if not number:
            return
        name = signal.Signals(number).name
        said = f"{name}: stopped after step {trainer.global_step:,}, saved in {self.path}"
        user = getattr(signal, "SIGINT", None)
        again = requeue() if trainer.is_global_zero and number != user else ""
        raise Stopped(number, f"{said}; resume=true goes on from there{again}")
