"""What training promises, in every shape."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batches import CaptionBatch, PairBatch, SequenceBatch, StreamBatch

NO_DROPOUT = {
    "classification": [],
    "tagging": [],
    "captioning": ["model.decoder.dropout=0", "data.limit=8"],
    "translation": ["model.decoder.dropout=0", "data.limit=8"],
    "language_model": [
        "model.dropout=0", "model.embedding_dropout=0", "model.output_dropout=0",
        "model.hidden_size=100",
    ],
}  # fmt: skip


BRIEF = ["trainer.max_epochs=2", "trainer.limit_train_batches=8"]


def first_batch(data: Any, split: str = "train") -> Any:
    return next(iter(data.loader(split)))


def test_it_overfits_one_batch(shape: str, start: Any) -> None:
    run = start(shape, *NO_DROPOUT[shape])
    batch = first_batch(run.data)
    if shape == "language_model":
        batch = batch._replace(start=torch.ones_like(batch.start))
    task = run.task.train()
    task._trainer = run.trainer
    optimizer = torch.optim.Adam(task.parameters(), lr=1e-2)
    first = math.inf
    for step in range(400):
        loss, count = task.loss(batch)
        mean = (loss / count).item()
        first = mean if step == 0 else first
        if mean < 0.1 * first:
            return
        optimizer.zero_grad()
        (loss / count).backward()
        torch.nn.utils.clip_grad_norm_(task.parameters(), 1.0)
        optimizer.step()
    pytest.fail(f"the loss began at {first:.3f} and is still {mean:.3f}")


def test_two_runs_with_one_seed_are_alike(shape: str, start: Any) -> None:
    options = [*BRIEF, "seed=3"]
    runs = [start(shape, *options).fit() for _ in range(2)]
    first, second = (run.test() for run in runs)
    assert first == second
    weights = zip(runs[0].task.parameters(), runs[1].task.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    other = start(shape, *BRIEF, "seed=4").fit().test()
    assert other["test/loss"] != first["test/loss"]


@pytest.mark.slow  # processors without bf16 emulate it
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_bf16_trains_as_fp32_does(shape: str, optimizer: str, start: Any) -> None:
    options = [*BRIEF, f"optimizer={optimizer}", "optimizer.lr=1e-2"]
    losses = [
        start(shape, *options, f"precision={name}").fit().test()["test/loss"]
        for name in ("fp32", "bf16")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=0.1)


def padded(batch: Any, more: int) -> Any:
    """The same batch with `more` pads at the end of each row."""

    def widen(values: torch.Tensor, value: float = 0) -> torch.Tensor:
        extra = values.new_full((values.size(0), more, *values.shape[2:]), value)
        return torch.cat([values, extra], dim=1)

    if isinstance(batch, SequenceBatch):
        targets = batch.targets
        if targets.dim() > 1 and targets.size(1) == batch.inputs.size(1):
            targets = widen(targets, -100 if not targets.is_floating_point() else 5.0)
        return batch._replace(inputs=widen(batch.inputs, 3), targets=targets)
    if isinstance(batch, PairBatch):
        return batch._replace(source=widen(batch.source, 3), target=widen(batch.target, 3))
    if isinstance(batch, CaptionBatch):
        return batch._replace(target=widen(batch.target, 3))
    assert isinstance(batch, StreamBatch)
    return StreamBatch(
        widen(batch.inputs, 3), widen(batch.targets, 3), widen(batch.mask, 0), batch.start,
        widen(batch.characters, 9),
    )  # fmt: skip


def test_more_padding_changes_no_loss_and_no_gradient(shape: str, start: Any) -> None:
    run = start(shape)
    batch = first_batch(run.data)
    task = run.task.eval()  # dropout draws by shape, and would differ
    results = []
    for given in (batch, padded(batch, 5)):
        task.zero_grad()
        if shape == "language_model":
            task.carried.clear()
        loss, count = task.loss(given)
        (loss / count).backward()
        gradients = [p.grad.clone() for p in task.parameters() if p.grad is not None]
        results.append((loss.item(), count.item(), gradients))
    (loss, count, gradients), (more_loss, more_count, more_gradients) = results
    assert count == more_count
    assert math.isclose(loss, more_loss, rel_tol=1e-5)
    for one, other in zip(gradients, more_gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_the_test_does_not_depend_on_the_batch_size(shape: str, start: Any) -> None:
    run = start(shape, "trainer.max_epochs=1").fit()
    expected = run.test()
    for size in (3, 64):
        other = start(shape, f"data.batch_size={size}", f"data.eval_batch_size={size}")
        other.task.load_state_dict(run.task.state_dict())
        found = other.test()
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert math.isclose(found[name], value, rel_tol=1e-4, abs_tol=1e-6), name


def test_accumulated_batches_weigh_by_what_they_count(start: Any) -> None:
    """Four batches of 4 accumulated make the same step as one of 16, though lengths differ."""
    common = ["optimizer=sgd", "optimizer.lr=0.1", "trainer.gradient_clip_val=0",
              "scheduler=constant", "trainer.max_epochs=1", "data.limit=16"]  # fmt: skip
    for shape in ("tagging", "translation"):
        off = NO_DROPOUT[shape]
        whole = start(shape, *off, *common, "data.batch_size=16")
        parts = start(
            shape, *off, *common, "data.batch_size=4", "trainer.accumulate_grad_batches=4"
        )
        parts.task.load_state_dict(whole.task.state_dict())
        whole.fit(), parts.fit()
        assert whole.trainer.global_step == parts.trainer.global_step == 1
        for one, other in zip(whole.task.parameters(), parts.task.parameters(), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.usefixtures("drawn")
def test_a_run_leaves_its_record(shape: str, start: Any) -> None:
    run = start(shape, "trainer.max_epochs=1", "trainer.log_every_n_steps=1").fit()
    run.test()
    folder = Path(run.config.paths.run_dir)
    header = (folder / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"train/loss", "val/loss", "test/loss", "lr", "grad_norm"} <= set(header)
    assert "tokens_per_second" in header
    assert (folder / "checkpoints" / "best.ckpt").stat().st_size > 1000
    assert (folder / "checkpoints" / "last.ckpt").exists()
    assert (folder / "learning_curves.png").stat().st_size > 1000
    samples = (folder / "samples" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    assert samples and all(json.loads(line) for line in samples)
    if shape not in ("language_model",):
        assert list((folder / "pictures").glob("*.png"))


@pytest.mark.parametrize("shape", ["translation", "captioning"])
def test_evaluation_never_sees_the_right_answer(shape: str, start: Any) -> None:
    """Decoded texts are the same whatever stands in the batch as target."""
    run = start(shape)
    task, data = run.task.eval(), run.data
    task._trainer = run.trainer
    batch = first_batch(data, "validation")
    texts = []
    for given in (batch, batch._replace(target=torch.full_like(batch.target, 5))):
        task.decoded = []
        with torch.no_grad():
            task.evaluate(given, "val")
        texts.append(task.decoded)
    assert texts[0] == texts[1]


def test_the_state_is_carried_along_a_stream_and_reset_at_its_start(start: Any) -> None:
    run = start("language_model")
    task = run.task.eval()
    batch = first_batch(run.data)
    begin = batch._replace(start=torch.ones_like(batch.start))
    go_on = batch._replace(start=torch.zeros_like(batch.start))
    with torch.no_grad():
        fresh, _ = task.run(begin, "train")
        carried, _ = task.run(go_on, "train")
        again, _ = task.run(begin, "train")
    assert not torch.allclose(fresh, carried)
    torch.testing.assert_close(fresh, again)
    assert all(not leaf.requires_grad for leaf in torch.utils._pytree.tree_leaves(task.carried))
