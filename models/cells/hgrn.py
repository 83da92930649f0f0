"""Hierarchically gated recurrent network."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cells.initial import gate_bias
from models.parallel import ScanLayer
from models.scan import linear_scan, rotating_scan


class HGRN(ScanLayer):
    """h' = f h + (1 - f) silu(W_c x) with f = γ + (1 - γ) σ(W_f x); output W_o (norm(h) σ(W_g x)).

    `lower_bound` is γ, below which no forget gate falls: small in lower layers, nearer to one in
    upper ones, so that these remember longer. With `rotation` h and the candidate are complex and
    h' = f exp(iθ) h + (1 - f) c: each feature also turns by an angle of its own at every step, and
    so knows how many steps ago something came. State h (B, H), or real and imaginary parts
    (B, 2 H). Qin et al. 2023, arXiv 2311.04823; HGRN2 (arXiv 2404.07904) has no rotation.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        lower_bound: float = 0.0,
        forget_bias: float = 1.0,
        chrono_steps: int | None = None,
        rotation: bool = False,
    ) -> None:
        """How much is kept at the start: see `models.cells.initial.gate_bias`.

        The angles start uniformly around the circle.
        """
        parts = 2 if rotation else 1
        state_size = parts * hidden_size
        super().__init__(input_size=input_size, output_size=hidden_size, state_size=state_size)
        if not 0 <= lower_bound < 1:
            raise ValueError(f"lower_bound is at least 0 and below 1, got {lower_bound}")
        self.lower_bound = lower_bound
        self.sizes = (hidden_size, state_size, state_size)  # of forget gate, candidate, output gate
        self.linear = nn.Linear(input_size, sum(self.sizes))
        nn.init.xavier_uniform_(self.linear.weight)
        gates = len(self.linear.bias) // hidden_size
        gate_bias(
            self.linear.bias, gates=gates, gate=0, value=forget_bias, chrono_steps=chrono_steps
        )
        angles = torch.empty(hidden_size).uniform_(0, 2 * math.pi) if rotation else None
        self.angle = None if angles is None else nn.Parameter(angles)  # θ
        self.norm = nn.LayerNorm(state_size)
        self.leave = nn.Linear(state_size, hidden_size)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        forget, candidate, gate = self.full(self.linear(inputs)).split(self.sizes, dim=-1)
        keep = self.lower_bound + (1 - self.lower_bound) * forget.sigmoid()
        fresh = 1 - keep if self.angle is None else (1 - keep).repeat_interleave(2, dim=-1)
        return keep, fresh * F.silu(candidate), gate

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update, *_ = coefficients
        if self.angle is None:
            return linear_scan(keep, update, before)
        return rotating_scan(keep, self.angle, update, before)

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        return self.leave(self.norm(hidden) * coefficients[2].sigmoid())
