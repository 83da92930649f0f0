"""Windows of unequal length: the rate of a step goes with its window's."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

VARIED = ["data.steps_deviation=4", "data.steps_halved=0.3"]
SGD = ["optimizer=sgd", "optimizer.lr=0.5", "scheduler=constant", "trainer.gradient_clip_val=null"]


class Watch(Callback):
    """Per step: batch lengths, the rate in force, and the share of the gradient that was taken."""

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.rates: list[float] = []
        self.taken: list[float] = []

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.lengths.append(batch.inputs.size(1))
        self.gradient: torch.Tensor | None = None
        self.before = pl_module.model.head.linear.bias.detach().clone()

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.gradient = pl_module.model.head.linear.bias.grad.clone()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if self.gradient is None:  # no step yet
            return
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        moved = self.before - pl_module.model.head.linear.bias.detach()
        self.taken.append(float(moved @ self.gradient / self.gradient.square().sum()))


@pytest.mark.parametrize("varied", [True, False])
def test_a_step_takes_the_share_of_the_rate_that_its_window_is_long(
    varied: bool, start: Any
) -> None:
    run = start("language_model", *SGD, *(VARIED if varied else []), "trainer.max_steps=25")
    run.trainer.callbacks.append(watch := Watch())
    run.fit()
    assert (len(set(watch.lengths)) > 5) == varied
    expected = [0.5 * length / 20 for length in watch.lengths]
    assert watch.taken == pytest.approx(expected, rel=1e-3)
    assert set(watch.rates) == {0.5}  # what schedules and loggers see


def test_accumulated_windows_take_their_mean(start: Any) -> None:
    run = start(
        "language_model", *SGD, *VARIED, "trainer.max_steps=4", "trainer.accumulate_grad_batches=2"
    )
    run.trainer.callbacks.append(watch := Watch())
    run.fit()
    pairs = zip(watch.lengths[::2], watch.lengths[1::2], strict=True)
    expected = [0.5 * (one + other) / 40 for one, other in pairs]
    assert watch.taken == pytest.approx(expected, rel=1e-3)


def test_a_schedule_goes_on_from_the_whole_rate(start: Any) -> None:
    run = start("language_model", "scheduler=cosine", *VARIED, "trainer.max_steps=10")
    plain = start("language_model", "scheduler=cosine", "trainer.max_steps=10")
    rates = []
    for each in (run, plain):
        each.trainer.callbacks.append(watch := Watch())
        each.fit()
        rates.append(watch.rates)
    assert rates[0] == pytest.approx(rates[1])


def test_a_resumed_run_goes_on_with_the_windows_it_would_have_had(
    start: Any, tmp_path: Any
) -> None:
    options = [*VARIED, "trainer.max_steps=9"]
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=4, save_top_k=-1)
    lengths = []
    for resume in (None, tmp_path / "kept" / "step=4.ckpt"):
        run = start("language_model", *options)
        run.trainer.callbacks += [watch := Watch()] if resume else [watch := Watch(), keep]
        run.trainer.fit(run.task, datamodule=run.data, ckpt_path=resume, weights_only=True)
        lengths.append(watch.lengths)
    assert lengths[1] == lengths[0][4:]
