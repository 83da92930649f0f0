"""Long short-term memory with layer normalisation."""

from torch import Tensor, nn

from models.cells.initial import orthogonal_matrix, set_rows
from models.recurrent import Product, StepwiseLayer


class LayerNormLSTM(StepwiseLayer):
    """Gates LN(W x) + LN(U h) + b, c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(LN(c')).

    State (h, c), each (B, H). Ba et al. 2016, arXiv 1607.06450, equations 20 to 22.
    """

    fillable = (0, 1)
    outputs_state = True
    recurrent = ("recurrence",)

    def __init__(self, *, input_size: int, hidden_size: int, forget_bias: float = 1.0) -> None:
        super().__init__(
            input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size, hidden_size)
        )
        self.enter = nn.Linear(input_size, 4 * hidden_size, bias=False)
        nn.init.xavier_uniform_(self.enter.weight)
        self.recurrence = nn.Parameter(orthogonal_matrix(4, hidden_size))
        self.norm_input = nn.LayerNorm(4 * hidden_size)  # its bias is b
        self.norm_hidden = nn.LayerNorm(4 * hidden_size, bias=False)
        self.norm_cell = nn.LayerNorm(hidden_size)
        set_rows(self.norm_input.bias, gate=1, gates=4, value=forget_bias)

    def project(self, inputs: Tensor) -> Tensor:
        return self.full(self.norm_input(self.enter(inputs)))

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple[Product, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (hidden, cell), (recurrence,) = state, products
        gates = projected + self.norm_hidden(recurrence(hidden))
        write, forget, candidate, output = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + write.sigmoid() * candidate.tanh()
        hidden = output.sigmoid() * self.norm_cell(cell).tanh()
        return hidden, (hidden, cell)
