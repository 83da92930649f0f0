"""Minimal gated recurrent unit."""

from torch import Tensor, nn

from models.cells.initial import gate_bias
from models.parallel import ScanLayer
from models.scan import linear_scan


class MinGRU(ScanLayer):
    """h' = (1 - z) h + z c with z = σ(W_z x) and c = W_c x; state h (B, H).

    Feng et al. 2024, arXiv 2410.01201: a GRU whose gate and candidate do not see h, so that all
    steps are one scan. Computed as it is written, without logarithms, hence with candidates of
    either sign.
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
        self.linear = nn.Linear(input_size, 2 * hidden_size)
        nn.init.xavier_uniform_(self.linear.weight)
        gate_bias(self.linear.bias, gates=2, gate=0, value=forget_bias, chrono_steps=chrono_steps)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        keep, candidate = self.full(self.linear(inputs)).chunk(2, dim=-1)
        keep = keep.sigmoid()  # 1 - z
        return keep, (1 - keep) * candidate

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update = coefficients
        return linear_scan(keep, update, before)
