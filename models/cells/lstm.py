"""Long short-term memory."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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

    def _call(
        self, data: Tensor, batch_sizes: Tensor | None, before: list[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        if data.device.type == "cpu" and torch.is_autocast_enabled("cpu") and not _has_kernel():
            with torch.autocast("cpu", enabled=False):
                return super()._call(self.full(data), batch_sizes, before, weights)
        return super()._call(data, batch_sizes, before, weights)

    def gate(self, entered: Tensor, recurrent: Tensor, state: State) -> State:
        hidden, cell = _Gates.apply(entered + recurrent, leaves(state)[1])
        return hidden, cell


def _has_kernel() -> bool:
    """Whether oneDNN's LSTM runs in autocast's dtype: not in bf16 on processors without AVX-512."""
    half = torch.get_autocast_dtype("cpu") == torch.float16
    known = torch.ops.mkldnn
    return bool(known._is_mkldnn_fp16_supported() if half else known._is_mkldnn_bf16_supported())


class _Gates(torch.autograd.Function):
    """c' = σ(f) c + σ(i) tanh(g), h' = σ(o) tanh(c'): one node of the graph in place of ten."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        size = cell.size(-1)
        gates = gates.clone()
        gates[:, : 2 * size].sigmoid_()
        gates[:, 2 * size : 3 * size].tanh_()
        gates[:, 3 * size :].sigmoid_()
        write, forget, candidate, output = gates.chunk(4, dim=-1)
        after = (forget * cell).addcmul_(write, candidate)
        shown = after.tanh()
        ctx.save_for_backward(gates, cell, shown)
        return output * shown, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hidden: Tensor, d_after: Tensor) -> tuple[Tensor, Tensor]:
        gates, cell, shown = ctx.saved_tensors
        write, forget, candidate, output = gates.chunk(4, dim=-1)
        d_cell = torch.addcmul(d_after, d_hidden * output, 1.0 - shown.square())
        slopes = torch.empty_like(gates)
        of_write, of_forget, of_candidate, of_output = slopes.chunk(4, dim=-1)
        torch.mul(d_cell * candidate, write - write.square(), out=of_write)
        torch.mul(d_cell * cell, forget - forget.square(), out=of_forget)
        torch.mul(d_cell * write, 1.0 - candidate.square(), out=of_candidate)
        torch.mul(d_hidden * shown, output - output.square(), out=of_output)
        return slopes, d_cell * forget
