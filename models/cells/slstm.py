"""Scalar LSTM with exponential gates."""

import torch
from torch import Tensor, nn

from models.cells.heads import heads_of
from models.cells.initial import orthogonal_matrix, set_rows
from models.recomputed import recomputed
from models.softplus import softplus
from models.state import State, leaves
from models.stepwise import Product, StepwiseLayer

NOTHING = -1e30  # the logarithm of what the state weighs at its start
FORGET_GATES = ("sigmoid", "exponential")


class SLSTM(StepwiseLayer):
    """c' = f c + i z, n' = f n + i, h' = o c' / n', with i = exp(..) and f = exp(..) or σ(..).

    All of c and n is kept divided by exp(m), m' = max(log f + m, log i), which changes no output
    and lets nothing overflow. The recurrent matrix has a block a head. State (h, c, n, m), each
    (B, H); a bridge fills h alone: c means nothing without its n. Beck et al. 2024, arXiv
    2405.04517, equations 8 to 17.
    """

    outputs_state = True
    recurrent = ("recurrence",)

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        heads: int = 4,
        forget_gate: str = "sigmoid",
        forget_bias: float = 1.0,
        stabilised: bool = True,
    ) -> None:
        """`heads` is an upper bound: it must divide H. `stabilised=False` keeps m at its start."""
        super().__init__(
            input_size=input_size, output_size=hidden_size, state_sizes=4 * (hidden_size,)
        )
        if forget_gate not in FORGET_GATES:
            raise ValueError(
                f"forget_gate is one of {', '.join(FORGET_GATES)}, got {forget_gate!r}"
            )
        self.forget_gate = forget_gate
        self.stabilised = stabilised
        self.heads = heads_of(hidden_size, heads)
        size = hidden_size // self.heads
        self.enter = nn.Linear(input_size, 4 * hidden_size)
        nn.init.xavier_uniform_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)
        set_rows(self.enter.bias, gate=1, gates=4, value=forget_bias)
        blocks = [orthogonal_matrix(4, size) for _ in range(self.heads)]
        self.recurrence = nn.Parameter(torch.stack(blocks))  # (heads, 4 H / heads, H / heads)

    def initial_state(self, batch_size: int) -> State:
        hidden, cell, norm, scale = leaves(super().initial_state(batch_size))
        if self.stabilised:
            scale = scale + NOTHING  # the first input alone decides m'
        return hidden, cell, norm, scale

    def project(self, inputs: Tensor) -> Tensor:
        return self.enter(inputs)

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden, cell, norm, scale = state
        (recurrence,) = products
        by_head = hidden.unflatten(-1, (self.heads, -1)).transpose(0, 1)
        recurrent = recurrence(by_head).unflatten(-1, (4, -1))  # (heads, B, 4, H / heads)
        gates = self.full(projected) + recurrent.permute(1, 2, 0, 3).flatten(1)
        hidden, *following = recomputed(self.advance, gates, cell, norm, scale)
        return hidden, (hidden, *following)

    def advance(
        self, gates: Tensor, cell: Tensor, norm: Tensor, scale: Tensor
    ) -> tuple[Tensor, ...]:
        """i, f, z and o before their functions (B, 4 H), c, n, m → h', c', n', m'."""
        write, forget, candidate, output = gates.chunk(4, dim=-1)
        if self.forget_gate == "sigmoid":
            forget = -softplus(-forget)
        kept = forget + scale
        # without the stabiliser a copy: what a function returns must not be what it was given
        scale = torch.maximum(kept, write) if self.stabilised else scale.clone()
        forget, write = torch.exp(kept - scale), torch.exp(write - scale)
        cell = forget * cell + write * candidate.tanh()
        norm = forget * norm + write
        return output.sigmoid() * cell / norm, cell, norm, scale
