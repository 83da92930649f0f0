"""How likely given sequences are."""

from typing import NamedTuple

import torch
from torch import Tensor

from models.decoding.hypotheses import Context, Step, select
from models.state import State


class Scores(NamedTuple):
    """The log-probability of each given symbol."""

    each: Tensor  # (B, T), 0 after a sequence's end
    total: Tensor  # (B,)


@torch.no_grad()
def score(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int | Tensor,
    targets: Tensor,
    lengths: Tensor,
) -> Scores:
    """Log-probabilities of targets (B, T) of `lengths` (B,), eos counted; ended rows drop out."""
    each = torch.zeros(targets.shape, device=targets.device)
    active = (lengths > 0).nonzero().squeeze(1)
    last = (torch.zeros_like(lengths) + bos_id)[active]
    if len(active) < len(lengths):
        state, context = select(state, active), select(context, active)
    for place in range(targets.size(1)):
        if len(active) == 0:
            break
        log_probs, state = step(last, state, context)
        last = targets[active, place]
        each[active, place] = log_probs.float().gather(1, last[:, None]).squeeze(1)
        left = (lengths[active] > place + 1).nonzero().squeeze(1)
        if len(left) < len(active):
            active, last = active[left], last[left]
            state, context = select(state, left), select(context, left)
    return Scores(each, each.sum(1))
