"""Selective state space model."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.convolution import depthwise, windows
from models.parallel import ChunkLayer
from models.selective_scan import selective_scan
from models.softplus import softplus


class Mamba(ChunkLayer):
    """h' = exp(Δ A) h + Δ B u, y = C h + D u, with Δ, B and C computed from the input u itself.

    u is a causal convolution over W_u x, `expand` times as wide as the output, which is
    W_o (y silu(W_g x)). State: h (B, N, expand * H) and the convolution's last inputs (B,
    window - 1, expand * H). Gu and Dao 2023, arXiv 2312.00752.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        states: int = 16,
        expand: int = 2,
        window: int = 4,
        min_step: float = 1e-3,
        max_step: float = 0.1,
    ) -> None:
        """`states` is N; the steps Δ start log-uniformly between the two given."""
        inner = expand * hidden_size
        super().__init__(
            input_size=input_size, output_size=hidden_size, window=window, convolved=inner
        )
        if states < 1 or expand < 1 or window < 2:
            raise ValueError(
                "states and expand are 1 or more, window 2 or more, got "
                f"{states}, {expand} and {window}"
            )
        if not 0 < min_step <= max_step:
            raise ValueError(
                f"steps start at 0 < min_step <= max_step, got {min_step} and {max_step}"
            )
        self.states, self.inner = states, inner
        self.rank = math.ceil(hidden_size / 16)
        self.enter = nn.Linear(input_size, 2 * inner, bias=False)
        self.filters = nn.Parameter(torch.empty(window, inner).uniform_(-1, 1) / math.sqrt(window))
        self.filter_bias = nn.Parameter(torch.zeros(inner))
        self.select = nn.Linear(inner, self.rank + 2 * states, bias=False)
        self.step_size = nn.Linear(self.rank, inner)
        nn.init.uniform_(self.step_size.weight, -(self.rank**-0.5), self.rank**-0.5)
        steps = torch.empty(inner).uniform_(math.log(min_step), math.log(max_step)).exp()
        with torch.no_grad():
            self.step_size.bias.copy_(steps + torch.log(-torch.expm1(-steps)))  # softplus gives Δ
        rates = torch.arange(1, states + 1).float().log()
        self.log_rate = nn.Parameter(rates[:, None].repeat(1, inner))  # A = -exp(log_rate)
        self.skip = nn.Parameter(torch.ones(inner))  # D
        self.leave = nn.Linear(inner, hidden_size, bias=False)

    def initial_memory(self, batch_size: int) -> tuple[Tensor, ...]:
        return (self.zeros(batch_size, self.states, self.inner),)

    def coefficients(
        self, inputs: Tensor, tail: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        assert tail is not None
        entered, gate = self.enter(inputs).chunk(2, dim=-1)
        filtered = F.silu(depthwise(windows(entered, tail), self.filters, self.filter_bias))
        step, write, read = self.select(filtered).split([self.rank, self.states, self.states], -1)
        delta = softplus(self.full(self.step_size(step)))
        if valid is not None:
            delta = delta * valid[:, :, None]  # a step of no length changes nothing
        return delta, self.full(filtered), self.full(write), self.full(read), gate, entered

    def remember(
        self, coefficients: tuple[Tensor, ...], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        delta, inputs, write, read, _, _ = coefficients
        outputs, hidden = selective_scan(
            delta, inputs, -self.log_rate.exp(), write, read, memory[0]
        )
        return outputs, (hidden,)

    def readout(self, coefficients: tuple[Tensor, ...], read: Tensor) -> Tensor:
        _, inputs, _, _, gate, _ = coefficients
        return self.leave(torch.addcmul(read, inputs, self.skip) * F.silu(gate))
