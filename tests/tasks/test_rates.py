"""An encoder may learn at a rate of its own, through any schedule."""

from typing import Any

import pytest
import torch


@pytest.mark.parametrize("shape, optimizer", [("captioning", "adamw"), ("translation", "sgd")])
def test_the_encoder_learns_at_its_share_through_the_schedule(
    shape: str, optimizer: str, start: Any
) -> None:
    told = ["trainer.max_steps=2", "trainer.limit_val_batches=0", "task.encoder_rate=0.1"]
    run = start(shape, *told, f"optimizer={optimizer}", "scheduler=cosine").fit()
    (made,) = run.trainer.optimizers
    (schedule,) = run.trainer.lr_scheduler_configs
    own = set(run.task.model.encoder.parameters())
    assert own < {p for group in made.param_groups for p in group["params"]}
    full = run.config.optimizer.lr
    for group, base in zip(made.param_groups, schedule.scheduler.base_lrs, strict=True):
        share = 0.1 if own.issuperset(group["params"]) else 1.0
        assert own.isdisjoint(group["params"]) == (share == 1.0)
        assert base == pytest.approx(share * full)
        assert group["weight_decay"] == 0 or all(p.dim() > 1 for p in group["params"])
    vectors = [g for g in made.param_groups if all(p.dim() <= 1 for p in g["params"])]
    assert len(vectors) == 2 and all(group["weight_decay"] == 0 for group in vectors)


def test_sgd_moves_the_encoder_by_its_share_and_the_rest_in_full(start: Any) -> None:
    moved = []
    for share in (1.0, 0.25):
        run = start("captioning", "optimizer=sgd", f"task.encoder_rate={share}")
        before = [p.detach().clone() for p in run.task.parameters()]
        batch = next(iter(run.data.loader("train")))
        run.task._trainer = run.trainer
        run.task.scheduler = None
        loss, count = run.task.eval().loss(batch)
        (loss / count).backward()
        run.task.configure_optimizers().step()
        after = run.task.named_parameters()
        moved.append({n: p.detach() - b for (n, p), b in zip(after, before, strict=True)})
    for name, step in moved[0].items():
        share = 0.25 if name.startswith("model.encoder.") else 1.0
        torch.testing.assert_close(moved[1][name], share * step, rtol=1e-3, atol=1e-7)


def test_a_rate_of_nothing_is_refused(start: Any) -> None:
    with pytest.raises(ValueError, match="model.encoder.frozen=true"):
        start("captioning", "task.encoder_rate=0")
