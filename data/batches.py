"""What a step of training sees: one NamedTuple a shape, and the padding that makes them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORE = -100  # a class target that no loss and no metric counts


class SequenceBatch(NamedTuple):
    """One answer a sequence (classification) or a step (tagging)."""

    inputs: Tensor  # (B, T) symbols, or (B, T, F) real
    lengths: Tensor  # (B,)
    targets: Tensor  # (B,) class; (B, K) real; (B, T) class, IGNORE on pads; (B, T, K) real
    index: Tensor  # (B,) the example's number in its split


class PairBatch(NamedTuple):
    """Text in, text out."""

    source: Tensor  # (B, S) ends with eos
    source_lengths: Tensor  # (B,) eos counted
    target: Tensor  # (B, T + 1) from bos to eos, padded
    target_lengths: Tensor  # (B,) both counted
    index: Tensor  # (B,)


class CaptionBatch(NamedTuple):
    """A picture in, text out. `pictures` has B rows of size 0 where features are cached."""

    pictures: Tensor  # (B, C, H, W) float, normalised
    target: Tensor  # (B, T + 1) from bos to eos, padded
    target_lengths: Tensor  # (B,)
    index: Tensor  # (B,) the picture's number in its split


class StreamBatch(NamedTuple):
    """Predict the next step of each row; a row goes on from the batch before unless it starts."""

    inputs: Tensor  # (B, T) symbols, or (B, T, K) keys on or off, float
    targets: Tensor  # (B, T), or (B, T, K)
    mask: Tensor  # (B, T) True where the target counts
    start: Tensor  # (B,) True where the row's state must be the initial one
    characters: Tensor  # (B, T) of raw text that each target stands for, in evaluation; else 0


class PartBatch(NamedTuple):
    """A batch of one part of a mixture."""

    part: str
    batch: Any  # as the part's own task reads it


def pad(rows: Sequence[Sequence[int] | Tensor], value: float = 0) -> tuple[Tensor, Tensor]:
    """Rows of unequal length → one tensor (B, T, ...) filled with `value`, lengths (B,)."""
    tensors = [torch.as_tensor(row) for row in rows]
    lengths = torch.tensor([len(row) for row in tensors])
    return torch.nn.utils.rnn.pad_sequence(tensors, batch_first=True, padding_value=value), lengths
