"""A signal within a validation ends it at once; the run that goes on validates, and is the same."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tasks.stopping import Stopped

RUNS = {
    "within an epoch, with averaged weights": (
        "classification",
        ["trainer.max_epochs=3", "trainer.val_check_interval=2", "callbacks=ema"],
    ),
    "at the end of an epoch": ("classification", ["trainer.max_epochs=3"]),
    "with a carried state": (
        "language_model",
        ["trainer.max_epochs=2", "trainer.val_check_interval=10", "scheduler=plateau"],
    ),
}


def validations(run: Any) -> list[tuple[int, dict[str, float]]]:
    """The step and the metrics of each validation of a run that is about to train."""
    seen: list[tuple[int, dict[str, float]]] = []
    end = run.task.on_validation_epoch_end

    def note() -> None:
        end()
        seen.append((run.trainer.global_step, dict(run.task.measured)))

    run.task.on_validation_epoch_end = note
    return seen


def stop_in(run: Any, number: int, validation: int) -> list[int]:
    """A signal comes in the first batch of this validation; the batches of it that are seen."""
    batches: list[int] = []
    evaluate = run.task.validation_step
    begun = 0

    def step(batch: Any, batch_idx: int) -> None:
        nonlocal begun
        begun += batch_idx == 0
        evaluate(batch, batch_idx)
        if begun == validation:
            batches.append(batch_idx)
            os.kill(os.getpid(), number)

    run.task.validation_step = step
    return batches


QUICK, *SLOW = RUNS


@pytest.mark.parametrize("name", [QUICK, *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)])
def test_it_stops_at_the_next_batch_and_goes_on_exactly(
    name: str, start: Callable[..., Any]
) -> None:
    shape, more = RUNS[name]
    options = [*more, "data.eval_batch_size=4"]
    whole, stopped, resumed = (start(shape, *options) for _ in range(3))
    expected = validations(whole)
    whole.fit()

    before = validations(stopped)
    batches = stop_in(stopped, signal.SIGTERM, 2)
    saved = Path(stopped.config.paths.run_dir) / "checkpoints" / "last.ckpt"

    with pytest.raises(Stopped, match="SIGTERM: stopped after step .*, saved in") as caught:
        stopped.fit()
    assert torch.load(saved, weights_only=True)["global_step"] == expected[1][0]
    assert caught.value.code == 143 and batches == [0] and before == expected[:1]
    after = validations(resumed)
    handler = signal.getsignal(signal.SIGTERM)
    resumed.trainer.fit(resumed.task, datamodule=resumed.data, ckpt_path=saved, weights_only=True)
    assert signal.getsignal(signal.SIGTERM) == handler == signal.SIG_DFL  # for the test
    assert after == expected[1:]
    for a, b in zip(whole.task.parameters(), resumed.task.parameters(), strict=True):
        assert torch.equal(a, b)


def test_in_the_validation_after_the_last_step_what_was_saved_before_stays(
    start: Callable[..., Any],
) -> None:
    options = ["trainer.max_steps=4", "trainer.check_val_every_n_epoch=null"]
    more = ["trainer.val_check_interval=4", "data.eval_batch_size=4", "callbacks.last.minutes=0"]
    run = start("classification", *options, *more)
    stop_in(run, signal.SIGINT, 1)
    with pytest.raises(Stopped, match="in the last validation; .* is of an earlier step") as caught:
        run.fit()
    assert caught.value.code == 130
    saved = Path(run.config.paths.run_dir) / "checkpoints" / "last.ckpt"
    assert torch.load(saved, weights_only=True)["global_step"] == 3


def test_between_accumulated_batches_the_step_is_finished_and_saved(
    start: Callable[..., Any],
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    run = start("tagging", "trainer.accumulate_grad_batches=4", "data.batch_size=2")
    learn = run.task.training_step

    def step(batch: Any, batch_idx: int) -> Any:
        if batch_idx == 5:
            os.kill(os.getpid(), signal.SIGTERM)
        return learn(batch, batch_idx)

    run.task.training_step = step
    with pytest.raises(Stopped, match="stopped after step 2, saved in"):
        run.fit()
    assert signal.getsignal(signal.SIGTERM) == before
