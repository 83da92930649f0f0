"""Minimal long short-term memory."""

from torch import Tensor, nn

from models.cells.initial import gate_bias
from models.recurrent import ScanLayer
from models.scan import linear_scan
from models.softplus import softplus


class MinLSTM(ScanLayer):
    """h' = f h + i c, where σ(W_f x) and σ(W_i x) are scaled to f + i = 1; state h (B, H).

    Feng et al. 2024, arXiv 2410.01201: an LSTM whose gates see the input alone, without output
    gate.
    """

    outputs_state = True

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

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        forget, write, candidate = self.full(self.linear(inputs)).chunk(3, dim=-1)
        # f / (f + i) = σ(log f - log i): never zero by zero
        keep = (softplus(-write) - softplus(-forget)).sigmoid()
        return keep, (1 - keep) * candidate

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update = coefficients
        return linear_scan(keep, update, before)
