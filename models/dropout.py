"""Dropout: of single numbers, and with a mask that stays the same through a sequence.

Such a mask is drawn once and passed on, so that a fused call, a step loop and decoding agree.
Gal and Ghahramani 2015, arXiv 1512.05287; Merity et al. 2017, arXiv 1708.02182.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Mask = Tensor | None  # (B, D), 0 or 1 / (1 - probability); None drops nothing


def check_probability(name: str, probability: float) -> None:
    """A probability of 1 would leave nothing and divide by zero."""
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"{name} is a probability of at least 0 and below 1, got {probability}")


LEVELS = 2**16  # of a probability, where masks are drawn by the processor


def dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Each number is 0 with this probability, else divided by the rest of it; any shape.

    On a processor several times as fast as PyTorch's, which draws a random number for each mask:
    here one of 64 bits makes four. The probability is then a multiple of 1 / 65,536, and the mean
    exact. Srivastava et al. 2014, JMLR 15.
    """
    if not training or probability == 0.0:
        return inputs
    levels = round((1.0 - probability) * LEVELS)
    if inputs.device.type != "cpu" or not 0 < levels < LEVELS:
        return F.dropout(inputs, probability)
    count = inputs.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    chances = drawn.view(torch.int16)[:count].view(inputs.shape)
    kept = torch.lt(
        chances, levels - LEVELS // 2, out=torch.empty_like(inputs, requires_grad=False)
    )
    return (inputs * kept).mul_(LEVELS / levels)


def draw_mask(like: Tensor, shape: tuple[int, ...], probability: float) -> Tensor:
    """A mask of `shape` on the device and in the dtype of `like`, with a mean of 1."""
    keep = 1.0 - probability
    return like.new_empty(shape).bernoulli_(keep).div_(keep)


def apply_mask(inputs: Tensor, mask: Mask) -> Tensor:
    """One mask (B, D) for every step of (B, T, D), or for the one step (B, D)."""
    if mask is None:
        return inputs
    mask = mask.to(inputs.dtype)
    return inputs * (mask[:, None] if inputs.dim() == 3 else mask)


def locked_dropout(inputs: Tensor, probability: float, training: bool) -> Tensor:
    """Drop the same features at every step of a row: (B, T, D) → (B, T, D)."""
    if not training or probability == 0.0:
        return inputs
    return apply_mask(inputs, draw_mask(inputs, (inputs.size(0), inputs.size(2)), probability))


def drop_symbols(
    embedded: Tensor, symbols: Tensor, vocabulary_size: int, probability: float, training: bool
) -> Tensor:
    """Drop whole symbols wherever they stand in the batch: (B, T, E), ids (B, T) → (B, T, E).

    The same as dropping rows of the embedding matrix, without touching all of it.
    """
    if not training or probability == 0.0:
        return embedded
    mask = draw_mask(embedded, (vocabulary_size,), probability)
    return embedded * mask[symbols].unsqueeze(-1)


def replace_symbols(
    symbols: Tensor, replaceable: Tensor, by: int, probability: float, training: bool
) -> Tensor:
    """Replace each symbol (B, T) by the id `by` with this probability, where `replaceable`."""
    if not training or probability == 0.0:
        return symbols
    chosen = torch.rand(symbols.shape, device=symbols.device) < probability
    return symbols.masked_fill(chosen & replaceable, by)


def redraw_symbols(
    symbols: Tensor, replaceable: Tensor, choices: Tensor, probability: float, training: bool
) -> Tensor:
    """Replace each symbol (B, T), where `replaceable`, with this probability by one of `choices`
    (C,), each as likely as the others.
    """
    if not training or probability == 0.0:
        return symbols
    chosen = torch.rand(symbols.shape, device=symbols.device) < probability
    drawn = choices[torch.randint(len(choices), symbols.shape, device=symbols.device)]
    return torch.where(chosen & replaceable, drawn, symbols)
