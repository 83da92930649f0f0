"""Adversarial training moves vectors as far as it says, to where the loss is greater."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.adversarial import Adversarial, VirtualAdversarial, unit

TAGS = ["data=recipes_online", "data.train_size=32", "data.max_steps=12"]
DROPS = ["model.normalise_embedding=true", "model.dropout=0.3"]
SHAPES = pytest.mark.parametrize(("shape", "keys"), [("classification", []), ("tagging", TAGS)])


class Noted:
    """What a task reads while its loss is found: vectors, readings, losses."""

    def __init__(self, task: Any, batch: Any) -> None:
        self.vectors: list[Tensor] = []
        self.readings: list[Any] = []
        self.losses: list[Tensor] = []
        read, nats = task.read, task.nats

        def noted_read(vectors: Tensor, batch: Any) -> Any:
            self.vectors.append(vectors.detach())
            self.readings.append(read(vectors, batch))
            return self.readings[-1]

        def noted_nats(reading: Any, batch: Any) -> Any:
            result = nats(reading, batch)
            self.losses.append(result[0])
            return result

        task.read, task.nats = noted_read, noted_nats
        self.loss, self.count = task.loss(batch)
        task.read, task.nats = read, nats


def prepared(start: Any, shape: str, *keys: str) -> tuple[Any, Any]:
    run = start(shape, *keys)
    return run.task.double(), next(iter(run.data.train_dataloader()))


def norms(rows: Tensor) -> Tensor:
    return rows.flatten(1).norm(dim=1)


@SHAPES
def test_the_perturbation_has_its_norm_and_raises_the_loss_to_first_order(
    shape: str, keys: list[str], start: Any
) -> None:
    task, batch = prepared(start, shape, *keys, *DROPS)
    task.objective = Adversarial(epsilon=1e-4, weight=0.5)
    noted = Noted(task, batch)
    (vectors, worse), (plain, harder) = noted.vectors, noted.losses
    torch.testing.assert_close(norms(worse - vectors), torch.full((len(vectors),), 1e-4).double())
    assert not (worse - vectors)[batch.inputs == 0].any()  # pads stay where they are
    torch.testing.assert_close(noted.loss, plain + 0.5 * harder)
    assert noted.count == task.mask(batch).sum()

    # dropout is on, and both readings drop the same: else this would drown in its noise
    point = vectors.clone().requires_grad_()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        task.objective = Adversarial(epsilon=1e-4)
        task.model.inputs.forward = lambda symbols: point  # type: ignore[method-assign]
        again = Noted(task, batch)
        (slope,) = torch.autograd.grad(again.losses[0], point)
    rise = (again.losses[1] - again.losses[0]).item()
    assert rise == pytest.approx(1e-4 * norms(slope).sum().item(), rel=0.01)
    moved = again.vectors[1] - again.vectors[0]
    torch.testing.assert_close(moved, 1e-4 * unit(slope), atol=1e-10, rtol=1e-4)


@SHAPES
def test_the_virtual_perturbation_changes_answers_more_than_a_random_one(
    shape: str, keys: list[str], start: Any
) -> None:
    task, batch = prepared(start, shape, *keys, "model.normalise_embedding=true")
    epsilon = 0.1
    task.objective = VirtualAdversarial(epsilon=epsilon, weight=3.0, xi=1e-3)
    noted = Noted(task, batch)
    first, last = noted.vectors[0], noted.vectors[-1]
    assert len(noted.vectors) == 3  # as they are, to find the direction, along it
    torch.testing.assert_close(norms(last - first), torch.full((len(first),), epsilon).double())

    def divergence(vectors: Tensor) -> Tensor:
        given, found = (task.log_probs(task.read(v, batch), batch) for v in (first, vectors))
        nats = F.kl_div(found, given, reduction="none", log_target=True).sum(-1)
        return nats[task.mask(batch)].sum()

    worst = divergence(last)
    torch.testing.assert_close(noted.loss, noted.losses[0] + 3.0 * worst)
    torch.manual_seed(0)
    others = [divergence(first + epsilon * unit(torch.randn_like(first))) for _ in range(5)]
    assert worst > 3 * max(others)


@SHAPES
def test_without_an_objective_a_batch_is_read_once(shape: str, keys: list[str], start: Any) -> None:
    task, batch = prepared(start, shape, *keys)
    noted = Noted(task, batch)
    assert len(noted.vectors) == 1 and noted.loss is noted.losses[0]


@SHAPES
@pytest.mark.parametrize("objective", ["adversarial", "virtual_adversarial"])
def test_a_run_trains_and_evaluates_as_ever(
    shape: str, keys: list[str], objective: str, start: Any
) -> None:
    run = start(
        shape, *keys, *DROPS, f"objective={objective}", "trainer.max_epochs=1",
        "trainer.limit_train_batches=2", "precision=bf16",
    )  # fmt: skip
    measured = run.fit().test()
    assert all(value == value for value in measured.values())
    assert run.task.model.inputs.embedding.counts.sum() > len(run.task.codec.inputs.table)


def test_signals_have_adversaries_too_but_no_probabilities(start: Any) -> None:
    task, batch = prepared(start, "tagging", "objective=adversarial")
    batch = batch._replace(inputs=batch.inputs.double())
    noted = Noted(task, batch)
    assert noted.losses[1] > noted.losses[0]
    task.objective = VirtualAdversarial()
    with pytest.raises(ValueError, match="objective=adversarial"):
        task.loss(batch)


def test_mistakes_are_named(start: Any) -> None:
    task, batch = prepared(start, "tagging", *TAGS, "model/head=crf")
    task.objective = VirtualAdversarial()
    with pytest.raises(ValueError, match="output layer"):
        task.loss(batch)
    task.objective = Adversarial()
    assert Noted(task, batch).losses[1] > 0
    other = "{_target_: models.cells.gru.GRU, input_size: 1, hidden_size: 1}"
    with pytest.raises(ValueError, match="objective=GRU is not for task=tagging"):
        start("tagging", *TAGS, f"task.objective={other}")
    with pytest.raises(ValueError, match="epsilon is above 0, got 0"):
        Adversarial(epsilon=0.0)
    with pytest.raises(ValueError, match="iterations is above 0"):
        VirtualAdversarial(iterations=0)
