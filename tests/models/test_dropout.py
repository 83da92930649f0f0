"""`models.dropout.dropout`: the share that is dropped, its mean and its gradient."""

import pytest
import torch

from models.dropout import dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.65])
def test_a_number_is_dropped_with_its_probability_apart_from_all_others(probability: float) -> None:
    torch.manual_seed(1)
    kept = dropout(torch.ones(1000, 1001), probability, True) > 0
    count = kept.numel()
    deviation = (probability * (1 - probability) / count) ** 0.5
    assert abs(float((~kept).double().mean()) - probability) < 4 * deviation
    # neighbours, and those that share a random number, know nothing of each other
    flat = kept.flatten().double() - (1 - probability)
    for distance in (1, 2, 3, 4, 1001):
        together = float((flat[:-distance] * flat[distance:]).mean())
        assert abs(together) < 4 * probability * (1 - probability) / count**0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_left_keeps_the_mean_and_is_the_gradient(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    inputs = torch.full((301, 333), 2.0, dtype=dtype, requires_grad=True)
    outputs = dropout(inputs, 0.25, True)
    assert outputs.dtype == dtype
    assert float(outputs.detach().double().mean()) == pytest.approx(2.0, abs=0.02)
    assert outputs.detach().unique().tolist() == [0.0, pytest.approx(2.0 / 0.75, rel=5e-3)]
    (slope,) = torch.autograd.grad(outputs.double().sum(), inputs)
    torch.testing.assert_close(slope * 2.0, outputs.detach())


def test_nothing_is_dropped_outside_training_or_without_a_probability() -> None:
    inputs = torch.randn(3, 4)
    assert dropout(inputs, 0.5, False) is inputs
    assert dropout(inputs, 0.0, True) is inputs


def test_the_same_seed_drops_the_same_and_any_shape_will_do() -> None:
    for shape in [(), (1,), (3,), (2, 0, 5), (2, 3, 5)]:
        found = []
        for _ in range(2):
            torch.manual_seed(3)
            found.append(dropout(torch.ones(shape), 0.5, True))
        assert torch.equal(*found)
        assert found[0].shape == shape


def test_strided_inputs_are_dropped_as_they_lie() -> None:
    torch.manual_seed(1)
    inputs = torch.randn(40, 50).t()
    outputs = dropout(inputs, 0.5, True)
    assert torch.equal(outputs[outputs != 0], (2 * inputs)[outputs != 0])
    assert 0.4 < float((outputs == 0).double().mean()) < 0.6
