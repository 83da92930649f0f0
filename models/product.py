"""One matrix, many products: what a loop over time does with its recurrent weights."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def product(hidden: Tensor, matrix: Tensor) -> Tensor:
    """W h: hidden (B, H), matrix (G, H) → (B, G); or with N blocks in front of all three."""
    return hidden @ matrix.transpose(-1, -2)


class RepeatedProduct:
    """W h, or W h + b, for one W and many h, a call each.

    Equals `product(h, W) + b`, with two things done once instead of at every step: W and b are cast
    to the dtype of autocast, and their gradients are of all steps laid side by side.
    """

    def __init__(self, matrix: Tensor, bias: Tensor | None = None) -> None:
        self.pairs: list[tuple[Tensor, Tensor]] = []  # of the products: h and the gradient of W h
        self.matrix, self.bias = _Matrix.apply(matrix, bias, self.pairs)

    def __call__(self, hidden: Tensor) -> Tensor:
        return _Product.apply(hidden, self.matrix, self.bias, self.pairs)


class _Matrix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, bias: Tensor | None, pairs: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.pairs, ctx.dtype = pairs, matrix.dtype
        device = matrix.device.type
        autocast = torch.is_autocast_enabled(device) and matrix.dtype == torch.float32
        dtype = torch.get_autocast_dtype(device) if autocast else matrix.dtype
        return matrix.to(dtype, copy=True), None if bias is None else bias.to(dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        assert grads == (None, None), "the products keep their shares in `pairs`"
        if not ctx.pairs:
            return None, None, None
        hidden, slopes = (torch.cat(parts, dim=-2) for parts in zip(*ctx.pairs, strict=True))
        ctx.pairs.clear()
        of_bias = slopes.sum(-2, dtype=ctx.dtype) if ctx.needs_input_grad[1] else None
        return (slopes.transpose(-1, -2) @ hidden).to(ctx.dtype), of_bias, None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        pairs: list[tuple[Tensor, Tensor]],
    ) -> Tensor:
        narrow = hidden.to(matrix.dtype)
        ctx.save_for_backward(narrow, matrix)
        ctx.pairs, ctx.dtype = pairs, hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            if bias is None:
                return product(narrow, matrix)
            return torch.addmm(bias, narrow, matrix.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, matrix = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.pairs.append((hidden, grad))
        flow = (grad @ matrix).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return flow, None, None, None
