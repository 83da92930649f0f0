"""Legendre memory unit."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix
from models.stepwise import Product, StepwiseLayer


class LMU(StepwiseLayer):
    """h' = tanh(W_x x + W_h h + W_m m'), m' = A m + B u, u = e_x x + e_h h + e_m m.

    m are the coefficients, in Legendre polynomials up to `order`, of the last `window` values of
    u: A and B are fixed. State (h, m), (B, H) and (B, order). Voelker et al. 2019,
    proceedings.neurips.cc 952285b9b7e7a1be5aa7849f32ffff05.
    """

    outputs_state = True
    recurrent = ("recurrence",)

    def __init__(
        self, *, input_size: int, hidden_size: int, order: int = 64, window: int = 256
    ) -> None:
        """`window` is θ of the paper, in steps."""
        super().__init__(
            input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size, order)
        )
        if not 1 <= order <= 10_000 or window < 1:
            raise ValueError(f"order is 1 to 10000 and window 1 or more, got {order} and {window}")
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

    def project(self, inputs: Tensor) -> Tensor:
        weight, bias = self._whole(self.enter.weight), self._whole(self.enter.bias[:, None])
        return self.full(F.linear(inputs, weight, bias.squeeze(1)))

    def matrices(self) -> list[Tensor]:
        """What h and m, side by side, give h' and u: one matrix (H + 1, H + order)."""
        of_memory = torch.cat([self.read @ self.transition, self.encoder])
        return [self._whole(torch.cat([self.recurrence, of_memory], dim=1))]

    def _whole(self, rows: Tensor) -> Tensor:
        """Rows (H + 1, ·) of h' and, last, of u → the same, with W_m B u added to those of h'.

        W_m m' is W_m A m + W_m B u: h' then needs no product with m', which would have to wait.
        """
        reach = (self.read @ self.entry)[:, None]
        return torch.cat([torch.addcmul(rows[:-1], reach, rows[-1:]), rows[-1:]])

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden, memory), (product,) = state, products
        both = projected + product(torch.cat([hidden, memory], dim=1))
        hidden = torch.tanh(both[:, :-1])
        with torch.autocast(memory.device.type, enabled=False):  # a memory must not be rounded
            memory = torch.addcmul(memory @ self.transition.t(), both[:, -1:], self.entry)
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
