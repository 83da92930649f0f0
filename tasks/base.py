"""What every task shares: losses that are summed and counted, metrics, samples and checkpoints."""

import json
from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from data.codec import Codec
from data.spec import DataSpec
from tasks import schedules
from tasks.gradients import OneNorm
from tasks.layers import parameter_groups
from tasks.loggers import log_picture, log_table
from tasks.metrics import SumCount, total
from tasks.predict_options import PredictOptions
from tasks.rows import Row, append

FORMAT = 1  # of the checkpoints; a later one may add keys, and must still read this
SPLIT_OF = {"val": "validation", "test": "test"}


class Table(NamedTuple):
    """A few predictions beside their right answers."""

    columns: list[str]
    rows: list[list[Any]]


class Task(OneNorm):
    """A model with its loss, its metrics, its samples and its optimiser, for one shape of RNN.

    A shape says how a batch is scored (`loss`), what is counted in evaluation (`evaluate`), which
    metrics that gives (`metrics`), and how raw input is answered (`predict`). The model is built
    from the spec alone, so that a checkpoint opens without the data.
    """

    name: ClassVar[str]
    starts_from_nothing: ClassVar[bool] = False  # whether it predicts without any input
    objective: Any  # what is trained: called with the task and a batch → sum of losses, count

    def __init__(
        self,
        *,
        spec: DataSpec,
        codec: Codec,
        monitor: str,
        mode: str,
        optimizer: Callable[..., torch.optim.Optimizer],
        scheduler: Callable[..., dict[str, Any]] | None,
        seed: int,
        samples: int,
        layer_decay: float = 1.0,
    ) -> None:
        super().__init__()
        if mode not in ("min", "max"):
            raise ValueError(f"task.mode must be min or max, got {mode!r}")
        if samples < 0:
            raise ValueError(f"task.samples is 0 or more, got {samples}")
        self.spec, self.codec = spec, codec
        self.monitor, self.mode, self.seed, self.samples = monitor, mode, seed, samples
        self.optimizer, self.scheduler = optimizer, scheduler
        self.layer_decay = layer_decay
        self.record: dict[str, Any] = {}  # config, spec, codec, fingerprint, in plain data
        self.sums = SumCount()
        self.shown = Table([], [])  # of the latest evaluation
        self.measured: dict[str, float] = {}  # the same, in full precision
        self.chosen: set[int] = set()  # the examples that are shown
        self._accumulated: Tensor | None = None
        self._reference: Tensor | None = None

    # What a shape says

    @classmethod
    @abstractmethod
    def check(cls, spec: DataSpec) -> None:
        """ValueError where this task cannot work on such data."""

    @classmethod
    @abstractmethod
    def monitor_for(cls, spec: DataSpec) -> tuple[str, str]:
        """The metric that chooses the best checkpoint, and whether its `min` or `max` is best."""

    @abstractmethod
    def loss(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The sum of the losses of a batch, and how many they are."""

    @abstractmethod
    def evaluate(self, batch: Any, split: str) -> None:
        """Count what the metrics of a split need, into `self.sums` and the task's own."""

    @abstractmethod
    def metrics(self, split: str) -> dict[str, float]:
        """The metrics of the evaluation that ends, the same on every rank."""

    @abstractmethod
    def count_tokens(self, batch: Any) -> int | Tensor:
        """How many symbols, steps or pictures a batch trains on, for the throughput."""

    @abstractmethod
    def predict(self, raw: Sequence[Any], options: PredictOptions) -> list[dict[str, Any]]:
        """Answers to raw inputs, in their order, as plain data."""

    def check_objective(self, objective: Any) -> None:
        """ValueError where it is not for this task; None always is."""
        own = getattr(objective, "tasks", ())
        if objective is not None and self.name not in own:
            raise ValueError(
                f"objective={type(objective).__name__} is not for task={self.name}, but for "
                f"{' and '.join(own) or 'none'}: leave it out, or objective=default"
            )

    def begin_evaluation(self, split: str) -> None:
        """Forget what the last evaluation counted."""

    def table(self, split: str) -> Table:
        """Samples of the evaluation that ends; called on rank zero."""
        return Table([], [])

    def draw(self, split: str, folder: Path) -> Iterator[Path]:
        """Draw pictures into an existing folder; called on rank zero after the test."""
        yield from ()

    def initialise(self) -> None:
        """Read pretrained vectors or weights: for a new run alone, never for a restored one."""

    # Training: the sum of the losses over ranks and accumulated batches, divided by their number

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, count = self.loss(batch)
        with torch.no_grad():
            world = self.trainer.world_size
            nats, everything = self.over_ranks(loss.detach(), count)
            self.log("train/loss", nats / everything, prog_bar=True)
        batches = self.trainer.accumulate_grad_batches
        if batches == 1:
            return loss * (world / everything)
        # each batch is weighed as if it were as large as the first, and put right at the end
        if self._accumulated is None:
            self._accumulated, self._reference = torch.zeros_like(everything), everything
        self._accumulated = self._accumulated + everything
        assert self._reference is not None
        return loss * (world * batches / self._reference)

    def on_after_backward(self) -> None:
        super().on_after_backward()
        if self._accumulated is None or self.trainer.fit_loop._should_accumulate():
            return
        assert self._reference is not None
        scale = self._reference / self._accumulated
        for parameter in self.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        self._accumulated = self._reference = None

    def over_ranks(self, loss: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """A sum of losses and their count on this rank → on all ranks, the count at least 1."""
        if self.trainer.world_size > 1:
            both = torch.stack([loss.float(), count.float()])
            loss, count = self.trainer.strategy.reduce(both, reduce_op="sum")  # type: ignore[misc]
        return loss, count.clamp(min=1)

    def on_train_start(self) -> None:
        # A schedule asks how long training is, so that the loaders are made before Lightning knows
        # where a resumed run stopped; it would not tell them any more.
        self.trainer.fit_loop._load_combined_loader_states()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # every batch has randomness of its own, so a resumed run needs no saved generator
        place = self.trainer.fit_loop.epoch_loop.total_batch_idx * self.trainer.world_size
        torch.manual_seed(self.seed * 1_000_003 + place + self.global_rank)

    # Evaluation

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(batch, "val")

    def test_step(self, batch: Any, batch_idx: int) -> None:
        self.evaluate(batch, "test")

    def on_validation_epoch_start(self) -> None:
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        self._begin("test")

    def on_validation_epoch_end(self) -> None:
        self._end("val")
        if not self.trainer.sanity_checking:
            schedules.tell((c.scheduler for c in self.trainer.lr_scheduler_configs), self.measured)

    def on_test_epoch_end(self) -> None:
        self._end("test")

    def _begin(self, split: str) -> None:
        self.sums.reset()
        if self.trainer.world_size > 1:  # what a normalisation has seen differs between ranks
            for buffer in self.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.chosen = self._choose(SPLIT_OF[split])
        self.begin_evaluation(split)

    def _choose(self, split: str) -> set[int]:
        """The examples of a split that are shown: spread over it, the same ones every time."""
        count = len(self.data.splits[split])
        return set(range(0, count, max(1, count // max(1, self.samples)))[: self.samples])

    def _end(self, split: str) -> None:
        metrics = {f"{split}/{name}": value for name, value in self.metrics(split).items()}
        self.measured = metrics
        shown = {self.monitor, f"{split}/loss"}
        for name, value in metrics.items():
            self.log(name, value, prog_bar=name in shown)
        if self.trainer.is_global_zero:
            self.shown = self.table(split)
            self._save_samples(split)

    def on_test_end(self) -> None:
        if not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir) / "pictures"
        folder.mkdir(parents=True, exist_ok=True)
        for path in self.draw("test", folder):
            log_picture(self.trainer.loggers, path.stem, path, self.global_step)

    def _save_samples(self, split: str) -> None:
        if not self.shown.rows:
            return
        log_table(
            self.trainer.loggers, f"{split}/samples", *self.shown, step=self.trainer.global_step
        )
        path = Path(self.trainer.default_root_dir) / "samples" / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            for row in self.shown.rows:
                sample = dict(zip(self.shown.columns, row, strict=True))
                line = {"step": self.global_step, **sample}
                file.write(json.dumps(line, ensure_ascii=False, default=str) + "\n")

    def leave_predictions(self, rows: Iterable[dict[str, Any]]) -> None:
        """Write what was answered on every test example to `predictions/test.jsonl`."""
        if not self.trainer.is_global_zero:
            return
        path = Path(self.trainer.default_root_dir) / "predictions" / "test.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".jsonl.new")  # a run killed here leaves no half file
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with aside.open("w", encoding="utf-8") as file:
            file.writelines(lines)
        aside.replace(path)

    def leave_rows(self, name: str, split: str, rows: Sequence[Row]) -> None:
        """Add what was measured by bucket to `<name>.csv` of the run."""
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            path = Path(self.trainer.default_root_dir) / f"{name}.csv"
            append(path, rows, split=split, step=self.global_step)

    def summed(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all ranks, on the CPU."""
        return total(values, self.trainer)

    @property
    def data(self) -> Any:
        """The data module of the run."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    # Optimisation and checkpoints

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(parameter_groups(self, layer_decay=self.layer_decay))
        for group in optimizer.param_groups:
            group["lr"] *= group.pop("share")
        # A fused optimizer offers to unscale within its step; gradients are clipped before that.
        optimizer._step_supports_amp_scaling = False
        if self.scheduler is None:
            return optimizer
        steps = self.trainer.estimated_stepping_batches
        known = int(steps) if steps != float("inf") else 10**9
        return {"optimizer": optimizer, "lr_scheduler": self.scheduler(optimizer, known)}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["unroll"] = {"format": FORMAT, **self.record}
        if self._trainer is not None:
            checkpoint["ranks"] = self.trainer.world_size


def cast(module: nn.Module, precision: str) -> Any:
    """The autocast context in which a task outside a trainer predicts as it was trained."""
    device = next(module.parameters()).device.type
    dtype = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    return torch.autocast(device, dtype=dtype, enabled=dtype is not None)
