"""Samples without replacement: beam search on log-probabilities disturbed by Gumbel noise."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models.decoding.constraints import Constraint, Forbidden, constrain
from models.decoding.hypotheses import (
    Context,
    Step,
    check_at_least,
    first_symbols,
    merge,
    nothing,
    pick,
    row_caps,
    select,
)
from models.decoding.sampling import filters
from models.decoding.selection import top
from models.state import State, leaves


class DistinctSamples(NamedTuple):
    """K different sequences a row, in the order in which they were drawn."""

    tokens: Tensor  # (B, K, L)
    lengths: Tensor  # (B, K) 0 where there are fewer than K sequences
    scores: Tensor  # (B, K) the log-probability under the distribution that was drawn from
    disturbed: Tensor  # (B, K) the log-probability with its Gumbel noise, falling


@torch.no_grad()
def stochastic_beam_search(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int | Tensor,
    eos_id: int | None,
    beam_size: int,
    max_length: int | Tensor,
    seeds: Sequence[int],
    temperature: float = 1.0,
    constraints: Sequence[Constraint] = (),
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> DistinctSamples:
    """Draw `beam_size` sequences a row without replacement (Kool et al. 2019, arXiv 1903.06059).

    The distribution is the model's at `temperature` (above 0), over what the constraints leave and
    scaled to 1 at each step; a prefix that nothing may follow is dropped. A row's noise comes from
    its seed alone.
    """
    check_at_least("beam_size", beam_size, 1)
    if not temperature > 0:
        raise ValueError(f"temperature is above 0 for drawing without replacement: {temperature}")
    if len(seeds) != len(leaves(state)[0]):
        raise ValueError(f"seeds are one a row: {len(leaves(state)[0])} rows, {len(seeds)} seeds")
    warm = filters(temperature=temperature)
    constraints = (Forbidden(forbidden), *constraints)
    batch, device = len(leaves(state)[0]), leaves(state)[0].device
    caps, longest = row_caps(max_length, batch, device)
    pool = nothing(batch, beam_size, longest, pad_id, device)  # scores: with noise
    own = torch.full((batch, beam_size), -torch.inf, device=device)  # log-probabilities of these
    active = torch.arange(batch, device=device)
    last = first_symbols(state, bos_id)
    sums = torch.zeros(batch, 1, device=device)
    disturbed = torch.zeros(batch, 1, device=device)  # conditioning on any value changes nothing
    prefixes = last.new_empty(batch, 1, 0)
    generators = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
    for length in range(1, longest + 1):
        log_probs, state = step(last, state, context)
        (rows, width), size = sums.shape, log_probs.size(1)
        each = active.repeat_interleave(width)
        log_probs = constrain(constraints, log_probs.float(), prefixes.flatten(0, 1), each)
        log_probs = warm(log_probs).log_softmax(-1).nan_to_num(-torch.inf, neginf=-torch.inf)
        totals = sums[:, :, None] + log_probs.view(rows, width, size)
        # A float's 24 bits would be 0 for one symbol in some 10^7, and that one chosen always.
        noise = torch.stack([
            torch.rand(width, size, generator=generators[row], dtype=torch.float64)
            for row in active.tolist()
        ])  # fmt: skip
        children = _below(disturbed[:, :, None], totals, gumbel(noise).float().to(device))
        values, symbols = top(children.flatten(0, 1), beam_size)
        values, index = values.view(rows, -1).topk(min(beam_size, values.size(1) * width), dim=1)
        parents = index // (symbols.size(1))
        symbols = symbols.view(rows, -1).gather(1, index)
        sums = totals.flatten(1).gather(1, parents * size + symbols)
        disturbed = values.masked_fill(sums == -torch.inf, -torch.inf)
        prefixes = torch.cat([pick(prefixes, parents), symbols[:, :, None]], dim=-1)
        ends = (symbols == (-1 if eos_id is None else eos_id)) | (caps[active] == length)[:, None]
        order = merge(pool, active, prefixes, disturbed.masked_fill(~ends, -torch.inf), pad_id)
        own[active] = torch.cat([own[active], sums], dim=1).gather(1, order)
        # a prefix is followed while it is among the best, with those that have ended
        disturbed = disturbed.masked_fill(ends, -torch.inf)
        both = torch.cat([pool.scores[active], disturbed], dim=1)
        least = both.topk(beam_size, dim=1).values[:, -1:]
        disturbed = disturbed.masked_fill(disturbed < least, -torch.inf)
        sums = sums.masked_fill(disturbed == -torch.inf, -torch.inf)
        left = (disturbed > -torch.inf).any(1).nonzero().squeeze(1)
        if len(left) == 0:
            break
        kept = (parents + width * torch.arange(rows, device=device)[:, None])[left]
        active, sums, disturbed, prefixes = (
            part[left] for part in (active, sums, disturbed, prefixes)
        )
        state = select(state, kept.flatten())
        if len(left) < rows or kept.size(1) != width:
            context = select(context, kept.flatten())
        last = prefixes[:, :, -1].flatten()
    most = int(pool.lengths.max())
    own = own.masked_fill(pool.lengths == 0, -torch.inf)
    return DistinctSamples(pool.tokens[:, :, :most], pool.lengths, own, pool.scores)


def gumbel(uniform_numbers: Tensor) -> Tensor:
    """Numbers in [0, 1) → draws from the standard Gumbel distribution, all finite."""
    tiny = torch.finfo(uniform_numbers.dtype).tiny
    exponential = -torch.log1p(-uniform_numbers)
    return -exponential.clamp(min=tiny).log()


def _below(parents: Tensor, totals: Tensor, noise: Tensor) -> Tensor:
    """Disturbed children (A, W, V) whose greatest is just their parent's (A, W, 1).

    -log(exp(-G) - exp(-Z) + exp(-g)), as Kool et al. compute it without overflow.
    """
    free = (totals + noise).masked_fill(totals == -torch.inf, -torch.inf)
    greatest = free.amax(-1, keepdim=True)
    # log1p(-exp(free - greatest)), -inf at the greatest itself
    gap = parents - free + torch.log1p(-(free - greatest).exp())
    children = parents - gap.clamp(min=0) - torch.log1p((-gap.abs()).exp())
    return children.masked_fill((free == -torch.inf) | (parents == -torch.inf), -torch.inf)
