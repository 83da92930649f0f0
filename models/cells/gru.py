"""Gated recurrent unit."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models import loops
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
        return _Step.apply(entered, recurrent, *leaves(state))

    def _call(
        self, data: Tensor, batch_sizes: Tensor | None, before: list[Tensor], weights: list[Tensor]
    ) -> tuple[Tensor, ...]:
        if data.device.type != "cpu" or batch_sizes is not None:
            return super()._call(data, batch_sizes, before, weights)
        return loops.run(loops.gru_loop, data, before[0], weights)


class _Step(torch.autograd.Function):
    """h' = (1 - z) n + z h with n = tanh(x_n + r p_n), r and z = σ(x + p); p = U h + c."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
        size = hidden.size(1)
        dtype = hidden.dtype
        gates = torch.add(projected[:, : 2 * size].to(dtype), product[:, : 2 * size]).sigmoid_()
        reset, update = gates.split(size, dim=1)
        inner = product[:, 2 * size :].to(dtype)
        candidate = torch.addcmul(projected[:, 2 * size :].to(dtype), reset, inner).tanh_()
        ctx.save_for_backward(gates, inner, candidate, hidden)
        ctx.dtypes = projected.dtype, product.dtype
        return torch.lerp(candidate, hidden, update)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        gates, inner, candidate, hidden = ctx.saved_tensors
        rows, size = hidden.shape
        reset, update = gates.split(size, dim=1)
        of_hidden = grad * update
        slopes = gates.new_empty(rows, 4 * size)  # of r, z, n and the product's share in n
        of_candidate = slopes[:, 2 * size : 3 * size]
        torch.sub(grad, of_hidden, out=of_candidate)  # (1 - z) of it
        of_candidate.addcmul_(of_candidate * candidate, candidate, value=-1)
        torch.mul(of_candidate, inner, out=slopes[:, :size])
        torch.mul(grad, hidden - candidate, out=slopes[:, size : 2 * size])
        torch.mul(of_candidate, reset, out=slopes[:, 3 * size :])
        both = slopes[:, : 2 * size]
        both.mul_(torch.addcmul(gates, gates, gates, value=-1))
        of_projected, of_product = ctx.dtypes
        to_product = torch.cat([both, slopes[:, 3 * size :]], dim=1).to(of_product)
        return slopes[:, : 3 * size].to(of_projected), to_product, of_hidden
