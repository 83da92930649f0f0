"""Cheap algebra that keeps nothing for its gradient but what goes in."""

from collections.abc import Callable
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def recomputed(function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
    """`function(*tensors)`, which is computed again when gradients are due.

    A step of a dozen elementwise operations would keep a dozen tensors at every step. `function`
    must need gradients of its arguments alone and draw no random numbers.
    """
    if not torch.is_grad_enabled():  # nor has ONNX such nodes
        return function(*tensors)
    return _Recomputed.apply(function, *tensors)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.function = function
        ctx.save_for_backward(*tensors)
        return function(*tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            given = [
                tensor.detach().requires_grad_(need)
                for tensor, need in zip(ctx.saved_tensors, needs, strict=True)
            ]
            outputs = ctx.function(*given)
        wanted = [tensor for tensor in given if tensor.requires_grad]
        depends = [
            output.requires_grad for output in outputs
        ]  # one may be a copy of what needs none
        outputs, slopes = (tuple(compress(parts, depends)) for parts in (outputs, slopes))
        found = iter(torch.autograd.grad(outputs, wanted, slopes, allow_unused=True))
        return None, *(next(found) if need else None for need in needs)
