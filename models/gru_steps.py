"""A GRU's steps on a processor, where PyTorch has no kernel for its training.

nn.GRU there records a dozen operations a step. Here the inputs' share is one product for all steps,
the gradient of the recurrent matrix one for all, and what lies between is one function with a
written gradient. `nn.GRU` is the twin that tests hold it to.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.product import RepeatedProduct


def gru_steps(inputs: Tensor, hidden: Tensor, weights: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(B, T, I), (B, H), weights as nn.GRU has them: W, U, b, c → all h (B, T, H), the last."""
    weight, recurrent, bias, bias_hidden = weights
    product = RepeatedProduct(recurrent, bias_hidden)
    outputs = []
    for projected in F.linear(inputs, weight, bias).unbind(1):
        hidden = gru_step(projected, product(hidden), hidden)
        outputs.append(hidden)
    return torch.stack(outputs, dim=1), hidden


def gru_step(projected: Tensor, product: Tensor, hidden: Tensor) -> Tensor:
    """W x + b and U h + c (B, 3 H), h (B, H) → h'."""
    return _Step.apply(projected, product, hidden)


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
