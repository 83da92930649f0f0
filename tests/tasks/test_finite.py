"""A step whose numbers are not finite spoils nothing, and says what to look at."""

from pathlib import Path
from typing import Any

import pytest
import torch

from launch import describe
from tasks.finite import is_out_of_memory


def poisoned(run: Any, *steps: int) -> Any:
    """A run whose loss is NaN at some steps."""
    loss = run.task.loss

    def bad(batch: Any) -> Any:
        total, count = loss(batch)
        return (total * float("nan") if run.trainer.global_step in steps else total), count

    run.task.loss = bad
    return run


def test_training_stops_before_a_weight_is_spoilt(start: Any) -> None:
    run = poisoned(start("classification", "trainer.max_epochs=2"), 2)
    with pytest.raises(ValueError, match=r"step 2: the loss is not finite.*callbacks.finite.skip"):
        run.fit()
    assert all(p.isfinite().all() for p in run.task.parameters())
    saved = Path(run.config.paths.run_dir) / "not_finite" / "step_2.pt"
    batch = torch.load(saved, weights_only=True)
    assert batch["inputs"].shape[0] == batch["lengths"].shape[0] == 16


def test_a_step_that_is_left_out_changes_nothing(start: Any) -> None:
    options = ["trainer.max_steps=3", "callbacks.finite.skip=1", "scheduler=constant"]
    run = poisoned(start("classification", *options), 2)
    kept: dict[int, list[torch.Tensor]] = {}

    def note(*_: Any) -> None:
        kept[run.trainer.global_step] = [p.detach().clone() for p in run.task.parameters()]

    run.task.on_train_batch_end = note
    run.fit()
    assert all(torch.equal(a, b) for a, b in zip(kept[2], kept[3], strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(kept[1], kept[2], strict=True))


def test_no_more_steps_than_allowed_are_left_out(start: Any) -> None:
    run = poisoned(start("classification", "callbacks.finite.skip=1"), 1, 2, 3)
    with pytest.raises(ValueError, match="step 2: the loss is not finite"):
        run.fit()


def test_a_run_that_goes_on_remembers_how_many_were_left_out(start: Any) -> None:
    options = ["callbacks.finite.skip=1", "trainer.max_epochs=2"]
    run = poisoned(start("classification", *options, "trainer.max_steps=3"), 1)
    run.fit()
    again = poisoned(start("classification", *options), 4)
    last = Path(run.config.paths.run_dir) / "checkpoints" / "last.ckpt"
    with pytest.raises(ValueError, match="step 4: the loss is not finite"):
        again.trainer.fit(again.task, datamodule=again.data, ckpt_path=last, weights_only=True)


def test_a_batch_that_does_not_fit_is_named(start: Any, capsys: Any) -> None:
    run = start("classification", "trainer.max_epochs=1")

    def large(batch: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB")

    run.task.loss = large
    with pytest.raises(torch.OutOfMemoryError) as caught:
        run.fit()
    assert is_out_of_memory(caught.value) and not is_out_of_memory(RuntimeError("shape"))
    assert describe(caught.value) == str(caught.value)
    assert describe(RuntimeError("unsupported memory format option")) is None  # a traceback, then
    said = " ".join(capsys.readouterr().out.split())
    assert "step 0 ran out of memory on a batch of inputs (16, " in said
    assert "smaller data.batch_size" in said
