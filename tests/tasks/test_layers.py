"""The layers of each shape's model, and the rate at which each of them learns."""

from typing import Any

import pytest
import torch
from torch import nn

from tasks.layers import by_depth, parameter_groups

LSTM = ["model.num_layers=2", "cell=lstm"]
LAYERS = {  # the parts whose parameters stand in each layer, from the input to the top
    "classification": (
        ["data=recipes", *LSTM, "model.pooling=attention", "model.layer_norm=true"],
        [["inputs"], ["stack.layers.0", "stack.norms.0"], ["stack.layers.1", "stack.norms.1"],
         ["pooling", "head"]],
    ),
    "tagging": (
        [*LSTM, "model.bidirectional=true", "recurrent.weight_drop=0.1"],
        [["stack.forward_layers.0", "stack.backward_layers.0"],
         ["stack.forward_layers.1", "stack.backward_layers.1"], ["head"]],
    ),
    "language_model": (
        [*LSTM, "model.tie_weights=true", "model.embedding_size=null"],
        [["stack.layers.0"], ["stack.layers.1"], ["head"]],
    ),
    "translation": (
        ["model.decoder.num_layers=2", "model.tie_weights=none"],
        [["encoder.inputs"], ["encoder.stack.forward_layers.0", "encoder.stack.backward_layers.0"],
         ["decoder.inputs"], ["decoder.stack.layers.0"], ["decoder.stack.layers.1"],
         ["decoder.bridge", "decoder.attention", "decoder.combine", "head"]],
    ),
    "captioning": (
        [],
        [["encoder.network.0", "encoder.network.2"], ["encoder.network.4", "encoder.network.6"],
         ["encoder.network.8", "encoder.network.10"], ["encoder.context.0"],
         ["encoder.context.1"], ["decoder.stack.layers.0"],
         ["decoder.bridge", "decoder.attention", "decoder.combine", "head"]],
    ),
}  # fmt: skip


def test_layers_follow_the_shape(shape: str, start: Any) -> None:
    """And each parameter stands in one group of the optimizer, where vectors do not decay."""
    overrides, wanted = LAYERS[shape]
    task = start(shape, *overrides).task
    found = by_depth(task)
    assert len(found) == len(wanted)
    for layer, prefixes in zip(found, wanted, strict=True):
        for name in layer:
            starts = tuple(f"model.{prefix}." for prefix in prefixes)
            assert name.startswith(starts), name
    trained = {p for p in task.parameters() if p.requires_grad}
    for decay in (1.0, 0.5):
        groups = parameter_groups(task, layer_decay=decay)
        placed = [p for group in groups for p in group["params"]]
        assert len(placed) == len(trained) and {*placed} == trained
        for group in groups:
            vectors = {p.dim() <= 1 for p in group["params"]}
            assert vectors == {group.get("weight_decay") == 0.0}
    assert len(parameter_groups(task, layer_decay=1.0)) == 2


def test_rates_fall_by_the_decay_from_the_top_down(start: Any) -> None:
    run = start(
        "classification", *LSTM, "task.layer_decay=0.5", "optimizer.lr=0.4",
        "optimizer.weight_decay=0.1", "scheduler=constant", "trainer.max_steps=1",
    )  # fmt: skip
    run.fit()
    names = {p: name.removeprefix("model.") for name, p in run.task.named_parameters()}
    (optimizer,) = run.trainer.optimizers
    assert [
        (names[group["params"][0]].split(".rnn")[0], group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
    ] == [
        ("head.linear.weight", 0.4, 0.1), ("head.linear.bias", 0.4, 0.0),
        ("stack.layers.1", 0.2, 0.1), ("stack.layers.1", 0.2, 0.0),
        ("stack.layers.0", 0.1, 0.1), ("stack.layers.0", 0.1, 0.0),
        ("inputs.embedding.weight", 0.05, 0.1),
    ]  # fmt: skip


@pytest.mark.parametrize("scheduler", ["cosine", "plateau"])  # by the step, and by the epoch
def test_schedules_keep_the_shares(scheduler: str, start: Any) -> None:
    options = ["task.layer_decay=0.25", "trainer.max_epochs=2", "data.limit=16"]
    run = start("tagging", f"scheduler={scheduler}", *options).fit()
    rates = [group["lr"] for group in run.trainer.optimizers[0].param_groups]
    assert rates[2:] == pytest.approx([rate / 4 for rate in rates[:2]])


def test_steps_are_shorter_further_down(start: Any) -> None:
    """Plain gradient descent on the same batch: the decay is in what the weights do."""
    moved = []
    for decay in (1.0, 0.5):
        run = start(
            "tagging", "optimizer=sgd", "optimizer.lr=0.1", f"task.layer_decay={decay}",
            "scheduler=constant", "trainer.gradient_clip_val=0", "trainer.max_steps=1",
        )  # fmt: skip
        before = [p.detach().clone() for p in run.task.parameters()]
        run.fit()
        moved.append([p.detach() - b for p, b in zip(run.task.parameters(), before, strict=True)])
    for (name, _), whole, half in zip(run.task.named_parameters(), *moved, strict=True):
        torch.testing.assert_close(half, whole * (1.0 if ".head." in name else 0.5))


@pytest.mark.parametrize("decay", [0.0, 1.5, -1.0])
def test_a_decay_out_of_range_is_refused(decay: float) -> None:
    with pytest.raises(ValueError, match=rf"task\.layer_decay .* got {decay}"):
        parameter_groups(nn.Linear(2, 2), layer_decay=decay)
