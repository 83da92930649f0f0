"""Recurrent highway network."""

import torch
from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix
from models.stepwise import Product, StepwiseLayer


class RHN(StepwiseLayer):
    """`depth` highway layers from one step to the next; state (s,), (B, H).

    s' = t tanh(W_h x + R_h s) + (1 - t) s with t = σ(W_t x + R_t s); the layers above the first
    repeat this without x, each with its own R and bias. Zilly et al. 2017, arXiv 1607.03474, with
    its coupled gates.
    """

    outputs_state = True

    def __init__(
        self, *, input_size: int, hidden_size: int, depth: int = 3, transform_bias: float = -2.0
    ) -> None:
        """A negative `transform_bias` lets the state through at the start."""
        super().__init__(input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size,))
        if not 1 <= depth <= 1000:
            raise ValueError(f"depth is 1 to 1000, got {depth}")
        self.enter = nn.Linear(input_size, 2 * hidden_size, bias=False)
        nn.init.xavier_uniform_(self.enter.weight)
        self.recurrences = nn.ParameterList(orthogonal_matrix(2, hidden_size) for _ in range(depth))
        self.recurrent = tuple(f"recurrences.{place}" for place in range(depth))
        bias = torch.zeros(depth, 2, hidden_size)
        bias[:, 1] = transform_bias
        self.biases = nn.Parameter(bias.flatten(1))

    def project(self, inputs: Tensor) -> Tensor:
        return self.full(self.enter(inputs))

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden,) = state
        for place, recurrence in enumerate(products):
            both = recurrence(hidden) + self.biases[place]
            candidate, transform = (both if place else both + projected).chunk(2, dim=-1)
            hidden = torch.lerp(hidden, candidate.tanh(), transform.sigmoid())
        return hidden, (hidden,)
