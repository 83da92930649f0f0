"""What a run did, step by step, as digests: two runs are alike where these lines are."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor

from tasks.finite import tensors

FILES = "trace_*.jsonl"


class Trace(callbacks.Callback):
    """`<folder>/trace_RANK.jsonl`: a line for the first weights; for each step its batch, loss,
    gradient and weights; for each evaluation its metrics.

    A line holds `step` (of the optimizer, from 0), `what`, and by name a digest of each tensor or
    the number in full. For runs of a few steps: every tensor is read after every step.
    """

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        self.step = 0  # that the batch belongs to

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.step = trainer.global_step
        self._write(trainer, "the weights before it", digests(pl_module.state_dict().items()))

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.step = trainer.global_step
        self._write(trainer, "the batch", digests(tensors(batch)))

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: Tensor
    ) -> None:
        self._write(trainer, "the loss", {"loss": loss.item()})

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        named = ((n, p.grad) for n, p in pl_module.named_parameters() if p.grad is not None)
        self._write(trainer, "the gradient", digests(named))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._write(trainer, "the weights after it", digests(pl_module.state_dict().items()))

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer, "the validation", pl_module.measured)

    def on_test_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write(trainer, "the test", pl_module.measured)

    def _write(self, trainer: Trainer, what: str, values: dict[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / FILES.replace("*", str(trainer.global_rank))
        with path.open("a", encoding="utf-8") as file:
            line = {"step": self.step, "what": what, "values": values}
            file.write(json.dumps(line) + "\n")


def digests(named: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """A short hash of the shape, the type and every bit of each tensor."""
    return {name: digest(tensor) for name, tensor in named}


def digest(tensor: Tensor) -> str:
    kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
    bits = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.blake2b(kind + bits.tobytes(), digest_size=8).hexdigest()
