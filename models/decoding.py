"""From next-symbol distributions to sequences: greedy, sampled and beam search.

Knows neither networks nor tasks, only a step. What a row gets depends on that row alone, whoever
shares its batch; rows that have finished drop out.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.state import State, leaves

Context = Any  # what a step reads and never changes: nested tuples of (N, ...) tensors, or None
Step = Callable[[Tensor, State, Context], tuple[Tensor, State]]  # (N,) → log-probs (N, V), state


class Hypotheses(NamedTuple):
    """K sequences a row, best first."""

    tokens: Tensor  # (B, K, L) what follows the first symbol or the prompt: eos last, then pads
    lengths: Tensor  # (B, K) eos counted; 0 where a row has fewer than K hypotheses
    scores: Tensor  # (B, K) sum of log-probabilities / length ** length_penalty


@torch.no_grad()
def greedy(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int,
    eos_id: int,
    max_length: int,
    length_penalty: float = 1.0,
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """The likeliest symbol at each step, until `eos_id` or `max_length` symbols (K = 1)."""
    _check_at_least("max_length", max_length, 1)
    leaf = leaves(state)[0]
    first = torch.full((len(leaf),), bos_id, device=leaf.device)
    return _roll_out(
        step,
        (first, state, context),
        lambda log_probs, rows: log_probs.argmax(-1),
        eos_id=eos_id,
        max_length=max_length,
        length_penalty=length_penalty,
        forbidden=forbidden,
        pad_id=pad_id,
    )


@torch.no_grad()
def sample(
    step: Step,
    state: State,
    context: Context = None,
    *,
    prompt: Tensor,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """Go on from a prompt (B, P), P at least 1, drawing each symbol (K = 1).

    `temperature` divides the log-probabilities, 0 being greedy; then only the `top_k` likeliest
    symbols are left (Fan et al. 2018, arXiv 1805.04833), then the fewest whose mass reaches
    `top_p` (Holtzman et al. 2020, arXiv 1904.09751). Scores are means of the model's own
    log-probabilities. One number a row and step is drawn, whatever the other rows do.
    """
    _check_at_least("max_new_tokens", max_new_tokens, 1)
    _check_at_least("the prompt's length", prompt.size(1), 1)
    if temperature < 0.0:
        raise ValueError(f"temperature is 0 (greedy) or more, got {temperature}")
    if top_k is not None:
        _check_at_least("top_k", top_k, 1)
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise ValueError(f"top_p is a probability above 0 and up to 1, got {top_p}")
    for symbols in prompt[:, :-1].unbind(1):
        _, state = step(symbols, state, context)

    def choose(log_probs: Tensor, rows: Tensor) -> Tensor:
        if temperature == 0.0:
            return log_probs.argmax(-1)
        source = prompt.device if generator is None else generator.device
        draws = torch.rand(len(prompt), generator=generator, device=source)
        return _draw(_restrict(log_probs / temperature, top_k, top_p), draws.to(rows.device)[rows])

    return _roll_out(
        step,
        (prompt[:, -1], state, context),
        choose,
        eos_id=eos_id,
        max_length=max_new_tokens,
        length_penalty=1.0,
        forbidden=forbidden,
        pad_id=pad_id,
    )


@torch.no_grad()
def beam_search(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int,
    eos_id: int,
    beam_size: int,
    max_length: int,
    length_penalty: float = 1.0,
    n_best: int = 1,
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """The `n_best` best hypotheses found by following the `beam_size` likeliest prefixes.

    A row is finished when `beam_size` hypotheses have ended, or earlier when no prefix can still
    change its `n_best`: a score is at most the prefix's sum / max_length ** length_penalty. What
    was cut at `max_length` stands behind all that ended. `length_penalty` 0 favours short
    sequences, 1 compares means. With one beam this is greedy search.
    """
    _check_at_least("max_length", max_length, 1)
    _check_at_least("beam_size", beam_size, 1)
    _check_at_least("length_penalty", length_penalty, 0)
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best is from 1 to beam_size {beam_size}, got {n_best}")
    batch, device = len(leaves(state)[0]), leaves(state)[0].device
    barred = torch.tensor(forbidden, dtype=torch.long, device=device)
    best = _nothing(batch, beam_size, max_length, pad_id, device)
    ended = torch.zeros(batch, dtype=torch.long, device=device)
    active = torch.arange(batch, device=device)  # the A sentences that are still searched
    last = torch.full((batch,), bos_id, device=device)  # (A * W,) for W live prefixes a sentence
    sums = torch.zeros(batch, 1, device=device)  # (A, W), best first; at first there is one
    prefixes = last.new_empty(batch, 1, 0)  # (A, W, length)
    for length in range(1, max_length + 1):
        log_probs, state = step(last, state, context)
        (rows, width), vocabulary = sums.shape, log_probs.size(-1)
        totals = sums[:, :, None] + log_probs.float().view(rows, width, vocabulary)
        totals = totals.index_fill_(2, barred, -torch.inf).flatten(1)
        # At most W of these end, so that from 2 * beam_size enough are left to go on.
        sums, index = totals.topk(min(2 * beam_size, totals.size(1)), dim=1)
        parents, symbols = index // vocabulary, index % vocabulary
        prefixes = torch.cat([_pick(prefixes, parents), symbols[:, :, None]], dim=-1)
        ends = symbols == eos_id
        counts = ends & (sums > -torch.inf)
        counts[:, beam_size:] = False
        if bool(counts.any()):
            ended[active] += counts.sum(1)
            scores = (sums / length**length_penalty).masked_fill(~counts, -torch.inf)
            _merge(best, active, prefixes, scores, pad_id)
        sums, choice = sums.masked_fill(ends, -torch.inf).topk(min(beam_size, sums.size(1)), dim=1)
        prefixes, parents = _pick(prefixes, choice), parents.gather(1, choice)
        kept = parents + width * torch.arange(rows, device=device)[:, None]
        bound = sums[:, 0] / max_length**length_penalty
        done = (ended[active] >= beam_size) | (best.scores[active, n_best - 1] >= bound)
        left = (~done).nonzero().squeeze(1)
        if len(left) < rows:
            active, sums, prefixes, kept = active[left], sums[left], prefixes[left], kept[left]
        if len(left) == 0:
            break
        state = _select(state, kept.flatten())
        if len(left) < rows or kept.size(1) != width:
            # Else contexts stay: those of one sentence's prefixes are the same.
            context = _select(context, kept.flatten())
        last = prefixes[:, :, -1].flatten()
    else:
        scores = sums / max_length**length_penalty
        _merge(best, active, prefixes, scores, pad_id, behind=True)
    return _trim(best, n_best)


def _roll_out(
    step: Step,
    start: tuple[Tensor, State, Context],
    choose: Callable[[Tensor, Tensor], Tensor],  # log-probs (A, V), their rows (A,) → symbols (A,)
    *,
    eos_id: int | None,
    max_length: int,
    length_penalty: float,
    forbidden: tuple[int, ...],
    pad_id: int,
) -> Hypotheses:
    """One sequence a row, a symbol at a time."""
    symbols, state, context = start
    barred = torch.tensor(forbidden, dtype=torch.long, device=symbols.device)
    result = _nothing(len(symbols), 1, max_length, pad_id, symbols.device)
    sums = torch.zeros(len(symbols), 1, device=symbols.device)
    active = torch.arange(len(symbols), device=symbols.device)
    for place in range(max_length):
        log_probs, state = step(symbols, state, context)
        log_probs = log_probs.float().index_fill(1, barred, -torch.inf)
        symbols = choose(log_probs, active)
        result.tokens[active, 0, place] = symbols
        result.lengths[active] += 1
        sums[active] += log_probs.gather(1, symbols[:, None])
        if eos_id is None:
            continue
        left = (symbols != eos_id).nonzero().squeeze(1)
        if len(left) == 0:
            break
        if len(left) < len(active):
            active, symbols = active[left], symbols[left]
            state, context = _select(state, left), _select(context, left)
    return _trim(result._replace(scores=sums / result.lengths**length_penalty), 1)


def _restrict(log_probs: Tensor, top_k: int | None, top_p: float | None) -> Tensor:
    """Leave the likeliest symbols of (N, V), -inf elsewhere; at least one is left."""
    if top_k is not None and top_k < log_probs.size(-1):
        values, index = log_probs.topk(top_k)
        log_probs = torch.full_like(log_probs, -torch.inf).scatter(1, index, values)
    if top_p is not None and top_p < 1.0:
        values, index = log_probs.sort(descending=True)
        mass = values.softmax(-1)
        values = values.masked_fill(mass.cumsum(-1) - mass >= top_p, -torch.inf)
        log_probs = torch.full_like(log_probs, -torch.inf).scatter(1, index, values)
    return log_probs


def _draw(log_probs: Tensor, draws: Tensor) -> Tensor:
    """Symbols (N,) from uniform numbers (N,) in [0, 1): the place where the mass exceeds them."""
    mass = log_probs.softmax(-1).cumsum(-1)
    total = mass[:, -1:]
    # Rounding may lift the product to the total: the last symbol that has any mass is meant.
    return torch.minimum((mass <= draws[:, None] * total).sum(-1), (mass < total).sum(-1))


def _nothing(batch: int, count: int, length: int, pad_id: int, device: torch.device) -> Hypotheses:
    """Room for `count` hypotheses a row."""
    return Hypotheses(
        tokens=torch.full((batch, count, length), pad_id, device=device),
        lengths=torch.zeros(batch, count, dtype=torch.long, device=device),
        scores=torch.full((batch, count), -torch.inf, device=device),
    )


def _merge(
    best: Hypotheses,
    active: Tensor,
    prefixes: Tensor,
    scores: Tensor,
    pad_id: int,
    behind: bool = False,
) -> None:
    """Put prefixes (A, N, length) of score (A, N) among the best of their sentences, in place.

    -inf means that there is none. `behind`: after all that are there already.
    """
    real = scores > -torch.inf
    tokens = best.tokens.new_full((*scores.shape, best.tokens.size(2)), pad_id)
    tokens[:, :, : prefixes.size(2)] = prefixes.masked_fill(~real[:, :, None], pad_id)
    merged = torch.cat([best.scores[active], scores], dim=1)
    count = best.scores.size(1)
    if behind:
        place = torch.cat([torch.zeros_like(best.scores[active]), torch.ones_like(scores)], dim=1)
        place = place.masked_fill(merged == -torch.inf, 2.0)
        order = place.argsort(dim=1, stable=True)[:, :count]
    else:
        order = merged.topk(count, dim=1).indices
    lengths = torch.where(real, prefixes.size(2), 0)
    best.tokens[active] = _pick(torch.cat([best.tokens[active], tokens], dim=1), order)
    best.lengths[active] = torch.cat([best.lengths[active], lengths], dim=1).gather(1, order)
    best.scores[active] = merged.gather(1, order)


def _trim(found: Hypotheses, count: int) -> Hypotheses:
    """The first `count` a row, without the columns that no row fills."""
    lengths = found.lengths[:, :count]
    longest = int(lengths.max()) if lengths.numel() else 0
    return Hypotheses(found.tokens[:, :count, :longest], lengths, found.scores[:, :count])


def _pick(values: Tensor, index: Tensor) -> Tensor:
    """Along the second dimension: (A, W, L), index (A, N) → (A, N, L)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.size(2)))


def _select(parts: Any, rows: Tensor) -> Any:
    """Rows (N,) of every tensor in nested tuples, whose types stay."""
    if parts is None:
        return None
    if isinstance(parts, Tensor):
        return parts.index_select(0, rows)
    chosen = [_select(part, rows) for part in parts]
    return type(parts)(*chosen) if hasattr(parts, "_fields") else tuple(chosen)


def _check_at_least(name: str, value: float, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} is {least} or more, got {value}")
