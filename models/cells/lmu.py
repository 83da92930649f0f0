"""Legendre memory unit."""

import torch
from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix
from models.recurrent import Product, StepwiseLayer


class LMU(StepwiseLayer):
    """h' = tanh(W_x x + W_h h + W_m m'), m' = A m + B u, u = e_x x + e_h h + e_m m.

    m are the coefficients, in Legendre polynomials up to `order`, of the last `window` values of
    u: A and B are fixed. State (h, m), (B, H) and (B, order). Voelker et al. 2019,
    proceedings.neurips.cc 952285b9b7e7a1be5aa7849f32ffff05.
    """

    outputs_state = True
    recurrent = ("recurrence",)
    other = ("of_memory",)

    def __init__(
        self, *, input_size: int, hidden_size: int, order: int = 64, window: int = 256
    ) -> None:
        """`window` is θ of the paper, in steps."""
        super().__init__(
            input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size, order)
        )
        if order < 1 or window < 1:
            raise ValueError(f"order and window are 1 or more, got {order} and {window}")
        self.order = order
        self.enter = nn.Linear(input_size, hidden_size + 1)  # W_x and e_x
        nn.init.xavier_uniform_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)
        self.recurrence = nn.Parameter(
            torch.cat([orthogonal_matrix(1, hidden_size), torch.zeros(1, hidden_size)])
        )  # W_h and e_h
        self.read = nn.Parameter(torch.empty(hidden_size, order))  # W_m
        nn.init.xavier_normal_(self.read)
        self.encoder = nn.Parameter(torch.zeros(1, order))  # e_m
        transition, entry = legendre_delay(order, window)
        self.transition: Tensor
        self.entry: Tensor
        self.register_buffer("transition", transition, persistent=False)
        self.register_buffer("entry", entry, persistent=False)

    @property
    def of_memory(self) -> Tensor:
        """What a memory m gives the next step: W_m A m and e_m m in one product (H + 1, order)."""
        return torch.cat([self.read @ self.transition, self.encoder])

    def project(self, inputs: Tensor) -> Tensor:
        return self.full(self.enter(inputs))

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden, memory), (recurrence, of_memory) = state, products
        both = projected + recurrence(hidden) + of_memory(memory)
        written = self.full(both[:, -1:])
        with torch.autocast(memory.device.type, enabled=False):  # a memory must not be rounded
            memory = torch.addcmul(memory @ self.transition.t(), written, self.entry)
            # W_m m' = W_m A m, which `both` holds, and W_m B u
            hidden = torch.addcmul(both[:, :-1], written, self.read @ self.entry).tanh()
        return hidden, (hidden, memory)


def legendre_delay(order: int, window: int) -> tuple[Tensor, Tensor]:
    """A (order, order) and B (order,) of one step: a delay line of `window` steps, held constant
    between two (zero-order hold).
    """
    place = torch.arange(order, dtype=torch.float64)
    scale = (2 * place + 1)[:, None]
    row, column = place[:, None], place[None, :]
    sign = torch.where(row < column, -1.0, (-1.0) ** (row - column + 1))
    flow = sign * scale
    entry = scale * ((-1.0) ** row)
    joined = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    joined[:order, :order] = flow / window
    joined[:order, order:] = entry / window
    step = torch.linalg.matrix_exp(joined)  # of both at once: no inverse of A is needed
    return step[:order, :order].float(), step[:order, order].float()
