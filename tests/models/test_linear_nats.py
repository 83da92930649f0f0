"""The negative log-likelihood of each row behind a linear layer, against the plain twin."""

import pytest
import torch
from torch import Tensor

import models.cross_entropy
from models.cross_entropy import IGNORED
from models.linear_nats import linear_nats, plain_nats

N, D, V = 11, 6, 9
Parts = list[Tensor | None]


def parts(dtype: torch.dtype = torch.float64, *, bias: bool = True) -> tuple[Parts, Tensor]:
    torch.manual_seed(1)
    shapes = [(N, D), (V, D), (V,) if bias else None]
    values = [
        None if shape is None else torch.randn(shape, dtype=dtype, requires_grad=True)
        for shape in shapes
    ]
    targets = torch.randint(V, (N,))
    targets[3] = targets[7] = IGNORED
    return values, targets


def value_and_gradients(function, values: Parts, targets: Tensor) -> list[Tensor]:
    nats = function(*values, targets)
    weighed = (nats * torch.arange(1, N + 1, dtype=nats.dtype)).square().sum()
    return [nats, *torch.autograd.grad(weighed, [v for v in values if v is not None])]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("cached", [2**20, 2 * V, 1])
@pytest.mark.parametrize("held", [2**27, 5 * V])
def test_value_and_gradients_equal_the_plain_ones(
    monkeypatch, bias: bool, cached: int, held: int
) -> None:
    monkeypatch.setattr(models.cross_entropy, "CACHED", cached)
    monkeypatch.setattr(models.cross_entropy, "HELD", held)
    found = value_and_gradients(linear_nats, *parts(bias=bias))
    torch.testing.assert_close(found, value_and_gradients(plain_nats, *parts(bias=bias)))
    assert found[0][3] == 0 and not found[1][3].any()


def test_gradcheck() -> None:
    values, targets = parts()
    assert torch.autograd.gradcheck(lambda *v: linear_nats(*v, targets), values)


def test_only_the_gradients_asked_for() -> None:
    (rows, weight, bias), targets = parts()
    weight.requires_grad_(False)
    linear_nats(rows, weight, bias, targets).sum().backward()
    assert weight.grad is None and rows.grad is not None and bias.grad is not None


def test_bf16_sums_in_float32() -> None:
    expected = value_and_gradients(plain_nats, *parts(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(linear_nats, *parts(torch.float32))
    assert [part.dtype for part in found] == [torch.float32] * 4
    torch.testing.assert_close(found[0], expected[0], rtol=3e-2, atol=3e-2)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert (one - other).norm() < 0.03 * other.norm()
