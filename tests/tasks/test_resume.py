"""A run that goes on from the middle of an epoch equals one that was never stopped."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


def written(folder: Path) -> Path:
    rows = [f"{'good' if i % 2 else 'bad'} film {i},{i % 2}" for i in range(300)]
    file = folder / "mine.csv"
    file.write_text("text,label\n" + "\n".join(rows), encoding="utf-8")
    return file


@pytest.mark.parametrize("streaming", [False, True], ids=["ordinary", "streaming"])
def test_resumed_equals_not_interrupted(
    streaming: bool, start: Callable[..., Any], tmp_path: Path
) -> None:
    stream = [
        "task=classification", "data=text_labels", "model.hidden_size=24",
        "data.streaming=true", "data.num_workers=1", "data.held_out=30",
        f"data.path='{written(tmp_path)}'",
    ]  # fmt: skip
    shape = "rows of one's own" if streaming else "classification"
    steps = ["trainer.max_steps=9", "data.batch_size=4"]
    options = [*(stream if streaming else ()), *steps]
    whole = start(shape, *options)
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=4, save_top_k=-1)
    whole.trainer.callbacks.append(keep)
    whole.fit()
    resumed = start(shape, *options)
    (saved,) = (tmp_path / "kept").glob("*4.ckpt")
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    assert resumed.trainer.global_step == whole.trainer.global_step == 9
    for a, b in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(a, b)


class StopAfter(Callback):
    """Asks for the end after a step, as `trainer.max_time` does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        trainer.should_stop = trainer.global_step == self.step


@pytest.mark.parametrize("shape", ["classification", "language_model"])
@pytest.mark.parametrize("asked", [False, True], ids=["max_steps", "max_time"])
def test_what_an_end_within_an_epoch_cut_off_is_learnt_from_later(
    asked: bool, shape: str, start: Callable[..., Any]
) -> None:
    rows = 32 if shape == "language_model" else 4
    common = [f"data.batch_size={rows}", "scheduler=constant", "trainer.log_every_n_steps=1",
              "trainer.max_epochs=2"]  # fmt: skip
    whole = start(shape, *common).fit()
    begun = start(shape, *common, *([] if asked else ["trainer.max_steps=5"]))
    if asked:
        begun.trainer.callbacks.append(StopAfter(5))
    begun.fit()
    assert begun.trainer.global_step == 5 < whole.trainer.num_training_batches
    folder = Path(begun.config.paths.run_dir)
    resumed = start(shape, *common, f"paths.run_dir={folder}")
    saved = folder / "checkpoints" / "last.ckpt"
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    assert resumed.trainer.global_step == whole.trainer.global_step
    assert resumed.trainer.current_epoch == whole.trainer.current_epoch
    for a, b in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(a, b)
    steps = [logged(Path(run.config.paths.run_dir), "train/loss") for run in (whole, resumed)]
    assert steps[0] == steps[1] and len(steps[0]) == whole.trainer.global_step


def logged(run: Path, name: str) -> list[tuple[str, str]]:
    """Steps and values of a metric."""
    with (run / "metrics.csv").open(newline="") as file:
        return [(row["step"], row[name]) for row in csv.DictReader(file) if row.get(name)]


class KeepEach(Callback):
    """A copy of each `last.ckpt`, as a run that is killed just after it leaves it."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
        if last.exists():
            shutil.copy(last, last.with_name(f"after_{trainer.current_epoch}.ckpt"))


@pytest.mark.parametrize("often", [[], ["trainer.val_check_interval=2"]], ids=["", "within epochs"])
def test_a_plateau_misses_no_validation_of_the_epoch_before(
    often: list[str], start: Callable[..., Any]
) -> None:
    # a reduction follows every validation whose loss is not half of the best one
    options = ["scheduler=plateau", "scheduler.decay=0.5", "trainer.max_epochs=4", *often]

    def begin() -> Any:
        run = start("classification", *options)
        configure = run.task.configure_optimizers

        def strict() -> Any:
            made = configure()
            made["lr_scheduler"]["scheduler"].threshold = 0.5
            return made

        run.task.configure_optimizers = strict
        return run

    def rate(run: Any) -> float:
        return float(run.trainer.optimizers[0].param_groups[0]["lr"])

    whole = begin()
    whole.trainer.callbacks.append(KeepEach())
    whole.fit()
    validations = 4 * (2 if often else 1)
    assert rate(whole) == pytest.approx(whole.config.optimizer.lr * 0.5 ** (validations - 1))
    for epochs in (1, 2, 3):
        saved = Path(whole.config.paths.run_dir) / "checkpoints" / f"after_{epochs}.ckpt"
        resumed = begin()
        resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved)
        assert rate(resumed) == rate(whole)
        for a, b in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
            assert torch.equal(a, b)
