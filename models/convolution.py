"""Causal convolution over time that carries its last inputs from call to call."""

import torch
from torch import Tensor


def windows(inputs: Tensor, tail: Tensor) -> tuple[Tensor, ...]:
    """Inputs (B, T, D) after a tail (B, K - 1, D) → K tensors (B, T, D), oldest input first."""
    joined = torch.cat([tail.to(inputs.dtype), inputs], dim=1)
    length = inputs.size(1)
    return tuple(joined[:, place : place + length] for place in range(tail.size(1) + 1))


def next_tail(inputs: Tensor, tail: Tensor, lengths: Tensor | None = None) -> Tensor:
    """The last K - 1 of tail and valid inputs, (B, K - 1, D) in the tail's dtype."""
    joined = torch.cat([tail, inputs.to(tail.dtype)], dim=1)
    keep = tail.size(1)
    if lengths is None:
        return joined[:, joined.size(1) - keep :]
    index = lengths[:, None] + torch.arange(keep, device=lengths.device)
    return joined.gather(1, index[:, :, None].expand(-1, -1, joined.size(2)))


def depthwise(parts: tuple[Tensor, ...], weight: Tensor, bias: Tensor) -> Tensor:
    """One filter a feature: K parts (B, T, D), weight (K, D), bias (D,) → (B, T, D)."""
    total = bias + weight[0] * parts[0]
    for part, factor in zip(parts[1:], weight[1:], strict=True):
        total = torch.addcmul(total, part, factor.to(total.dtype))
    return total
