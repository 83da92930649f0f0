"""Averages of the weights: of which steps they are, and what is validated, saved and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tasks.averaging import NonMonotonicAverage
from tasks.callbacks import WeightAverage

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's advice on loaders and workers
STEPS = 4  # an epoch


class Walk(LightningModule):
    """One weight that is drawn to 3, and losses of validation as they are given."""

    def __init__(self, losses: list[float]) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))
        self.losses = losses
        self.validated: list[float] = []
        self.sampled: list[float] = []

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (self.w - 3).square().sum()

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        self.validated.append(self.w.item())
        self.log("val/loss", self.losses[self.current_epoch])

    def on_validation_epoch_end(self) -> None:
        self.sampled.append(self.w.item())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.05)


class Iterates(Callback):
    """The weight after every step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seen.append(pl_module.w.item())


def fit(
    losses: list[float], average: Callback, folder: Path, resume: Path | None = None
) -> tuple[Walk, list[float]]:
    """Train an epoch a loss, a checkpoint an epoch; the iterates are those of this call."""
    model, iterates = Walk(losses), Iterates()
    saved = ModelCheckpoint(folder, "{epoch}", save_top_k=-1, save_on_train_epoch_end=False)
    trainer = Trainer(
        default_root_dir=folder, accelerator="cpu", logger=False, max_epochs=len(losses),
        callbacks=[iterates, average, saved], enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    loaders = [DataLoader(torch.zeros(rows), batch_size=1) for rows in (STEPS, 1)]
    trainer.fit(model, *loaders, ckpt_path=resume, weights_only=True)
    return model, iterates.seen


def nt(patience: int) -> NonMonotonicAverage:
    return NonMonotonicAverage(monitor="val/loss", mode="min", patience=patience)


def test_the_average_is_the_mean_of_the_weights_since_the_trigger(tmp_path: Path) -> None:
    # patience 1: the third value is worse than the first, two validations ago
    model, seen = fit([5, 4, 6, 7, 3], nt(1), tmp_path)
    begun = 3 * STEPS - 1  # the weights of that validation are the first of the mean
    assert model.validated[:3] == seen[STEPS - 1 : 3 * STEPS : STEPS]
    for epoch in (3, 4):
        mean = sum(seen[begun : (epoch + 1) * STEPS]) / ((epoch - 2) * STEPS + 1)
        assert model.validated[epoch] == pytest.approx(mean, rel=1e-5)
        assert model.sampled[epoch] == model.validated[epoch]
        checkpoint = torch.load(tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
        assert checkpoint["state_dict"]["w"].item() == model.validated[epoch]
    assert model.w.item() == model.validated[-1]  # what a test after training would read


def test_training_itself_goes_on_as_without_averaging(tmp_path: Path) -> None:
    losses = [5.0, 4.0, 6.0, 7.0]
    _, averaged = fit(losses, nt(1), tmp_path / "a")
    plain, seen = fit(losses, nt(100), tmp_path / "b")
    assert averaged == seen
    assert plain.validated == seen[STEPS - 1 :: STEPS] and plain.w.item() == seen[-1]


@pytest.mark.parametrize("epoch", [1, 2, 3], ids=["before", "at the trigger", "after"])
def test_a_resumed_run_averages_as_one_that_was_never_stopped(epoch: int, tmp_path: Path) -> None:
    losses = [5.0, 4.0, 6.0, 7.0, 3.0]
    whole, seen = fit(losses, nt(1), tmp_path / "whole")
    saved = tmp_path / "whole" / f"epoch={epoch}.ckpt"
    resumed, later = fit(losses, nt(1), tmp_path / "resumed", saved)
    assert later == seen[(epoch + 1) * STEPS :]
    assert resumed.validated == whole.validated[epoch + 1 :]
    assert resumed.w.item() == whole.w.item()


@pytest.mark.parametrize(
    ("mode", "patience", "values", "stopped"),
    [
        ("min", 1, [5, 4, 6], True),  # worse than 5, more than one validation ago
        ("min", 1, [5, 7, 5], False),  # as good as the first
        ("min", 2, [5, 7, 6], False),  # nothing is so long ago
        ("min", 0, [5, 6], True),
        ("min", 3, [1, 9, 9, 9, 0.5], False),
        ("max", 1, [5, 6, 4], True),
        ("max", 1, [5, 4, 6], False),
        ("min", 1, [5, 4, float("nan")], False),
    ],
)
def test_when_validation_has_stopped_improving(
    mode: str, patience: int, values: list[float], stopped: bool
) -> None:
    average = NonMonotonicAverage(monitor="val/loss", mode=mode, patience=patience)
    average.values = values
    assert average.stopped_improving() == stopped


def test_samples_of_a_moving_average_are_the_average_s_own(tmp_path: Path) -> None:
    model, _ = fit([1, 1], WeightAverage(decay=0.9), tmp_path)
    assert model.sampled == model.validated


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got -1"):
        nt(-1)
    wrong = NonMonotonicAverage(monitor="val/bleu", mode="max")
    with pytest.raises(ValueError, match="val/bleu is not measured: choose one of val/loss"):
        fit([1], wrong, tmp_path)
