"""What is added to the nats of the right text, so that a model finds it in another way."""

from collections.abc import Callable
from typing import Protocol

from torch import Tensor

from models.coverage import coverage_loss as attended_again
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
        self.weight = weight

    def __call__(self, output: DecoderOutput, memory: Memory | KeyedMemory, mask: Tensor) -> Tensor:
        attended = output.attention.masked_fill(~mask[:, :, None], 0.0).sum(1)  # (B, S)
        missing = (1.0 - attended).masked_fill(~memory.mask, 0.0)
        return self.weight * missing.square().sum()


class AttendedAgain:
    """λ Σ_t Σ_i min(α_ti, Σ_{u<t} α_ui) for each text: it costs to attend a place again.

    See et al. 2017, arXiv 1704.04368, section 2.3.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, output: DecoderOutput, memory: Memory | KeyedMemory, mask: Tensor) -> Tensor:
        return attended_again(output.attention, mask, weight=self.weight)


KINDS: dict[str, Callable[[float], Penalty]] = {
    "doubly_stochastic": DoublyStochastic,
    "coverage_loss": AttendedAgain,
}


def penalties(*, attends: bool, **weights: float) -> list[Penalty]:
    """Those whose weight is above 0. ValueError names the key of a negative one, and of one that
    is about attention where the model does not attend.
    """
    for name, weight in weights.items():
        if not weight >= 0.0:
            raise ValueError(f"task.{name} must be at least 0, got {weight}")
        if weight and not attends:
            raise ValueError(
                f"task.{name}={weight} is about attention, which this model has not: set it to 0 "
                "or model.decoder.attention=additive"
            )
    return [KINDS[name](weight) for name, weight in weights.items() if weight]
