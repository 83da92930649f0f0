"""One sequence a row, a symbol at a time: the likeliest symbols, or drawn ones."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.decoding.constraints import Constraint, Forbidden, constrain
from models.decoding.hypotheses import (
    Context,
    Hypotheses,
    Step,
    check_at_least,
    first_symbols,
    nothing,
    pick,
    repeat,
    row_caps,
    select,
    trim,
    uniform,
)
from models.decoding.penalties import LengthNorm
from models.decoding.sampling import draw, filters
from models.state import State

# log-probs (A, V), their rows (A,), the place → symbols (A,)
Choose = Callable[[Tensor, Tensor, int], Tensor]


@torch.no_grad()
def greedy(
    step: Step,
    state: State,
    context: Context = None,
    *,
    bos_id: int | Tensor,
    eos_id: int | None,
    max_length: int | Tensor,
    length_penalty: float = 1.0,
    length_norm: str = "power",
    constraints: Sequence[Constraint] = (),
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """The likeliest symbol at each step, until `eos_id` or `max_length` symbols (K = 1)."""
    return _roll_out(
        step,
        (first_symbols(state, bos_id), state, context),
        lambda log_probs, rows, place: log_probs.argmax(-1),
        eos_id=eos_id,
        max_length=max_length,
        norm=LengthNorm(length_penalty, length_norm),
        constraints=(Forbidden(forbidden), *constraints),
        pad_id=pad_id,
    )


@torch.no_grad()
def sample(
    step: Step,
    state: State,
    context: Context = None,
    *,
    prompt: Tensor,
    max_new_tokens: int | Tensor,
    prompt_is_read: bool = False,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    typical: float | None = None,
    count: int = 1,
    seeds: Sequence[int] | None = None,
    generator: torch.Generator | None = None,
    eos_id: int | None = None,
    constraints: Sequence[Constraint] = (),
    forbidden: tuple[int, ...] = (),
    pad_id: int = 0,
) -> Hypotheses:
    """Go on from a prompt (B, P), P at least 1, drawing each symbol: K = `count`, best first.

    `temperature` divides the log-probabilities, 0 being greedy; then `sampling.filters` leave some
    of the symbols. Scores are means of the log-probabilities before that. `prompt_is_read`: the
    state has seen all of the prompt but its last symbol.

    One number a symbol decides, from the row's own seed (B of them) where `seeds` is given, so that
    a row is the same in any batch and on any device; else from `generator`.
    """
    check_at_least("the prompt's length", prompt.size(1), 1)
    check_at_least("count", count, 1)
    restrict = filters(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, typical=typical
    )
    caps, longest = row_caps(_named(max_new_tokens), len(prompt), prompt.device)
    if not prompt_is_read:
        for symbols in prompt[:, :-1].unbind(1):
            _, state = step(symbols, state, context)
    if seeds is not None:
        if len(seeds) != len(prompt):
            raise ValueError(f"seeds are one a row: {len(prompt)} rows, {len(seeds)} seeds")
        # place by place, so that how long the other rows may become changes nothing
        draws = uniform(seeds, longest, count).transpose(1, 2).flatten(0, 1).to(prompt.device)
    else:
        source = prompt.device if generator is None else generator.device
        draws = torch.rand(len(prompt) * count, longest, generator=generator, device=source)
        draws = draws.to(prompt.device)

    def choose(log_probs: Tensor, rows: Tensor, place: int) -> Tensor:
        if temperature == 0.0:
            return log_probs.argmax(-1)
        return draw(restrict(log_probs), draws[rows, place])

    def of_samples(constraint: Constraint) -> Constraint:
        return lambda log_probs, prefixes, rows: constraint(log_probs, prefixes, rows // count)

    found = _roll_out(
        step,
        (prompt[:, -1].repeat_interleave(count), repeat(state, count), repeat(context, count)),
        choose,
        eos_id=eos_id,
        max_length=caps.repeat_interleave(count),
        norm=LengthNorm(1.0),
        constraints=(Forbidden(forbidden), *map(of_samples, constraints)),
        pad_id=pad_id,
    )
    if count == 1:
        return found
    found = Hypotheses(
        found.tokens.view(len(prompt), count, -1), *(part.view(-1, count) for part in found[1:])
    )
    order = found.scores.argsort(dim=1, descending=True, stable=True)
    return Hypotheses(pick(found.tokens, order), *(part.gather(1, order) for part in found[1:]))


def _roll_out(
    step: Step,
    start: tuple[Tensor, State, Context],
    choose: Choose,
    *,
    eos_id: int | None,
    max_length: int | Tensor,
    norm: LengthNorm,
    constraints: Sequence[Constraint],
    pad_id: int,
) -> Hypotheses:
    """Rows leave when they end, reach their length, or have nothing that may follow."""
    symbols, state, context = start
    batch, device = len(symbols), symbols.device
    caps, longest = row_caps(max_length, batch, device)
    result = nothing(batch, 1, longest, pad_id, device)
    sums = torch.zeros(batch, device=device)
    active = torch.arange(batch, device=device)
    own_caps = caps
    for place in range(longest):
        log_probs, state = step(symbols, state, context)
        written = result.tokens[active, 0, :place]
        log_probs = constrain(constraints, log_probs.float(), written, active)
        symbols = choose(log_probs, active, place)
        gained = log_probs.gather(1, symbols[:, None]).squeeze(1)
        stuck = gained == -torch.inf  # nothing was left to choose from
        going = ~stuck
        result.tokens[active, 0, place] = torch.where(stuck, pad_id, symbols)
        result.lengths[active, 0] += going
        sums[active] += torch.where(stuck, 0.0, gained)
        if eos_id is not None:
            going = going & (symbols != eos_id)
        left = (going & (own_caps > place + 1)).nonzero().squeeze(1)
        if len(left) == 0:
            break
        if len(left) < len(active):
            active, symbols, own_caps = active[left], symbols[left], own_caps[left]
            state, context = select(state, left), select(context, left)
    lengths = result.lengths[:, 0]
    scores = torch.where(lengths > 0, sums / norm(lengths.clamp(min=1)), -torch.inf)
    return trim(result._replace(scores=scores[:, None]), 1)


def _named(max_new_tokens: int | Tensor) -> int | Tensor:
    if isinstance(max_new_tokens, int):
        check_at_least("max_new_tokens", max_new_tokens, 1)
    return max_new_tokens
