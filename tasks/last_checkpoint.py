"""Saving what a training needs to go on, every few minutes and when it is asked to stop."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks

from tasks import journal
from tasks.checkpoint_files import LAST
from tasks.stopping import Signals, Stopped


class LastCheckpoint(callbacks.Checkpoint):
    """`<folder>/last.ckpt`: after each epoch, every `minutes` within one, and on a signal.

    Within an epoch it saves only where gradients were just applied and no validation is due, so
    that a run that goes on from there does all that the one before would have done. A signal within
    a validation ends it: what is saved is the training before it, and a run that goes on begins
    with that validation. Where `trainer.max_steps` or `max_time` cuts an epoch off, a run that is
    given more goes on with the rest of it.
    """

    def __init__(self, *, folder: str, minutes: float = 10.0) -> None:
        super().__init__()
        if minutes < 0:
            raise ValueError(f"callbacks.last.minutes must be 0 or more, got {minutes}")
        self.path = Path(folder) / LAST
        self.seconds = 60 * minutes
        self.signals = Signals()
        self._saved_at = 0.0
        self._shared = 0.0  # batches of a validation that every rank has

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.signals.remember()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # in place of Lightning's own, which is there by now: in a validation, or between batches
        # that are accumulated, it ends the process with nothing saved and exit code 0
        self.signals.listen()
        if trainer.received_sigterm:
            self.signals.number = int(signal.SIGTERM)
            trainer._signal_connector.received_sigterm = False
        self._saved_at = time.monotonic()
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

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._shared = float(sum(trainer.fit_loop.epoch_loop.val_loop.max_batches))
        if trainer.world_size > 1:
            least = -torch.tensor(self._shared, device=trainer.strategy.root_device)
            shared = -float(trainer.strategy.reduce(least, reduce_op="max"))
            self._shared = shared if math.isfinite(shared) else 0.0

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not trainer.sanity_checking and batch_idx < self._shared:
            self._stop(trainer, self._agreed(trainer))

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        # here, and not before: the callbacks have put back what they had changed for a validation
        if isinstance(exception, Stopped) and trainer.validating and not self._finished(trainer):
            progress = trainer.fit_loop.epoch_loop.val_loop.batch_progress
            progress.reset()  # as at its first batch, where Lightning begins again
            progress.increment_ready()
            progress.increment_started()
            self._save(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        loop = trainer.fit_loop
        whole = loop.epoch_loop._num_ready_batches_reached() or loop._should_accumulate()
        with contextlib.nullcontext() if whole else _within_epoch(trainer):
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

    def _finished(self, trainer: Trainer) -> bool:
        """Whether Lightning would not go on, not even with a validation that is due."""
        return 0 <= trainer.max_steps <= trainer.global_step

    def _stop(self, trainer: Trainer, number: int) -> None:
        if not number:
            return
        name = signal.Signals(number).name
        said = f"{name}: stopped after step {trainer.global_step:,}, saved in {self.path}"
        if trainer.validating and self._finished(trainer):
            said = f"{name}: stopped in the last validation; {self.path} is of an earlier step"
        raise Stopped(number, f"{said}; resume=true goes on from there")


@contextlib.contextmanager
def _within_epoch(trainer: Trainer) -> Iterator[None]:
    """Counts of Lightning's loops as they were at the end of the last batch: where that was not the
    epoch's last one, they say at the epoch's end that all of it was learnt from.
    """
    loop = trainer.fit_loop
    epoch, batch = loop.epoch_progress, loop.epoch_loop.batch_progress

    def count(by: int) -> None:
        for progress in (epoch.total, epoch.current):
            progress.processed += by
        for progress in (batch.total, batch.current):
            progress.completed += by
        loop.epoch_loop._batches_that_stepped += by

    count(-1)
    try:
        yield
    finally:
        count(1)
