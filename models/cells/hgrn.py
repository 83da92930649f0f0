"""Hierarchically gated recurrent network."""

import torch.nn.functional as F
from torch import Tensor, nn

from models.cells.initial import gate_bias
from models.recurrent import ScanLayer
from models.scan import linear_scan


class HGRN(ScanLayer):
    """h' = f h + (1 - f) silu(W_c x) with f = γ + (1 - γ) σ(W_f x); output W_o (norm(h) σ(W_g x)).

    `lower_bound` is γ, below which no forget gate falls: small in lower layers, nearer to one in
    upper ones, so that these remember longer. State h (B, H). Qin et al. 2023, arXiv 2311.04823,
    without its rotation of h by a constant angle, which HGRN2 (arXiv 2404.07904) leaves out too.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        lower_bound: float = 0.0,
        forget_bias: float = 1.0,
        chrono_steps: int | None = None,
    ) -> None:
        """How much is kept at the start: see `models.cells.initial.gate_bias`."""
        super().__init__(input_size=input_size, output_size=hidden_size, state_size=hidden_size)
        if not 0 <= lower_bound < 1:
            raise ValueError(f"lower_bound is at least 0 and below 1, got {lower_bound}")
        self.lower_bound = lower_bound
        self.linear = nn.Linear(input_size, 3 * hidden_size)
        nn.init.xavier_uniform_(self.linear.weight)
        gate_bias(self.linear.bias, gates=3, gate=0, value=forget_bias, chrono_steps=chrono_steps)
        self.norm = nn.LayerNorm(hidden_size)
        self.leave = nn.Linear(hidden_size, hidden_size)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        forget, candidate, gate = self.full(self.linear(inputs)).chunk(3, dim=-1)
        keep = self.lower_bound + (1 - self.lower_bound) * forget.sigmoid()
        return keep, (1 - keep) * F.silu(candidate), gate

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update, *_ = coefficients
        return linear_scan(keep, update, before)

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        return self.leave(self.norm(hidden) * coefficients[2].sigmoid())
