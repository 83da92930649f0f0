"""Quasi-recurrent network."""

import torch
from torch import Tensor, nn

from models.cells.initial import gate_bias
from models.convolution import windows
from models.parallel import ScanLayer
from models.scan import linear_scan


class QRNN(ScanLayer):
    """Gates from a convolution over the last inputs, c' = f c + (1 - f) z, h = o c (fo-pooling).

    State: c (B, H) and the last inputs (B, window - 1, I). Bradbury et al. 2016, arXiv 1611.01576.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        window: int = 2,
        forget_bias: float = 1.0,
        chrono_steps: int | None = None,
    ) -> None:
        """`window` inputs are read by each gate; forget_bias and chrono_steps: see gate_bias."""
        if window < 1:
            raise ValueError(f"window is 1 or more, got {window}")
        super().__init__(
            input_size=input_size,
            output_size=hidden_size,
            state_size=hidden_size,
            window=window,
            convolved=input_size,
        )
        self.linear = nn.Linear(window * input_size, 3 * hidden_size)
        nn.init.xavier_uniform_(self.linear.weight)
        gate_bias(self.linear.bias, gates=3, gate=0, value=forget_bias, chrono_steps=chrono_steps)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        read = inputs if tail is None else torch.cat(windows(inputs, tail), dim=-1)
        keep, candidate, output = self.full(self.linear(read)).chunk(3, dim=-1)
        keep = keep.sigmoid()
        return keep, (1 - keep) * candidate.tanh(), output.sigmoid(), inputs

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update, *_ = coefficients
        return linear_scan(keep, update, before)

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        return coefficients[2] * hidden
