"""Beam search: the best sequences found by following a few prefixes at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.decoding.constraints import Constraint, Forbidden, constrain
from models.decoding.hypotheses import (
    Context,
    Hypotheses,
    Step,
    check_at_least,
    distinct,
    first_symbols,
    merge,
    nothing,
    pick,
    repeat,
    row_caps,
    select,
    trim,
)
from models.decoding.penalties import LengthNorm, Penalty, ranked
from models.decoding.selection import Diverse, Selection, likeliest
from models.state import State, leaves


@torch.no_grad()
def beam_search(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int | Tensor,
    eos_id: int | None,
    beam_size: int,
    max_length: int | Tensor,
    length_penalty: float = 1.0,
    length_norm: str = "power",
    n_best: int = 1,
    patience: float = 1.0,
    constraints: Sequence[Constraint] = (),
    penalty: Penalty | None = None,
    selection: Selection = likeliest,
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """The `n_best` best hypotheses found by following `beam_size` prefixes.

    A row is finished when `patience` * `beam_size` hypotheses have ended (Kasai et al. 2022, arXiv
    2204.05424), `n_best` at least, or earlier when no prefix can still change its `n_best`: a score
    is at most the prefix's sum over the norm of `max_length` (one for all rows, or one a row), and
    constraints and `penalty` only ever lower it. What was cut at `max_length` stands behind all
    that ended, and last what the constraints forbid to end, as it lacks required words. A prefix
    that nothing may follow is dropped, unless the row has nothing else. One beam with a patience of
    1 is greedy search. `bos_id` is the first symbol, or each row's (B,).
    """
    check_at_least("beam_size", beam_size, 1)
    if not patience > 0:
        raise ValueError(f"patience is above 0, got {patience}")
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best is from 1 to beam_size {beam_size}, got {n_best}")
    norm = LengthNorm(length_penalty, length_norm)
    if forbidden:
        constraints = (Forbidden(forbidden), *constraints)
    batch, device = len(leaves(state)[0]), leaves(state)[0].device
    caps, longest = row_caps(max_length, batch, device)
    bounds, enough = norm(caps.float()), max(n_best, patience * beam_size)
    best = nothing(batch, beam_size, longest, pad_id, device)
    ended = torch.zeros(batch, dtype=torch.long, device=device)
    active = torch.arange(batch, device=device)  # the A sentences that are still searched
    last = first_symbols(state, bos_id)  # (A * W,) for W live prefixes a sentence
    sums = torch.zeros(batch, 1, device=device)  # (A, W); at first there is one prefix
    extra = torch.zeros_like(sums)  # what `penalty` adds
    prefixes = last.new_empty(batch, 1, 0)  # (A, W, length)
    for length in range(1, longest + 1):
        log_probs, state = step(last, state, context)
        rows, width = sums.shape
        each = active.repeat_interleave(width)
        log_probs = constrain(constraints, log_probs.float(), prefixes.flatten(0, 1), each)
        # At most W of these end, so that from 2 * beam_size enough are left to go on.
        found = selection(log_probs.view(rows, width, -1), sums, prefixes, active, 2 * beam_size)
        before, before_scores = prefixes, ranked(sums, norm(max(1, length - 1)), extra)
        sums, parents, symbols = found
        prefixes = torch.cat([pick(prefixes, parents), symbols[:, :, None]], dim=-1)
        extra = torch.zeros_like(sums)
        if penalty is not None:
            extra = penalty(state).view(rows, width).gather(1, parents)
        ends = symbols == (-1 if eos_id is None else eos_id)
        counts = ends & (sums > -torch.inf)
        counts[:, beam_size:] = False
        if bool(counts.any()):
            ended[active] += counts.sum(1)
            scores = ranked(sums.masked_fill(~counts, -torch.inf), norm(length), extra)
            merge(best, active, prefixes, scores, pad_id)
        # those that go on, in the order in which they were chosen
        lost = ends | (sums == -torch.inf)
        choice = lost.long().argsort(dim=1, stable=True)[:, :beam_size]
        sums = sums.masked_fill(lost, -torch.inf).gather(1, choice)
        prefixes, parents = pick(prefixes, choice), parents.gather(1, choice)
        extra = extra.gather(1, choice)
        bound = sums.amax(1) / bounds[active]
        done = (ended[active] >= enough) | (best.scores[active, n_best - 1] >= bound)
        capped = ~done & (caps[active] == length)
        if bool(capped.any()):
            cut = ranked(sums[capped], norm(length), extra[capped])
            lacks = torch.zeros_like(cut, dtype=torch.long)
            if eos_id is not None:
                lacks = _lacks(constraints, prefixes[capped], active[capped], log_probs, eos_id)
            merge(best, active[capped], prefixes[capped], cut, pad_id, behind=lacks)
        left = (~(done | capped)).nonzero().squeeze(1)
        if len(left) < rows:
            stuck = (sums.amax(1) == -torch.inf) & (best.lengths[active, 0] == 0)
            if length > 1 and bool(stuck.any()):
                merge(best, active[stuck], before[stuck], before_scores[stuck], pad_id)
        kept = parents + width * torch.arange(rows, device=device)[:, None]
        if len(left) < rows:
            active, sums, extra = active[left], sums[left], extra[left]
            prefixes, kept = prefixes[left], kept[left]
        if len(left) == 0:
            break
        state = select(state, kept.flatten())
        if len(left) < rows or kept.size(1) != width:
            # Else contexts stay: those of one sentence's prefixes are the same.
            context = select(context, kept.flatten())
        last = prefixes[:, :, -1].flatten()
    return trim(best, n_best)


def _lacks(
    constraints: Sequence[Constraint], prefixes: Tensor, rows: Tensor, like: Tensor, eos_id: int
) -> Tensor:
    """1 where the constraints forbid that a prefix (A, W, L) ends, else 0: (A, W)."""
    count, width, _ = prefixes.shape
    free = like.new_zeros(count * width, like.size(1))
    free = constrain(constraints, free, prefixes.flatten(0, 1), rows.repeat_interleave(width))
    return (free[:, eos_id] == -torch.inf).long().view(count, width)


@torch.no_grad()
def diverse_beam_search(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int | Tensor,
    beam_size: int,
    groups: int,
    diversity: float,
    max_length: int | Tensor,
    n_best: int = 1,
    constraints: Sequence[Constraint] = (),
    forbidden: tuple[int, ...] = (),
    eos_id: int | None,
    length_penalty: float = 1.0,
    length_norm: str = "power",
    patience: float = 1.0,
    penalty: Penalty | None = None,
    pad_id: int = 0,
) -> Hypotheses:
    """`beam_size` prefixes in `groups` that avoid each other's symbols.

    Vijayakumar et al. 2016, arXiv 1610.02424: `diversity` is how many nats a symbol loses for each
    earlier group that chose it at the same place. What ended comes first, and of it the best of
    each group. What several groups found is there once, so that there may be fewer than `n_best`.
    """
    check_at_least("groups", groups, 1)
    check_at_least("diversity", diversity, 0)
    if beam_size % groups:
        raise ValueError(f"groups={groups} must divide beam_size={beam_size}")
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best is from 1 to beam_size {beam_size}, got {n_best}")
    batch, device = len(leaves(state)[0]), leaves(state)[0].device

    def of_groups(constraint: Constraint) -> Constraint:
        return lambda log_probs, prefixes, rows: constraint(log_probs, prefixes, rows // groups)

    width = beam_size // groups
    caps, _ = row_caps(max_length, batch, device)
    found = beam_search(
        step, repeat(state, groups), repeat(context, groups),
        bos_id=first_symbols(state, bos_id).repeat_interleave(groups), eos_id=eos_id,
        beam_size=width,
        max_length=caps.repeat_interleave(groups), length_penalty=length_penalty,
        length_norm=length_norm, n_best=width, patience=patience,
        constraints=[of_groups(c) for c in constraints], penalty=penalty,
        selection=Diverse(groups, diversity), forbidden=forbidden, pad_id=pad_id,
    )  # fmt: skip
    tokens = found.tokens.view(batch, groups, width, -1).transpose(1, 2).flatten(1, 2)
    lengths, scores = (
        part.view(batch, groups, width).transpose(1, 2).flatten(1) for part in found[1:]
    )
    # all that ended, of it the groups' first, second, ..., and within these the best come first
    rank = (torch.arange(beam_size, device=device) // groups).expand(batch, -1)
    final = tokens.gather(2, (lengths - 1).clamp(min=0)[:, :, None]).squeeze(2)
    cut = final != (-1 if eos_id is None else eos_id)
    order = scores.argsort(dim=1, descending=True, stable=True)
    for key in (rank, cut.long(), (lengths == 0).long()):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    ordered = Hypotheses(pick(tokens, order), lengths.gather(1, order), scores.gather(1, order))
    return trim(distinct(ordered, pad_id), n_best)
