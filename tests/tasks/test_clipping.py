"""Gradients are bounded as the config says, just before the step."""

from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback


class Seen(Callback):
    """The gradient that each step was made of: its norm and its greatest entry."""

    def __init__(self) -> None:
        self.norms: list[float] = []
        self.most: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        slopes = [p.grad.flatten() for p in pl_module.parameters() if p.grad is not None]
        self.norms.append(torch.cat(slopes).norm().item())
        self.most.append(torch.cat(slopes).abs().max().item())


@pytest.mark.parametrize("algorithm", ["norm", "value"])
def test_gradients_are_bounded(algorithm: str, start: Any) -> None:
    run = start(
        "classification", f"trainer.gradient_clip_algorithm={algorithm}", "trainer.max_steps=3",
        "trainer.gradient_clip_val=1e-3", "trainer.limit_val_batches=0",
    )  # fmt: skip
    seen = Seen()
    run.trainer.callbacks.append(seen)
    run.fit()
    bounded = {"norm": seen.norms, "value": seen.most}[algorithm]
    assert bounded == pytest.approx([1e-3] * 3, rel=1e-3)
    if algorithm == "value":
        assert min(seen.norms) > 2e-3


def test_the_norm_is_taken_once_a_step(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    norm = torch.nn.utils.get_total_norm

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        taken.append(norm(*args, **kwargs))
        return taken[-1]

    monkeypatch.setattr(torch.nn.utils, "get_total_norm", counted)
    options = ["trainer.max_steps=4", "trainer.accumulate_grad_batches=2", "data.batch_size=8"]
    run = start("classification", *options, "trainer.log_every_n_steps=1")
    seen = Seen()
    run.trainer.callbacks.append(seen)
    run.fit()
    assert len(taken) == 4  # of steps, not of batches; for Finite, the log and clipping
    assert len({norm.item() for norm in taken}) == 4
