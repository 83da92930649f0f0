"""What attention costs beside the symbols: in training alone, and refused where there is none."""

import pytest
import torch

from models.coverage import coverage_loss
from tests.tasks.conftest import Start


@pytest.mark.parametrize("shape", ["translation", "captioning"])
def test_attending_again_costs_its_weight_in_training_and_nothing_in_evaluation(
    start: Start, shape: str
) -> None:
    found = {}
    for weight in (0.0, 0.5):
        torch.manual_seed(0)
        run = start(
            shape, f"task.coverage_loss={weight}", "model.decoder.attention=additive",
            "model.decoder.dropout=0",
        )  # fmt: skip
        task = run.task.train()
        batch = next(iter(run.data.train_dataloader()))
        found[weight] = task.loss(batch)
    output = task.model(task.read(batch), batch.target[:, :-1])
    again = coverage_loss(output.attention, task.mask(batch))
    assert again > 0.0 and found[0.0][1] == found[0.5][1]
    torch.testing.assert_close(found[0.5][0] - found[0.0][0], 0.5 * again, atol=1e-3, rtol=1e-4)
    found[0.5][0].backward()
    assert task.model.decoder.attention.score.weigh.weight.grad.any()
    task.eval()
    task.begin_evaluation("val")
    task.evaluate(batch, "val")
    nats, _ = task.model.head.loss(
        task.model(task.read(batch), batch.target[:, :-1]).hidden,
        batch.target[:, 1:],
        task.mask(batch),
    )
    assert task.sums.values["loss"][0] == pytest.approx(nats.item(), rel=1e-5)


def test_a_model_with_coverage_trains_tests_and_opens_again(start: Start) -> None:
    run = start(
        "translation", "model=bahdanau", "model.decoder.coverage=true", "task.coverage_loss=1",
        "model.decoder.heads=2", "trainer.max_epochs=1", "model.decoder.attention_size=16",
    ).fit()  # fmt: skip
    assert run.test()["test/loss"] > 0
    assert run.task.model.decoder.attention.weight.abs().max() > 0  # it has learnt


def test_mistakes_name_the_value_and_the_mend(start: Start) -> None:
    with pytest.raises(ValueError, match=r"task.coverage_loss=1.* model.decoder.attention="):
        start("translation", "model.decoder.attention=none", "task.coverage_loss=1")
    with pytest.raises(ValueError, match=r"task.coverage_loss must be at least 0, got -1"):
        start("translation", "task.coverage_loss=-1")
