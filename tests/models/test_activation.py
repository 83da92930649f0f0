"""Penalties on a language model's activations, to the number."""

import pytest
import torch

from models.activation import penalties

OUTPUTS = torch.tensor([[[1.0, 2.0], [3.0, 2.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 5.0], [9.0, 9.0]]])
DROPPED = OUTPUTS * torch.tensor([2.0, 0.0])
COUNTS = torch.tensor([[True, True, True], [True, True, False]])


def total(dtype: torch.dtype = torch.float32, **weights: float) -> float:
    chosen = penalties(**({"activation": 0.0, "temporal": 0.0} | weights))
    parts = [each(OUTPUTS.to(dtype), DROPPED.to(dtype), COUNTS) for each in chosen]
    assert all(part.dtype == torch.float32 for part in parts)
    return float(sum(parts))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_cost_the_mean_square_of_what_dropout_left(dtype: torch.dtype) -> None:
    assert total(dtype, activation=2.0) == pytest.approx(2 * (4 + 36 + 0 + 4 + 0) / 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_jumps_cost_the_mean_square_change_before_dropout(dtype: torch.dtype) -> None:
    first, second, third = 4 + 0, 9 + 4, 1 + 25  # the last step of the second row does not count
    assert total(dtype, temporal=0.5) == pytest.approx(0.5 * (first + second + third) / 6)


def test_penalties_add_up_and_those_of_no_weight_are_not_there() -> None:
    assert penalties(activation=0.0, temporal=0.0) == []
    both = total(activation=2.0) + total(temporal=1.0)
    assert total(activation=2.0, temporal=1.0) == pytest.approx(both)


def test_one_step_has_no_jump_and_no_step_costs_nothing() -> None:
    (jump,) = penalties(activation=0.0, temporal=1.0)
    assert jump(OUTPUTS[:, :1], DROPPED[:, :1], COUNTS[:, :1]) == 0
    (square,) = penalties(activation=1.0, temporal=0.0)
    assert square(OUTPUTS, DROPPED, torch.zeros_like(COUNTS)) == 0


def test_a_negative_weight_is_refused() -> None:
    with pytest.raises(ValueError, match=r"task\.temporal_activation_regularisation .* got -1"):
        penalties(activation=0.0, temporal=-1)
