"""Simple recurrent unit."""

import math

import torch
from torch import Tensor, nn

from models.cells.initial import gate_bias
from models.parallel import ScanLayer
from models.scan import elementwise_scan


class SRU(ScanLayer):
    """f = σ(W_f x + v_f c), c' = f c + (1 - f) W x, r = σ(W_r x + v_r c), h = r c' + (1 - r) α x.

    The gates see the state through vectors v alone, so that every feature goes its own way. State
    c (B, H). Lei et al. 2018, arXiv 1709.02755; a projection stands in for x where I is not H.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        forget_bias: float = 1.0,
        chrono_steps: int | None = None,
    ) -> None:
        """How much is kept at the start: see `models.cells.initial.gate_bias`."""
        super().__init__(input_size=input_size, output_size=hidden_size, state_size=hidden_size)
        self.linear = nn.Linear(input_size, 3 * hidden_size)
        nn.init.xavier_uniform_(self.linear.weight)
        gate_bias(self.linear.bias, gates=3, gate=0, value=forget_bias, chrono_steps=chrono_steps)
        bound = 1 / math.sqrt(hidden_size)
        self.peephole = nn.Parameter(torch.empty(2, hidden_size).uniform_(-bound, bound))
        same = input_size == hidden_size
        self.skip = nn.Identity() if same else nn.Linear(input_size, hidden_size, bias=False)
        self.scale = math.sqrt(3.0)  # α: outputs as large as inputs at the start, with r = 1/2

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        forget, candidate, reset = self.full(self.linear(inputs)).chunk(3, dim=-1)
        return forget, candidate, reset, self.full(self.skip(inputs))

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        forget, candidate, _, _ = coefficients
        return elementwise_scan(advance, (forget, candidate), before, [self.peephole[0]])

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        _, _, reset, skip = coefficients
        previous = torch.cat([before.unsqueeze(1), hidden[:, :-1]], dim=1)
        gate = torch.addcmul(reset, previous, self.peephole[1]).sigmoid()
        return torch.lerp(self.scale * skip, hidden, gate)


def advance(state: Tensor, forget: Tensor, candidate: Tensor, peephole: Tensor) -> Tensor:
    """c → c'."""
    return torch.lerp(candidate, state, torch.addcmul(forget, state, peephole).sigmoid())
