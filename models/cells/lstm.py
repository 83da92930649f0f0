"""Long short-term memory."""

from torch import Tensor, nn

from models.cells.initial import chrono_biases, orthogonal_gates, set_gate_bias
from models.fused import FusedLayer
from models.state import State, leaves


class LSTM(FusedLayer):
    """LSTM with a forget gate; state (h, c), each (B, H).

    Hochreiter and Schmidhuber 1997, doi 10.1162/neco.1997.9.8.1735; the forget gate is Gers et al.
    2000, doi 10.1162/089976600300015015. A forget bias of 1 lets it remember from the first step
    (Jozefowicz et al. 2015, proceedings.mlr.press/v37/jozefowicz15).
    """

    kernel = "lstm"
    pad_column = (-1e4, 1e4, 0.0, 0.0)  # input, forget, candidate, output
    fillable = (0, 1)

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        forget_bias: float = 1.0,
        orthogonal: bool = True,
        chrono_steps: int | None = None,
    ) -> None:
        """`orthogonal=False` keeps PyTorch's uniform initial weights.

        With `chrono_steps` = T the memory lasts for 1 to T steps at the start, in place of
        `forget_bias`, and as little is written as is forgotten: see `initial.chrono_biases`.
        """
        super().__init__(rnn=nn.LSTM(input_size, hidden_size, batch_first=True))
        if orthogonal:
            orthogonal_gates(self.rnn)
        set_gate_bias(self.rnn, gate=1, value=forget_bias)
        if chrono_steps is not None:
            kept = chrono_biases(hidden_size, chrono_steps)
            set_gate_bias(self.rnn, gate=0, value=-kept)
            set_gate_bias(self.rnn, gate=1, value=kept)

    def initial_state(self, batch_size: int) -> State:
        return self.zeros(batch_size, self.output_size), self.zeros(batch_size, self.output_size)

    def gate(self, entered: Tensor, recurrent: Tensor, state: State) -> State:
        write, forget, candidate, output = (entered + recurrent).chunk(4, dim=-1)
        cell = forget.sigmoid() * leaves(state)[1] + write.sigmoid() * candidate.tanh()
        return output.sigmoid() * cell.tanh(), cell
