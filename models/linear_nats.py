"""The negative log-likelihood of each row behind a linear layer, without all logits at once.

What `models.cross_entropy` is for a sum of rows, for those who weigh each row by something that
needs a gradient of its own: here gradients are made on the way back, from logits computed anew.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.cross_entropy import IGNORED, rows_at_a_time


def linear_nats(rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """Rows (N, D), weight (V, D), bias (V,), targets (N,) → nats (N,) in float32; 0 where IGNORED.

    Equals `plain_nats`; float64 stays float64. Has a first derivative only.
    """
    nats: Tensor = LinearNats.apply(rows, weight, bias, targets)
    return nats


def plain_nats(rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor) -> Tensor:
    """What `linear_nats` equals."""
    logits = F.linear(rows, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, targets, reduction="none", ignore_index=IGNORED)


class LinearNats(torch.autograd.Function):
    """Keeps each row's normaliser, (N,), and nothing as wide as the vocabulary."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        device = rows.device.type
        ctx.narrow = rows.dtype  # of the products: what autocast would choose
        if torch.is_autocast_enabled(device):
            ctx.narrow = torch.get_autocast_dtype(device)
        wide = torch.promote_types(rows.dtype, torch.float32)
        counts = targets != IGNORED
        ids = targets.masked_fill(~counts, 0)[:, None]
        normaliser = torch.empty(len(rows), dtype=wide, device=rows.device)
        chosen = torch.empty_like(normaliser)
        small, _ = rows_at_a_time(device, weight.size(0))
        with torch.autocast(device, enabled=False):
            matrix, offset = _narrow(weight, bias, ctx.narrow)
            for start in range(0, len(rows), small):
                part = slice(start, start + small)
                logits = F.linear(rows[part].to(ctx.narrow), matrix, offset).to(wide)
                normaliser[part] = logits.logsumexp(-1)
                chosen[part] = logits.gather(1, ids[part])[:, 0]
        ctx.save_for_backward(rows, weight, bias, ids, counts, normaliser)
        return (normaliser - chosen).masked_fill(~counts, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, bias, ids, counts, normaliser = ctx.saved_tensors
        device, needed = rows.device.type, ctx.needs_input_grad[:3]
        grad = grad.masked_fill(~counts, 0.0)[:, None]
        small, large = rows_at_a_time(device, weight.size(0))
        d_rows = torch.empty_like(rows) if needed[0] else None
        d_weight = torch.zeros_like(weight) if needed[1] else None
        d_bias = torch.zeros_like(bias, dtype=normaliser.dtype) if needed[2] else None
        with torch.autocast(device, enabled=False):
            matrix, offset = _narrow(weight, bias, ctx.narrow)
            for start in range(0, len(rows), large):
                block = rows[start : start + large].to(ctx.narrow)
                slopes = block.new_empty(len(block), weight.size(0))
                for place in range(0, len(block), small):
                    end = min(place + small, len(block))
                    inside, part = slice(place, end), slice(start + place, start + end)
                    logits = F.linear(block[inside], matrix, offset).to(normaliser.dtype)
                    chances = logits.sub_(normaliser[part, None]).exp_()
                    chances.scatter_add_(1, ids[part], -torch.ones_like(grad[part]))
                    chances *= grad[part]
                    slopes[inside] = chances
                    if d_bias is not None:
                        d_bias += chances.sum(0)
                if d_rows is not None:
                    d_rows[start : start + large] = slopes @ matrix
                if d_weight is not None:
                    d_weight += slopes.t() @ block
        return d_rows, d_weight, None if d_bias is None else d_bias.to(bias.dtype), None


def _narrow(weight: Tensor, bias: Tensor | None, to: torch.dtype) -> tuple[Tensor, Tensor | None]:
    return weight.to(to), None if bias is None else bias.to(to)
