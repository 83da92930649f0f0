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
    to the dtype of autocast, and their gradients are of many steps laid side by side.
    """

    def __init__(self, matrix: Tensor, bias: Tensor | None = None) -> None:
        self.shares = _Shares(matrix.dtype, biased=bias is not None)
        self.matrix, self.bias = _Matrix.apply(matrix, bias, self.shares)

    def __call__(self, hidden: Tensor) -> Tensor:
        return _Product.apply(hidden, self.matrix, self.bias, self.shares)


SPAN = 256  # steps whose shares of the gradient are one product; more would be kept to the end


class _Shares:
    """The gradients of W and b (in `dtype`) as the products come back, the last step first."""

    def __init__(self, dtype: torch.dtype, biased: bool) -> None:
        self.dtype = dtype
        self.biased = biased
        self.pairs: list[tuple[Tensor, Tensor]] = []  # h and the gradient of W h
        self.sums: list[Tensor] = []  # of W, and of b where there is one, of the pairs before

    def add(self, hidden: Tensor, slope: Tensor) -> None:
        self.pairs.append((hidden, slope))
        if len(self.pairs) == SPAN:
            self.fold()

    def fold(self) -> None:
        hidden, slopes = (torch.cat(parts, dim=-2) for parts in zip(*self.pairs, strict=True))
        self.pairs.clear()
        found = [(slopes.transpose(-1, -2) @ hidden).to(self.dtype)]
        if self.biased:
            found.append(slopes.sum(-2, dtype=self.dtype))
        self.sums = [a + b for a, b in zip(self.sums, found, strict=True)] if self.sums else found

    def take(self) -> tuple[Tensor | None, Tensor | None]:
        """What there is, None where there is nothing, and begin anew."""
        if self.pairs:
            self.fold()
        of_matrix, of_bias, *_ = *self.sums, None, None
        self.sums = []
        return of_matrix, of_bias


class _Matrix(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, matrix: Tensor, bias: Tensor | None, shares: _Shares
    ) -> tuple[Tensor, Tensor | None]:
        ctx.set_materialize_grads(False)
        ctx.shares = shares
        device = matrix.device.type
        autocast = torch.is_autocast_enabled(device) and matrix.dtype == torch.float32
        dtype = torch.get_autocast_dtype(device) if autocast else matrix.dtype
        return matrix.to(dtype, copy=True), None if bias is None else bias.to(dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        assert grads == (None, None), "the products keep their shares in `shares`"
        return *ctx.shares.take(), None


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        matrix: Tensor,
        bias: Tensor | None,
        shares: _Shares,
    ) -> Tensor:
        narrow = hidden.to(matrix.dtype)
        ctx.save_for_backward(narrow, matrix)
        ctx.shares, ctx.dtype = shares, hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            if bias is None:
                return product(narrow, matrix)
            return torch.addmm(bias, narrow, matrix.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, matrix = ctx.saved_tensors
        if ctx.needs_input_grad[1]:
            ctx.shares.add(hidden, grad)
        flow = (grad @ matrix).to(ctx.dtype) if ctx.needs_input_grad[0] else None
        return flow, None, None, None
