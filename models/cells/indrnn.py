"""Independently recurrent network."""

import torch
from torch import Tensor, nn

from models.parallel import ScanLayer
from models.scan import elementwise_scan


class IndRNN(ScanLayer):
    """h' = relu(W x + u * h + b): each feature remembers itself alone; state h (B, H).

    Li et al. 2018, arXiv 1803.04831. `max_steps` bounds |u| at the start by the (T)th root of two,
    so that no feature more than doubles over a sequence of T steps.
    """

    outputs_state = True

    def __init__(self, *, input_size: int, hidden_size: int, max_steps: int = 256) -> None:
        super().__init__(input_size=input_size, output_size=hidden_size, state_size=hidden_size)
        if max_steps < 1:
            raise ValueError(f"max_steps is 1 or more, got {max_steps}")
        self.linear = nn.Linear(input_size, hidden_size)
        nn.init.kaiming_uniform_(self.linear.weight, nonlinearity="relu")
        nn.init.zeros_(self.linear.bias)
        self.recurrence = nn.Parameter(torch.empty(hidden_size).uniform_(0, 2 ** (1 / max_steps)))

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        return (self.full(self.linear(inputs)),)

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        return elementwise_scan(advance, coefficients, before, [self.recurrence])


def advance(state: Tensor, projected: Tensor, weight: Tensor) -> Tensor:
    """h → h'."""
    return torch.addcmul(projected, state, weight).relu()
