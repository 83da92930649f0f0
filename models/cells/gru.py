"""Gated recurrent unit."""

from torch import nn

from models.cells.initial import orthogonal_gates
from models.fused import FusedLayer


class GRU(FusedLayer):
    """GRU as cuDNN computes it, reset after the product; state h (B, H).

    Cho et al. 2014, arXiv 1406.1078.
    """

    kernel = "gru"
    pad_column = (0.0, 1e4, 0.0)  # reset, update, candidate

    def __init__(self, *, input_size: int, hidden_size: int, orthogonal: bool = True) -> None:
        """`orthogonal=False` keeps PyTorch's uniform initial weights."""
        super().__init__(rnn=nn.GRU(input_size, hidden_size, batch_first=True))
        if orthogonal:
            orthogonal_gates(self.rnn)
