"""Dropout whose mask stays the same through a sequence.

A mask is drawn once and passed on, so that a fused call, a step loop and decoding agree.
Gal and Ghahramani 2015, arXiv 1512.05287; Merity et al. 2017, arXiv 1708.02182.
"""

import torch
from torch import Tensor

Mask = Tensor | None  # (B, D), 0 or 1 / (1 - probability); None drops nothing


def check_probability(name: str, probability: float) -> None:
    """A probability of 1 would leave nothing and divide by zero."""
    if not 0.0 <= probability < 1.0:
        raise ValueError(f"{name} is a probability of at least 0 and below 1, got {probability}")


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
