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
