"""What is added to the nats of the right text, so that a model finds it in another way."""

from typing import Protocol

from torch import Tensor

from models.decoder import DecoderOutput
from models.encoders.memory import KeyedMemory, Memory


class Penalty(Protocol):
    def __call__(self, output: DecoderOutput, memory: Memory | KeyedMemory, mask: Tensor) -> Tensor:
        """What a decoder made of a memory, True where a symbol was to be said (B, T) → nats, summed
        over the texts.
        """


class DoublyStochastic:
    """λ Σ_i (1 − Σ_t α_ti)² for each text: each place i is attended for about one step in all.

    Xu et al. 2015, arXiv 1502.03044, section 4.2.1. A text shorter than its memory has places
    cannot reach 0; it is best off where it spreads its steps evenly.
    """

    def __init__(self, weight: float) -> None:
        if not weight >= 0.0:
            raise ValueError(f"task.doubly_stochastic is 0 (off) or more, got {weight}")
        self.weight = weight

    def __call__(self, output: DecoderOutput, memory: Memory | KeyedMemory, mask: Tensor) -> Tensor:
        attended = output.attention.masked_fill(~mask[:, :, None], 0.0).sum(1)  # (B, S)
        missing = (1.0 - attended).masked_fill(~memory.mask, 0.0)
        return self.weight * missing.square().sum()
