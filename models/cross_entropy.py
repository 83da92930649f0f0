"""A linear layer and the cross-entropy behind it as one function.

The logits of a large vocabulary are the largest tensor of a language model by far. Here they exist
a few rows at a time, while the cache still holds them, and become gradients in place.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

IGNORED = -100  # a target of this counts for nothing
CACHED = 2**20  # logits in work at a time on a processor: 4 MB in float32
HELD = 2**25  # gradients of logits held at a time on a processor: 134 MB in float32
HELD_ON_GPU = 2**27


def linear_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Rows (N, D), weight (V, D), bias (V,), targets (N,) → the sum of nats, a float32 scalar.

    Equals `plain_cross_entropy`; float64 stays float64. Has a first derivative only.
    """
    return LinearCrossEntropy.apply(rows, weight, bias, targets, label_smoothing)


def plain_cross_entropy(
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """What `linear_cross_entropy` equals."""
    logits = F.linear(rows, weight, bias)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(
        logits, targets, reduction="sum", ignore_index=IGNORED, label_smoothing=label_smoothing
    )


class LinearCrossEntropy(torch.autograd.Function):
    """Gradients are made on the way forward, from each piece of the logits while it is there."""

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        label_smoothing: float,
    ) -> Tensor:
        device = rows.device.type
        narrow = rows.dtype  # of the products: what autocast would choose
        if torch.is_autocast_enabled(device):
            narrow = torch.get_autocast_dtype(device)
        wide = torch.promote_types(rows.dtype, torch.float32)  # of the softmax and of all sums
        needed = ctx.needs_input_grad[:3]
        vocabulary = weight.size(0)
        small, large = rows_at_a_time(device, vocabulary)
        with torch.autocast(device, enabled=False):
            matrix = weight.to(narrow)
            offset = None if bias is None else bias.to(narrow)
            total = torch.zeros((), dtype=wide, device=rows.device)
            d_rows = torch.empty_like(rows) if needed[0] else None
            d_weight = None
            d_bias = torch.zeros_like(bias, dtype=wide) if needed[2] and bias is not None else None
            for start in range(0, len(rows), large):
                block = rows[start : start + large].to(narrow)
                ids = targets[start : start + large]
                slopes = block.new_empty(len(block), vocabulary) if any(needed) else None
                for place in range(0, len(block), small):
                    part = slice(place, place + small)
                    logits = F.linear(block[part], matrix, offset).to(wide)
                    nats, logits = _nats_and_slopes(
                        logits, ids[part], label_smoothing, slopes is not None
                    )
                    total += nats
                    if slopes is not None:
                        slopes[part] = logits
                        if d_bias is not None:
                            d_bias += logits.sum(0)
                if slopes is None:
                    continue
                if d_rows is not None:
                    d_rows[start : start + large] = slopes @ matrix
                if needed[1]:
                    share = slopes.t() @ block
                    d_weight = share.to(weight.dtype) if d_weight is None else d_weight.add_(share)
            if needed[1] and d_weight is None:
                d_weight = torch.zeros_like(weight)
        d_bias = None if bias is None or d_bias is None else d_bias.to(bias.dtype)
        ctx.save_for_backward(d_rows, d_weight, d_bias)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return *(None if slope is None else slope * grad for slope in ctx.saved_tensors), None, None


def rows_at_a_time(device: str, vocabulary: int) -> tuple[int, int]:
    """Of how many rows logits are in work, and gradients of logits are held, at a time."""
    if device != "cpu":
        return (max(1, HELD_ON_GPU // vocabulary),) * 2
    small = max(1, CACHED // vocabulary)
    return small, max(small, HELD // vocabulary)


def _nats_and_slopes(
    logits: Tensor, targets: Tensor, smoothing: float, slopes: bool
) -> tuple[Tensor, Tensor]:
    """Logits (n, V), overwritten → the sum of nats, and its gradient by the logits if asked for."""
    counts = targets != IGNORED
    ids = targets.masked_fill(~counts, 0)[:, None]
    logs = torch.log_softmax(logits, dim=-1)
    nats = -logs.gather(1, ids).squeeze(1)
    if smoothing:
        nats = (1 - smoothing) * nats - smoothing * logs.mean(-1)
    nats = nats.masked_fill(~counts, 0.0).sum()
    if slopes:
        logs.exp_()
        logs.scatter_add_(1, ids, logs.new_full(ids.shape, smoothing - 1.0))
        if smoothing:
            logs -= smoothing / logs.size(-1)
        if targets.is_cuda or not bool(counts.all()):  # asking would wait for the device
            logs.masked_fill_(~counts[:, None], 0.0)
    return nats, logs
