"""Long short-term memory whose gates see its memory cell."""

import torch
from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix, set_rows
from models.recomputed import recomputed
from models.stepwise import Product, StepwiseLayer


class PeepholeLSTM(StepwiseLayer):
    """i, f = σ(W x + U h + p c), c' = f c + i tanh(..), o = σ(W x + U h + p c'), h' = o tanh(c').

    The peepholes p are vectors. State (h, c), each (B, H). Gers and Schmidhuber 2000,
    doi 10.1109/IJCNN.2000.861302.
    """

    fillable = (0, 1)
    outputs_state = True
    recurrent = ("recurrence",)

    def __init__(self, *, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(
            input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size, hidden_size)
        )
        self.enter = nn.Linear(input_size, 4 * hidden_size)
        nn.init.xavier_uniform_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)
        self.recurrence = nn.Parameter(orthogonal_matrix(4, hidden_size))
        self.peepholes = nn.Parameter(torch.zeros(3, hidden_size))  # of i, f, o
        set_rows(self.enter.bias, gate=1, gates=4, value=forget_bias)

    def project(self, inputs: Tensor) -> Tensor:
        return self.full(self.enter(inputs))

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden, cell), (recurrence,) = state, products
        gates = projected + recurrence(hidden)
        hidden, cell = recomputed(advance, gates, cell, self.peepholes)
        return hidden, (hidden, cell)


def advance(gates: Tensor, cell: Tensor, peepholes: Tensor) -> tuple[Tensor, ...]:
    """i, f, g and o before their functions (B, 4 H), c, p (3, H) → h', c'."""
    write, forget, candidate, output = gates.chunk(4, dim=-1)
    to_write, to_forget, to_output = peepholes.unbind()
    write = torch.addcmul(write, cell, to_write).sigmoid()
    forget = torch.addcmul(forget, cell, to_forget).sigmoid()
    cell = forget * cell + write * candidate.tanh()
    return torch.addcmul(output, cell, to_output).sigmoid() * cell.tanh(), cell
