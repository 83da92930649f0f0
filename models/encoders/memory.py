"""What an encoder is to a decoder, and what it leaves for it to read."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Memory(NamedTuple):
    """Vectors at S places: words of a sentence, fields of a picture."""

    values: Tensor  # (B, S, D)
    mask: Tensor  # (B, S), True = may be attended
    summary: Tensor  # (B, D)


class KeyedMemory(NamedTuple):
    """A memory with the keys that attention computes from it once, whatever the steps."""

    values: Tensor  # (B, S, D)
    mask: Tensor  # (B, S)
    summary: Tensor  # (B, D)
    keys: Tensor  # (B, S, K)


class CopyMemory(NamedTuple):
    """A memory whose places have a symbol of the target's vocabulary, which may be copied."""

    values: Tensor  # (B, S, D)
    mask: Tensor  # (B, S)
    summary: Tensor  # (B, D)
    keys: Tensor  # (B, S, K)
    symbols: Tensor  # (B, S)


AnyMemory = Memory | KeyedMemory | CopyMemory


def keys_of(memory: AnyMemory) -> Tensor:
    """What queries are compared with, (B, S, K): the values themselves where nothing is computed
    from them.
    """
    return memory.values if isinstance(memory, Memory) else memory.keys


class Encoder(nn.Module):
    """Something → Memory with values of `output_size` numbers."""

    output_size: int
    cacheable = False  # True where `features` never change, so that they may be computed once
    feature_numbers: int  # of cacheable ones: S * D

    def features(self, pictures: Tensor) -> Tensor:
        """The part before anything that learns: → (B, S, D). Of cacheable encoders only."""
        raise NotImplementedError

    def unchanging(self) -> tuple[nn.Module, list[str | int]]:
        """The network that `features` runs, and the settings with which it does."""
        raise NotImplementedError

    def from_features(self, values: Tensor) -> Memory:
        """The rest: what `forward` gives for the inputs that these features come from."""
        raise NotImplementedError


def open_memory(values: Tensor) -> Memory:
    """A memory whose places all count, summed up by their mean: (B, S, D)."""
    mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
    return Memory(values, mask, values.mean(dim=1))
