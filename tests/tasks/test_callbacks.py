"""Speed, progress, averages and curves of a run, on a model of one weight."""

import csv
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tasks import callbacks
from tasks.loggers import AppendingCSV

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on loaders and workers


class Line(LightningModule):
    """y = w x, drawn to w = 3 by plain steps."""

    def __init__(
        self, *, rates: tuple[float, ...] = (0.1,), losses: tuple[float, ...] = ()
    ) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.other = nn.Parameter(torch.zeros(1))
        self.frozen = nn.Parameter(torch.zeros(5), requires_grad=False)
        self.rates, self.losses = rates, list(losses)
        self.seen_in_validation: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = (self.w - 3).square().sum() + self.other.sum() * 0
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.seen_in_validation.append(self.w.item())
        value = self.losses.pop(0) if self.losses else (self.w - 3).square().sum()
        self.log("val/loss", value)

    def count_tokens(self, batch: Tensor) -> int:
        return batch.numel()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        parts = zip((self.w, self.other), self.rates, strict=False)
        return torch.optim.SGD([{"params": [part], "lr": rate} for part, rate in parts], lr=0.1)


def train(model: Line, folder: Path, *several: Any, **settings: Any) -> Trainer:
    checkpoint = any(isinstance(c, ModelCheckpoint) for c in several)
    options = {"max_epochs": 2, "log_every_n_steps": 2, "num_sanity_val_steps": 0} | settings
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", devices=1, enable_model_summary=False,
        enable_checkpointing=checkpoint, logger=AppendingCSV(folder=str(folder)),
        callbacks=list(several), enable_progress_bar=any("Progress" in str(c) for c in several),
        **options,
    )  # fmt: skip
    loaders = [DataLoader(torch.zeros(rows, 5), batch_size=2) for rows in (8, 2)]
    trainer.fit(model, *loaders)
    return trainer


def column(folder: Path, name: str) -> list[float]:
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_speed_norm_and_rate_are_logged_with_the_metrics(tmp_path: Path) -> None:
    several = callbacks.Throughput(), callbacks.GradientNorm(), callbacks.LearningRate()
    train(Line(), tmp_path, *several, gradient_clip_val=0.5)
    assert len(column(tmp_path, "tokens_per_second")) == 4
    assert all(rate > 0 for rate in column(tmp_path, "tokens_per_second"))
    norms = column(tmp_path, "grad_norm")
    assert len(norms) == 4 and all(norm > 0.5 for norm in norms)  # before clipping
    assert column(tmp_path, "lr") == pytest.approx([0.1] * 4)


def test_every_token_is_counted_once(tmp_path: Path) -> None:
    speed = callbacks.Throughput()
    train(Line(), tmp_path, speed, log_every_n_steps=100)
    assert speed.tokens == 2 * 8 * 5 and speed.seconds > 0


@pytest.mark.parametrize(("rates", "second"), [((0.1, 0.2), True), ((0.1, 0.1), False)])
def test_groups_that_learn_at_another_rate_are_told_apart(
    rates: tuple[float, ...], second: bool, tmp_path: Path
) -> None:
    train(Line(rates=rates), tmp_path, callbacks.LearningRate())
    assert bool(column(tmp_path, "lr/1")) == second


def test_accumulated_batches_are_measured_once_a_step(tmp_path: Path) -> None:
    train(
        Line(), tmp_path, callbacks.GradientNorm(), accumulate_grad_batches=2, log_every_n_steps=1
    )
    assert len(column(tmp_path, "grad_norm")) == 4


def test_size_and_estimate_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Line(), tmp_path, callbacks.Estimate(steps=4, warmup_steps=2))
    printed = capsys.readouterr().out
    assert "7 parameters, of which 5 are frozen" in printed
    assert "batch 1 × 1 accumulated × 1 rank = 1 rows; 4 steps an epoch" in printed
    assert re.search(r"training takes about \d+ s in all, [\d,]+ ms a batch; .* memory", printed)


@pytest.mark.parametrize(
    ("limits", "batches"),
    [
        ({"max_epochs": 3}, 12),
        ({"max_epochs": 3, "max_steps": 5}, 5),
        ({"max_epochs": 100, "max_steps": 5, "accumulate_grad_batches": 2}, 10),
        ({"max_epochs": -1, "max_time": "00:00:00:00"}, None),
    ],
)
def test_the_estimate_knows_when_training_ends(
    limits: dict[str, Any], batches: int | None, tmp_path: Path
) -> None:
    trainer = train(Line(), tmp_path, **limits, limit_val_batches=0)
    assert callbacks.total_batches(trainer) == batches


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "1 s"),
        (59.4, "59 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
        (3599.7, "1 h 00 min"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert callbacks.duration(seconds) == text


def test_a_line_a_validation_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Line(), tmp_path, callbacks.Progress())
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[:2] for line in lines] == [
        ["epoch 1", "step 4"],
        ["epoch 2", "step 8"],
    ]
    assert all("val/loss" in line for line in lines)


@pytest.mark.parametrize(
    ("patience", "losses", "epochs"),
    [(None, (1, 2, 3, 4, 5, 6), 6), (1, (3, 2, 2, 1), 3), (2, (3, 4, 2, 3, 3, 1), 5)],
)
def test_training_stops_when_patience_ends(
    patience: int | None, losses: tuple[float, ...], epochs: int, tmp_path: Path
) -> None:
    stopping = callbacks.EarlyStopping(monitor="val/loss", mode="min", patience=patience)
    model = Line(losses=losses)
    train(model, tmp_path, stopping, max_epochs=6)
    assert len(model.seen_in_validation) == epochs


def test_a_loss_that_is_not_finite_stops_whatever_the_patience(tmp_path: Path) -> None:
    stopping = callbacks.EarlyStopping(monitor="val/loss", mode="min", patience=None)
    model = Line(losses=(1.0, float("nan"), 1.0))
    train(model, tmp_path, stopping, max_epochs=3)
    assert len(model.seen_in_validation) == 2


def test_the_average_is_validated_and_saved_and_training_goes_on_from_the_weights(
    tmp_path: Path,
) -> None:
    plain, averaged = Line(), Line()
    train(plain, tmp_path / "plain")
    saved = ModelCheckpoint(dirpath=tmp_path / "ema", filename="last", save_last=False)
    train(averaged, tmp_path / "ema", callbacks.WeightAverage(decay=0.9), saved)
    # the average lags behind the weights that rise to 3
    assert 0 < averaged.seen_in_validation[-1] < plain.seen_in_validation[-1] < 3
    stored = torch.load(saved.best_model_path, weights_only=True)["state_dict"]["w"].item()
    assert stored == pytest.approx(averaged.seen_in_validation[-1])


def test_short_runs_forget_their_start() -> None:
    update = callbacks._moving_average(0.999)
    averages, current = [torch.zeros(2)], [torch.ones(2)]
    for n in range(30):
        update(averages, current, n)
    assert averages[0].min() > 0.99
    update(averages, [torch.zeros(2)], 10**9)
    assert averages[0].min() > 0.98


def test_curves_are_drawn_when_training_ends(tmp_path: Path) -> None:
    train(Line(), tmp_path, callbacks.LearningCurves())
    assert (tmp_path / "learning_curves.png").stat().st_size > 1000


def test_curves_are_drawn_of_an_interrupted_run_and_not_of_a_failed_one(tmp_path: Path) -> None:
    class Stopped(Line):
        error: type[BaseException] = KeyboardInterrupt

        def validation_step(self, batch: Tensor, batch_idx: int) -> None:
            raise self.error

    with suppress(KeyboardInterrupt, SystemExit):
        train(Stopped(), tmp_path / "a", callbacks.LearningCurves())
    assert (tmp_path / "a" / "learning_curves.png").exists()
    failed = Stopped()
    failed.error = ZeroDivisionError
    with pytest.raises(ZeroDivisionError):
        train(failed, tmp_path / "b", callbacks.LearningCurves())
    assert not (tmp_path / "b" / "learning_curves.png").exists()
