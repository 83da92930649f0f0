"""What a classifier is trained for, and that its evaluation does not change with it."""

from typing import Any

import pytest
import torch


def first_batch(run: Any) -> Any:
    return next(iter(run.data.train_dataloader()))


def test_the_penalty_of_a_pooling_is_trained_on_and_never_measured(start: Any) -> None:
    hops = ["model.pooling=attention", "model.pooling_hops=3"]
    trained, measured = [], []
    for more in ([], ["model.pooling_penalty=0.5"]):
        run = start("classification", *hops, *more)
        batch = first_batch(run)
        loss, count = run.task.loss(batch)
        trained.append((loss.item(), count.item()))
        run.task.eval().evaluate(batch, "val")
        measured.append(run.task.sums.totals()["loss"])
    attention = run.task.model(batch.inputs, batch.lengths).attention
    alike = attention @ attention.transpose(1, 2) - torch.eye(3)
    extra = 0.5 * alike.square().sum().item()
    assert extra > 1.0
    assert trained[1] == pytest.approx((trained[0][0] + extra, trained[0][1]), rel=1e-5)
    assert measured[0] == measured[1]
