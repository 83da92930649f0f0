"""What rare classes count in training."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from data.batches import IGNORE
from data.spec import DataSpec
from tasks.class_weights import class_weights

SKEWED = DataSpec(labels=("a", "b", "c"), label_counts=(90, 10, 0))


def test_balanced_gives_every_class_the_same_share_of_the_loss() -> None:
    weights = class_weights("balanced", SKEWED)
    assert weights == pytest.approx([100 / 180, 100 / 20, 0.0])
    shares = [w * n for w, n in zip(weights, SKEWED.label_counts, strict=True)]
    assert shares[0] == pytest.approx(shares[1]) and sum(shares) == pytest.approx(100)
    assert class_weights([1, 2, 0.5], SKEWED) == [1.0, 2.0, 0.5]
    assert class_weights(None, SKEWED) is None


@pytest.mark.parametrize(
    ("asked", "spec", "message"),
    [
        ([1.0, 2.0], SKEWED, "2 numbers, and there are 3 classes: a, b, c"),
        ("even", SKEWED, "balanced or a list of numbers, got 'even'"),
        ([1.0, -1.0, 1.0], SKEWED, "0 or more"),
        ([0, 0, 0], SKEWED, "not all 0"),
        ("balanced", DataSpec(labels=("a", "b")), "give a list"),
        ("balanced", DataSpec(output_features=1), "this data has numbers"),
    ],
)
def test_weights_that_do_not_fit_are_refused(asked: Any, spec: DataSpec, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        class_weights(asked, spec)


TAGS = ["data=recipes_online", "data.train_size=32", "data.max_steps=12"]


@pytest.mark.parametrize(("shape", "keys"), [("classification", []), ("tagging", TAGS)])
def test_a_task_is_trained_with_torchs_weighted_loss(
    shape: str, keys: list[str], start: Any
) -> None:
    run = start(shape, *keys, "task.class_weights=balanced")
    spec, task = run.data.spec, run.task
    batches = list(run.data.train_dataloader())
    targets = torch.cat([batch.targets.flatten() for batch in batches])
    counts = torch.bincount(targets[targets != IGNORE], minlength=len(spec.labels))
    assert spec.label_counts == tuple(counts.tolist())
    weights = counts.sum() / (counts > 0).sum() / counts.clamp(min=1) * (counts > 0)

    batch = batches[0]
    output = task.model(batch.inputs, batch.lengths)
    logits = task.model.head(output[0]).flatten(0, -2)
    expected = F.cross_entropy(logits, batch.targets.flatten(), weights)
    loss, count = task.loss(batch)
    torch.testing.assert_close(loss / count, expected)

    plain = start(shape, *keys).task
    plain.load_state_dict(task.state_dict())  # a checkpoint holds no weights of classes
    for one in (task, plain):
        one.eval().evaluate(batch, "val")
    assert task.sums.totals() == plain.sums.totals()


def test_a_checkpoint_of_before_knows_no_counts() -> None:
    plain = SKEWED.to_plain()
    assert DataSpec.from_plain(plain) == SKEWED
    del plain["label_counts"]
    assert DataSpec.from_plain(plain).label_counts is None
