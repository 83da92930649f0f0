"""A model that is too large is told by its sizes, before memory is taken for it."""

import time

import pytest
import torch
from torch import nn

from tasks import memory
from tasks.memory import check_fits, weight_bytes

SETTINGS = {"hidden_size": 10**9, "encoder": {"num_layers": 2, "sizes": [7]}, "dropout": 0.1}


def test_more_weights_than_memory_are_told_with_the_largest_sizes() -> None:
    with pytest.raises(ValueError, match=r"GB of weights; .* GB are free.*model.hidden_size=10000"):
        check_fits(lambda: nn.Linear(10**6, 10**9), SETTINGS, "model")
    with pytest.raises(ValueError, match="more weights than there is memory for"):
        check_fits(lambda: nn.Linear(2**62, 2**62), SETTINGS, "model")


def test_parts_without_end_are_told_after_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "MOST_PARTS", 1000)
    began = time.monotonic()
    with pytest.raises(ValueError, match="more than 1,000 weights and biases"):
        check_fits(lambda: nn.ModuleList(nn.Linear(1, 1) for _ in range(10**9)), {}, "model")
    assert time.monotonic() - began < 30
    for _ in range(1001):
        nn.Linear(1, 1)  # counted no more


def test_training_needs_more(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> nn.Module:
        return nn.Linear(100, 100)

    assert weight_bytes(make()) == 4 * (100 * 100 + 100)
    monkeypatch.setattr(memory, "free", lambda: 2 * weight_bytes(make()))
    check_fits(make, SETTINGS, "model")
    with pytest.raises(ValueError, match="4 times as much to train"):
        check_fits(make, SETTINGS, "model", trains=True)


def test_nothing_is_drawn_by_looking() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    check_fits(lambda: nn.Linear(5, 5), SETTINGS, "model")
    assert torch.equal(torch.rand(2), expected)
