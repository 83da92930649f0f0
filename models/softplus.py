"""log(1 + exp(x)), several times as fast as PyTorch's on a processor."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def softplus(values: Tensor) -> Tensor:
    """log(1 + exp(x)) of any shape, to the precision of its dtype for x of either sign.

    On processors exp and log are vectorised; PyTorch's softplus, logsigmoid and log1p are not.
    """
    return _Softplus.apply(values)


class _Softplus(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        small = values.abs().neg_().exp_()  # u = exp(-|x|), at most 1
        whole = small + 1
        # log(1 + u) = u log(w) / (w - 1) for w = 1 + u as rounded: the error of w cancels
        # (Goldberg 1991, doi 10.1145/103162.103163, theorem 4); where w is 1 the ratio is 1
        rest = whole - 1
        ratio = whole.log_().div_(rest).masked_fill_(rest == 0, 1)
        return small.mul_(ratio).add_(values.clamp(min=0))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        return values.sigmoid().mul_(grad)
