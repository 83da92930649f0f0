"""Plain recurrent network that starts as an identity."""

import torch
from torch import nn

from models.cells.rnn import RNN


class IRNN(RNN):
    """h' = relu(W x + U h + b) with U = `scale` times the identity and b = 0; state h (B, H).

    Le et al. 2015, arXiv 1504.00941; W is drawn with deviation 0.001 as there.
    """

    def __init__(
        self, *, input_size: int, hidden_size: int, scale: float = 1.0, input_std: float = 0.001
    ) -> None:
        super().__init__(input_size=input_size, hidden_size=hidden_size, nonlinearity="relu")
        if input_std < 0:
            raise ValueError(f"input_std is 0 or more, got {input_std}")
        weight_ih, weight_hh, *biases = self.rnn.parameters()
        nn.init.normal_(weight_ih, std=input_std)
        with torch.no_grad():
            nn.init.eye_(weight_hh).mul_(scale)
        for bias in biases:
            nn.init.zeros_(bias)
