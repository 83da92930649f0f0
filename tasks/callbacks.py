"""What every run does beside training: count its speed, print its progress, draw its curves."""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor

from tasks import gradients, pictures
from tasks.averaging import AverageOfWeights
from tasks.loggers import AppendingCSV, log_picture
from tasks.metrics import total
from tasks.stopping import Stopped


def _logs_now(trainer: Trainer) -> bool:
    """Whether the metrics of this batch reach the loggers: only then is a measurement worth it."""
    return (
        trainer._logger_connector.should_update_logs and not trainer.fit_loop._should_accumulate()
    )


class Throughput(callbacks.Callback):
    """Logs `tokens_per_second` over all ranks: training alone, loading included.

    The task says what it counts: `count_tokens(batch) -> int | Tensor` (tokens, steps or frames).
    """

    def __init__(self) -> None:
        self.tokens: Tensor | int = 0
        self.seconds = 0.0
        self.since = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.since = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.tokens += pl_module.count_tokens(batch)
        now = time.perf_counter()
        self.seconds, self.since = self.seconds + now - self.since, now
        if _logs_now(trainer):
            tokens = total(torch.as_tensor(self.tokens, dtype=torch.float32), trainer).item()
            rate = tokens / max(self.seconds, 1e-9)
            pl_module.log("tokens_per_second", rate, prog_bar=True)
            self.tokens, self.seconds = 0, 0.0


class GradientNorm(callbacks.Callback):
    """Logs `grad_norm`, the 2-norm of the whole gradient before it is clipped."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if _logs_now(trainer):
            pl_module.log("grad_norm", gradients.norm(pl_module, optimizer))


class LearningRate(callbacks.Callback):
    """Logs `lr`, and `lr/1`, `lr/2`, ... of parameter groups that learn at another rate."""

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        if not _logs_now(trainer):
            return
        rates = [float(group["lr"]) for group in optimizer.param_groups]
        for i, rate in enumerate(rates):
            if i == 0 or rate != rates[0]:
                pl_module.log(f"lr/{i}" if i else "lr", rate)


class Estimate(callbacks.Callback):
    """Prints the model's size and what a step learns from before training, and after some steps
    what training will take.
    """

    def __init__(self, *, steps: int = 20, warmup_steps: int = 5) -> None:
        if steps < 1 or warmup_steps < 0:
            raise ValueError(
                "callbacks.estimate: steps is 1 or more and warmup_steps 0 or more, got "
                f"{steps} and {warmup_steps}"
            )
        self.steps = steps
        self.warmup_steps = min(warmup_steps, steps - 1)
        self.seen = 0
        self.since = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        sizes = [(p.numel(), p.requires_grad) for p in pl_module.parameters()]
        everything = sum(size for size, _ in sizes)
        frozen = sum(size for size, trained in sizes if not trained)
        note = f", of which {frozen:,} are frozen" if frozen else ""
        pl_module.print(f"{everything:,} parameters{note}; {a_step(trainer)}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen += 1
        if self.seen == self.warmup_steps:
            self.since = time.perf_counter()
        elif self.seen == self.steps:
            step = (time.perf_counter() - self.since) / (self.steps - self.warmup_steps)
            pl_module.print(self.line(trainer, step))

    def line(self, trainer: Trainer, seconds_a_step: float) -> str:
        """The estimate as a sentence, validation not counted."""
        pace = f"{seconds_a_step * 1000:,.0f} ms a batch"
        batches = total_batches(trainer)
        total = f"about {duration(seconds_a_step * batches)} in all, " if batches else ""
        return f"training takes {total}{pace}; {memory(trainer)}"


def a_step(trainer: Trainer) -> str:
    """What a step of the optimizer learns from, over all ranks, and how many steps there are.

    The learning rate stays the optimizer's own: nothing scales it by these numbers.
    """
    data: Any = getattr(trainer, "datamodule", None)
    tokens = getattr(data, "batch_tokens", None)
    size, unit = getattr(data, "batch_size", 1), "rows" if tokens is None else "symbols at most"
    size = size if tokens is None else tokens
    accumulated, ranks = trainer.accumulate_grad_batches, trainer.world_size
    factors = f"batch {size:,} × {accumulated} accumulated × {ranks} rank{'s' * (ranks > 1)}"
    said = f"a step learns from {factors} = {size * accumulated * ranks:,} {unit}"
    steps = [(trainer.num_training_batches / accumulated, "an epoch")]
    steps += [(trainer.estimated_stepping_batches, "in all")]
    known = [f"{math.ceil(n):,} steps {of}" for n, of in steps if math.isfinite(n)]
    return "; ".join([said, *known])


def total_batches(trainer: Trainer) -> int | None:
    """How many batches a rank trains on before `max_epochs` or `max_steps` ends it, if known."""
    limits = []
    if trainer.max_epochs not in (None, -1):
        limits.append(trainer.num_training_batches * trainer.max_epochs)
    if trainer.max_steps != -1:
        limits.append(trainer.max_steps * trainer.accumulate_grad_batches)
    finite = [limit for limit in limits if math.isfinite(limit)]
    return int(min(finite)) if finite else None


def duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 2 h 05 min."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def memory(trainer: Trainer) -> str:
    """The most memory that this process has held: on its GPU, else of the machine."""
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB of GPU memory"
    try:
        import resource
    except ImportError:  # Windows
        return "memory unknown"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return f"{peak * (1 if sys.platform == 'darwin' else 1024) / 1e9:.1f} GB of memory"


class Progress(callbacks.TQDMProgressBar):
    """A bar where there is a terminal, and a line after every validation everywhere."""

    def __init__(self, *, refresh_rate: int = 5) -> None:
        if refresh_rate < 0:
            raise ValueError(
                f"callbacks.progress.refresh_rate is 0 (never) or more batches, got {refresh_rate}"
            )
        super().__init__(refresh_rate=refresh_rate)
        self.started = time.perf_counter()
        if not sys.stdout.isatty():
            self.disable()

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_validation_end(trainer, pl_module)
        if trainer.state.fn != "fit" or trainer.sanity_checking or not trainer.is_global_zero:
            return
        values = trainer.callback_metrics.items()
        metrics = [f"{name} {value:.4g}" for name, value in values if name.startswith("val/")]
        spent = duration(time.perf_counter() - self.started)
        epoch = f"epoch {trainer.current_epoch + 1}"
        self.print("  ".join([epoch, f"step {trainer.global_step}", *metrics, spent]))

    def print(self, *args: Any, **kwargs: Any) -> None:
        if self.is_enabled and self._train_progress_bar is not None:
            super().print(*args, **kwargs)
        else:
            print(*args, **kwargs, flush=True)


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, with `patience=None` for never; a loss that is not finite always stops."""

    def __init__(self, *, monitor: str, mode: str, patience: int | None, min_delta: float = 0.0):
        if (patience is not None and patience < 0) or min_delta < 0:
            raise ValueError(
                "callbacks.early_stopping: patience and min_delta are 0 or more, got "
                f"{patience} and {min_delta}"
            )
        never = sys.maxsize
        super().__init__(
            monitor=monitor,
            mode=mode,
            patience=never if patience is None else patience,
            min_delta=min_delta,
            check_on_train_epoch_end=False,
        )


class WeightAverage(AverageOfWeights):
    """Validates, saves and tests an exponential moving average of the weights.

    The decay grows as (1 + n) / (10 + n) up to `decay`, so that short runs forget their start.
    """

    def __init__(self, *, decay: float = 0.999) -> None:
        if not 0 <= decay <= 1:
            raise ValueError(f"callbacks.average.decay is a share of 0 to 1, got {decay}")
        super().__init__(multi_avg_fn=_moving_average(decay))


def _moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    @torch.no_grad()
    def update(averages: list[Tensor], current: list[Tensor], num_averaged: Tensor | int) -> None:
        n = float(num_averaged)
        torch._foreach_lerp_(averages, current, 1 - min(decay, (1 + n) / (10 + n)))

    return update


class LearningCurves(callbacks.Callback):
    """Draws `learning_curves.png` beside metrics.csv when training ends, interrupted too."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._draw(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        if isinstance(exception, (KeyboardInterrupt, Stopped)):
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        tables = [logger.path for logger in trainer.loggers if isinstance(logger, AppendingCSV)]
        if trainer.is_global_zero and tables and tables[0].exists():
            path = tables[0].with_name("learning_curves.png")
            if pictures.learning_curves(tables[0], path):
                log_picture(trainer.loggers, "learning_curves", path, trainer.global_step)
