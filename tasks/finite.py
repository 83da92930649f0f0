"""What goes wrong within a step: numbers that are not finite, and batches that do not fit."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor
from torch.optim import Optimizer

from tasks import gradients
from tasks.console import say


class Finite(callbacks.Callback):
    """Stops before weights are spoilt by a gradient that is not finite, or leaves out that step.

    The batch is saved in `<run>/not_finite/step_N.pt` (a dictionary of tensors, for
    `torch.load(..., weights_only=True)`). Up to `skip` such steps of a run are left out: no weight
    and no moment of the optimizer changes in them. Gradients are looked at once they are summed
    over ranks, so that all ranks agree; with fp16 an infinite gradient is the scaler's to handle,
    and the loss alone counts.
    """

    def __init__(self, *, skip: int = 0) -> None:
        if skip < 0:
            raise ValueError(f"callbacks.finite.skip is 0 or more steps, got {skip}")
        self.skip = skip
        self.skipped = 0
        self._batch: Any = None
        self._loss = torch.zeros(())

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._batch = batch

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._loss = loss.detach()

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer
    ) -> None:
        """ValueError, naming the step and the mend, once more than `skip` steps were not finite."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        checked = self._loss if scaled else gradients.norm(pl_module, optimizer)
        if math.isfinite(checked.item()):
            return
        what = "gradient" if math.isfinite(self._loss.item()) else "loss"
        path = self._save(trainer)
        self.skipped += 1
        said = f"step {trainer.global_step:,}: the {what} is not finite; its batch is in {path}"
        if self.skipped > self.skip:
            raise ValueError(
                f"{said}; lower optimizer.lr or trainer.gradient_clip_val, take precision=fp32, or "
                f"leave out such steps with callbacks.finite.skip={max(3, 2 * self.skip)}"
            )
        say(f"{said}; it is left out ({self.skipped} of {self.skip})")
        for parameter in pl_module.parameters():
            parameter.grad = None

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if is_out_of_memory(exception):
            shapes = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors(self._batch))
            say(
                f"step {trainer.global_step:,} ran out of memory on a batch of {shapes}: set a "
                "smaller data.batch_size (with trainer.accumulate_grad_batches the step stays the "
                "same), data.batch_tokens, or for long sequences data.max_tokens or data.steps"
            )

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.skipped = state_dict["skipped"]

    def _save(self, trainer: Trainer) -> Path:
        rank = f"_rank_{trainer.global_rank}" if trainer.world_size > 1 else ""
        folder = Path(trainer.default_root_dir) / "not_finite"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"step_{trainer.global_step}{rank}.pt"
        torch.save({name: tensor.cpu() for name, tensor in tensors(self._batch)}, path)
        return path


def tensors(batch: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a batch (a NamedTuple) by name."""
    for name, value in getattr(batch, "_asdict", dict)().items():
        if isinstance(value, Tensor):
            yield name, value
        else:
            yield from tensors(value)  # of one part of a mixture


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device, or the machine, had no memory left for a tensor."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError)
        and any(said in str(error) for said in ("can't allocate memory", "out of memory"))
    )
