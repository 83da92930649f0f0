"""Long short-term memory with layer normalisation."""

from torch import Tensor, nn
from torch.nn.functional import layer_norm

from models.cells.initial import orthogonal_matrix, set_rows
from models.recomputed import recomputed
from models.stepwise import Product, StepwiseLayer


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
        norms = self.norm_hidden.weight, self.norm_cell.weight, self.norm_cell.bias
        hidden, cell = recomputed(self.advance, projected, recurrence(hidden), cell, *norms)
        return hidden, (hidden, cell)

    def advance(
        self,
        projected: Tensor,
        recurrent: Tensor,
        cell: Tensor,
        of_hidden: Tensor,
        of_cell: Tensor,
        bias_of_cell: Tensor,
    ) -> tuple[Tensor, ...]:
        """Both shares of the gates (B, 4 H), c, the weights of the normalisations → h', c'."""
        gates = projected + layer_norm(self.full(recurrent), of_hidden.shape, of_hidden)
        write, forget, candidate, output = gates.chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + write.sigmoid() * candidate.tanh()
        normed = layer_norm(cell, of_cell.shape, of_cell, bias_of_cell)
        return output.sigmoid() * normed.tanh(), cell
