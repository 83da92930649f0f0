"""What a hypothesis scores beside its probability: its length, and what of the input it covered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from models.decoding.hypotheses import Context, Step, check_at_least
from models.state import State

Penalty = Callable[[State], Tensor]  # the state after a step → what is added (N,), never above 0
NORMS = ("power", "gnmt")
MOST = 50.0  # exponent: a million symbols to the power of it is still a float
LEAST = 1e-6  # what counts as attended at least, so that no place makes a score infinite


@dataclass(frozen=True)
class LengthNorm:
    """What a sum of log-probabilities is divided by: never less for a longer sequence.

    "power" is length ** alpha: alpha 0 favours short sequences, 1 compares means. "gnmt" is
    ((5 + length) / 6) ** alpha (Wu et al. 2016, arXiv 1609.08144).
    """

    alpha: float = 1.0
    kind: str = "power"

    def __post_init__(self) -> None:
        check_at_least("length_penalty", self.alpha, 0)
        if self.alpha > MOST:
            raise ValueError(f"length_penalty is {MOST:g} at most, got {self.alpha}")
        if self.kind not in NORMS:
            raise ValueError(f"length_norm is one of {', '.join(NORMS)}, got {self.kind!r}")

    def __call__(self, length: Any) -> Any:
        """A length, or a tensor of them."""
        return (length if self.kind == "power" else (5 + length) / 6) ** self.alpha


# tokens, state, context → log-probs (N, V), attention (N, S), state
AttendingStep = Callable[[Tensor, State, Context], tuple[Tensor, Tensor, State]]


def covering(attend: AttendingStep) -> Step:
    """A step whose state is (the model's, the sum (N, S) of the attention so far)."""

    def step(tokens: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        inner, seen = cast(tuple[State, Tensor], state)
        log_probs, attention, inner = attend(tokens, inner, context)
        return log_probs, (inner, seen + attention)

    return step


def uncovered(mask: Tensor) -> Tensor:
    """The coverage (B, S) to begin with: what may not be attended counts as covered."""
    return (~mask).float()


def coverage_penalty(beta: float) -> Penalty:
    """beta * the sum of log(min(attention to a place, 1)) over places (Wu et al. 2016)."""

    def penalty(state: State) -> Tensor:
        _, seen = cast(tuple[State, Tensor], state)
        return beta * seen.clamp(LEAST, 1.0).log().sum(1)

    return penalty


def ranked(sums: Tensor, divisor: float | Tensor, extra: Tensor | None) -> Tensor:
    """Scores (A, C) of sums of log-probabilities."""
    scores = sums / divisor
    return scores if extra is None else scores + torch.where(sums > -torch.inf, extra, 0.0)
