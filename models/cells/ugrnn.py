"""Update gate network."""

import torch
from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix, set_rows
from models.stepwise import Product, StepwiseLayer


class UGRNN(StepwiseLayer):
    """h' = g h + (1 - g) tanh(W_c x + U_c h) with g = σ(W_g x + U_g h): one gate.

    State (h,), (B, H). Collins et al. 2017, arXiv 1611.09913, where the gate's bias starts at 1.
    """

    outputs_state = True
    recurrent = ("recurrence",)

    def __init__(self, *, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size,))
        self.enter = nn.Linear(input_size, 2 * hidden_size)
        nn.init.xavier_uniform_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)
        self.recurrence = nn.Parameter(orthogonal_matrix(2, hidden_size))
        set_rows(self.enter.bias, gate=0, gates=2, value=forget_bias)

    def project(self, inputs: Tensor) -> Tensor:
        return self.full(self.enter(inputs))

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden,), (recurrence,) = state, products
        gate, candidate = (projected + recurrence(hidden)).chunk(2, dim=-1)
        hidden = torch.lerp(candidate.tanh(), hidden, gate.sigmoid())
        return hidden, (hidden,)
