"""Linear layer and cross-entropy as one function, against the plain twin."""

import pytest
import torch
from torch import Tensor

import models.cross_entropy
from models.cross_entropy import IGNORED, linear_cross_entropy, plain_cross_entropy

N, D, V = 11, 6, 9
Parts = list[Tensor | None]


def parts(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Parts, Tensor]:
    torch.manual_seed(1)
    shapes = [(N, D), (V, D), (V,) if bias else None]
    values = [
        None if shape is None else torch.randn(shape, dtype=dtype, requires_grad=True)
        for shape in shapes
    ]
    return values, torch.randint(V, (N,))


def value_and_gradients(function, values: Parts, targets: Tensor, smoothing: float) -> list[Tensor]:
    loss = function(*values, targets, smoothing)
    return [loss, *torch.autograd.grad(3 * loss, [v for v in values if v is not None])]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cached", [2**20, 2 * V, 1])
@pytest.mark.parametrize("held", [2**27, 5 * V])
def test_value_and_gradients_equal_the_plain_ones(
    monkeypatch, smoothing: float, bias: bool, cached: int, held: int
) -> None:
    monkeypatch.setattr(models.cross_entropy, "CACHED", cached)
    monkeypatch.setattr(models.cross_entropy, "HELD", held)
    values, targets = parts(bias=bias)
    targets[3] = targets[7] = IGNORED
    found = value_and_gradients(linear_cross_entropy, values, targets, smoothing)
    expected = value_and_gradients(plain_cross_entropy, values, targets, smoothing)
    torch.testing.assert_close(found, expected)


def test_gradcheck() -> None:
    values, targets = parts()
    assert torch.autograd.gradcheck(lambda *v: linear_cross_entropy(*v, targets, 0.1), values)


def test_only_the_gradients_asked_for() -> None:
    (rows, weight, bias), targets = parts()
    weight.requires_grad_(False)
    linear_cross_entropy(rows, weight, bias, targets).backward()
    assert weight.grad is None and rows.grad is not None and bias.grad is not None
    with torch.no_grad():
        assert not linear_cross_entropy(rows, weight, bias, targets).requires_grad


def test_bf16_sums_in_float32() -> None:
    values, targets = parts(torch.float32)
    expected = value_and_gradients(plain_cross_entropy, values, targets, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(linear_cross_entropy, values, targets, 0.0)
    assert [part.dtype for part in found] == [torch.float32] * 4
    torch.testing.assert_close(found, expected, rtol=3e-2, atol=3e-2)


def test_no_rows_cost_nothing() -> None:
    (rows, weight, bias), targets = parts()
    loss = linear_cross_entropy(rows[:0], weight, bias, targets[:0])
    loss.backward()
    assert loss == 0 and not weight.grad.any()
