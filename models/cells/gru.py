"""Gated recurrent unit."""

import torch
from torch import Tensor, nn

from models.cells.initial import chrono_biases, orthogonal_gates, set_gate_bias
from models.fused import FusedLayer
from models.gru_steps import gru_step, gru_steps
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
        return gru_step(entered, recurrent, *leaves(state))

    def _call(
        self, data: Tensor, batch_sizes: Tensor | None, before: list[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        # also in evaluation: nn.GRU under autocast would round the state to bf16 at every step, and
        # a memory of hundreds of steps, trained without that, would not last
        if data.device.type != "cpu" or batch_sizes is not None:
            return super()._call(data, batch_sizes, before, weights)
        forth, last = gru_steps(data, before[0][0], weights[:4])
        if len(weights) == 4:
            return forth, last[None]
        back, first = gru_steps(data.flip(1), before[0][1], weights[4:])
        return torch.cat([forth, back.flip(1)], dim=-1), torch.stack([last, first])
