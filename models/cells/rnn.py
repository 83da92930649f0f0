"""The plain recurrent network."""

from functools import partial

import torch
from torch import Tensor, nn

from models import loops
from models.cells.initial import orthogonal_gates
from models.fused import FusedLayer
from models.state import State

NONLINEARITIES = ("tanh", "relu")


class RNN(FusedLayer):
    """h' = f(W x + U h + b) with f tanh or relu; state h (B, H).

    Elman 1990, doi 10.1207/s15516709cog1402_1.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        nonlinearity: str = "tanh",
        orthogonal: bool = True,
    ) -> None:
        """`orthogonal=False` keeps PyTorch's uniform initial weights."""
        if nonlinearity not in NONLINEARITIES:
            raise ValueError(
                f"nonlinearity is one of {', '.join(NONLINEARITIES)}, got {nonlinearity!r}"
            )
        super().__init__(
            rnn=nn.RNN(input_size, hidden_size, nonlinearity=nonlinearity, batch_first=True)
        )
        self.kernel = f"rnn_{nonlinearity}"
        if orthogonal:
            orthogonal_gates(self.rnn)

    def gate(self, entered: Tensor, recurrent: Tensor, state: State) -> State:
        activation = torch.tanh if self.rnn.nonlinearity == "tanh" else torch.relu
        return activation(entered + recurrent)

    def _call(
        self, data: Tensor, batch_sizes: Tensor | None, before: list[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        if data.device.type != "cpu" or batch_sizes is not None:
            return super()._call(data, batch_sizes, before, weights)
        loop = partial(loops.rnn_loop, nonlinearity=str(self.rnn.nonlinearity))
        return loops.run(loop, data, before[0], weights)
