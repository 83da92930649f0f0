"""Gated recurrent unit."""

from torch import Tensor, nn

from models.cells.initial import chrono_biases, orthogonal_gates, set_gate_bias
from models.fused import FusedLayer
from models.state import State, leaves


class GRU(FusedLayer):
    """GRU as cuDNN computes it, reset after the product; state h (B, H).

    Cho et al. 2014, arXiv 1406.1078.
    """

    kernel = "gru"
    pad_column = (0.0, 1e4, 0.0)  # reset, update, candidate

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        orthogonal: bool = True,
        chrono_steps: int | None = None,
    ) -> None:
        """`orthogonal=False` keeps PyTorch's uniform initial weights.

        With `chrono_steps` = T the state lasts for 1 to T steps at the start: see
        `initial.chrono_biases`.
        """
        super().__init__(rnn=nn.GRU(input_size, hidden_size, batch_first=True))
        if orthogonal:
            orthogonal_gates(self.rnn)
        if chrono_steps is not None:
            kept = chrono_biases(hidden_size, chrono_steps)
            set_gate_bias(self.rnn, gate=1, value=kept)

    def gate(self, entered: Tensor, recurrent: Tensor, state: State) -> State:
        (hidden,) = leaves(state)
        pairs = zip(entered.chunk(3, dim=-1), recurrent.chunk(3, dim=-1), strict=True)
        (a, b), (c, d), (e, f) = pairs
        candidate = (e + (a + b).sigmoid() * f).tanh()
        return candidate + (c + d).sigmoid() * (hidden - candidate)
