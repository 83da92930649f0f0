"""Several models as one: the mean of what they say comes next."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from models.decoding.hypotheses import Context, Step
from models.state import State


def ensemble(steps: Sequence[Step]) -> Step:
    """Steps over the same symbols → one whose state and context are tuples of theirs.

    The log-probabilities are those of the mean of the members' probabilities. A member that has no
    context has None in its place.
    """
    if not steps:
        raise ValueError("an ensemble has at least one member")

    def step(tokens: Tensor, state: State, context: Context) -> tuple[Tensor, State]:
        assert isinstance(state, tuple)
        said = [one(tokens, *parts) for one, *parts in zip(steps, state, context, strict=True)]
        log_probs = torch.stack([part.float() for part, _ in said])
        mean = log_probs.logsumexp(0) - math.log(len(said))
        return mean, tuple(following for _, following in said)

    return step
