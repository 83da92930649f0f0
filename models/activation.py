"""What a language model pays for large activations, and for activations that jump.

Merity et al. 2017, arXiv 1708.01009 and 1708.02182; means of squares, as in their published runs.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

Penalty = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Outputs (B, T, D) of the last layer, the same after dropout, what counts (B, T) → a scalar."""


def penalties(*, activation: float, temporal: float) -> list[Penalty]:
    """The penalties that are asked for: `activation` weighs activations, `temporal` jumps.

    ValueError for a weight below 0.
    """
    chosen = {
        "activation_regularisation": (activation, mean_square),
        "temporal_activation_regularisation": (temporal, mean_square_jump),
    }
    for name, (weight, _) in chosen.items():
        if not weight >= 0:
            raise ValueError(f"task.{name} weighs a penalty, 0 or more; got {weight}")
    return [partial(_weighed, weight, penalty) for weight, penalty in chosen.values() if weight]


def mean_square(outputs: Tensor, dropped: Tensor, counts: Tensor) -> Tensor:
    """Activation regularisation: of what dropout left, for it is this that the head reads."""
    return _mean(dropped.float().square(), counts)


def mean_square_jump(outputs: Tensor, dropped: Tensor, counts: Tensor) -> Tensor:
    """Temporal activation regularisation: of the change from step to step, before dropout."""
    jumps = outputs[:, 1:].float() - outputs[:, :-1].float()
    return _mean(jumps.square(), counts[:, 1:] & counts[:, :-1])


def _weighed(
    weight: float, penalty: Penalty, outputs: Tensor, dropped: Tensor, counts: Tensor
) -> Tensor:
    return weight * penalty(outputs, dropped, counts)


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    """The mean of (B, T, D) over the steps that count; of none, 0."""
    kept = values.masked_fill(~counts[..., None], 0.0).sum()
    return kept / (counts.sum() * values.size(-1)).clamp(min=1)
