"""Mogrifier LSTM."""

import torch
from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix, set_rows
from models.recomputed import recomputed
from models.stepwise import Product, StepwiseLayer


class MogrifierLSTM(StepwiseLayer):
    """Input and state gate each other in turn, x = 2 σ(Q h) x and h = 2 σ(R x) h, then an LSTM.

    `rounds` counts these gatings; Q and R are products of two thin matrices where a `rank` is
    given. State (h, c), each (B, H). Melis et al. 2020, arXiv 1909.01792.
    """

    fillable = (0, 1)
    outputs_state = True
    recurrent = ("recurrence",)

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        rounds: int = 5,
        rank: int | None = None,
        forget_bias: float = 1.0,
    ) -> None:
        super().__init__(
            input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size, hidden_size)
        )
        if not 0 <= rounds <= 1000:
            raise ValueError(f"rounds is 0 to 1000, got {rounds}")
        if rank is not None and rank < 1:
            raise ValueError(f"rank is 1 or more, or null for full matrices, got {rank}")
        self.rounds = rounds
        self.thin = rank is not None
        self.enter = nn.Parameter(torch.empty(4 * hidden_size, input_size))
        nn.init.xavier_uniform_(self.enter)
        self.recurrence = nn.Parameter(orthogonal_matrix(4, hidden_size))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        set_rows(self.bias, gate=1, gates=4, value=forget_bias)
        gatings: list[Tensor] = []
        for place in range(rounds):
            sizes = (input_size, hidden_size) if place % 2 == 0 else (hidden_size, input_size)
            shapes = [sizes] if rank is None else [(rank, sizes[1]), (sizes[0], rank)]
            gatings += [torch.empty(shape) for shape in shapes]
        for gating in gatings:
            nn.init.xavier_uniform_(gating)
        self.gatings = nn.ParameterList(gatings)
        self.other = ("enter", *(f"gatings.{place}" for place in range(len(gatings))))

    def project(self, inputs: Tensor) -> Tensor:
        return self.full(inputs)  # the state gates the input before any product

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden, cell), inputs = state, projected
        recurrence, enter, *gatings = products
        for place in range(self.rounds):
            parts = gatings[2 * place : 2 * place + 2] if self.thin else gatings[place : place + 1]
            gate = hidden if place % 2 == 0 else inputs
            for part in parts:
                gate = part(gate)
            if place % 2 == 0:
                (inputs,) = recomputed(gated, gate, inputs)
            else:
                (hidden,) = recomputed(gated, gate, hidden)
        gates = enter(inputs) + recurrence(hidden) + self.bias
        hidden, cell = recomputed(advance, gates, cell)
        return hidden, (hidden, cell)


def gated(gate: Tensor, values: Tensor) -> tuple[Tensor, ...]:
    """One gating: 2 σ(g) v."""
    return (2 * gate.sigmoid() * values,)


def advance(gates: Tensor, cell: Tensor) -> tuple[Tensor, ...]:
    """i, f, g and o before their functions (B, 4 H), c → h', c'."""
    write, forget, candidate, output = gates.chunk(4, dim=-1)
    cell = forget.sigmoid() * cell + write.sigmoid() * candidate.tanh()
    return output.sigmoid() * cell.tanh(), cell
