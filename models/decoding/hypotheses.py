"""What a search is given and what it finds, and the moves of rows that all searches share."""

from collections.abc import Callable, Sequence
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


def nothing(batch: int, count: int, length: int, pad_id: int, device: torch.device) -> Hypotheses:
    """Room for `count` hypotheses a row."""
    return Hypotheses(
        tokens=torch.full((batch, count, length), pad_id, device=device),
        lengths=torch.zeros(batch, count, dtype=torch.long, device=device),
        scores=torch.full((batch, count), -torch.inf, device=device),
    )


def merge(
    best: Hypotheses,
    active: Tensor,
    prefixes: Tensor,
    scores: Tensor,
    pad_id: int,
    behind: Tensor | None = None,
) -> Tensor:
    """Put prefixes (A, N, length) of score (A, N) among the best of their sentences, in place.

    -inf means that there is none. `behind` (A, N): after all that were there already, those with a
    0 first. Gives the places (A, K) that the best now had in the old ones followed by the new ones.
    """
    real = scores > -torch.inf
    tokens = best.tokens.new_full((*scores.shape, best.tokens.size(2)), pad_id)
    tokens[:, :, : prefixes.size(2)] = prefixes.masked_fill(~real[:, :, None], pad_id)
    merged = torch.cat([best.scores[active], scores], dim=1)
    count = best.scores.size(1)
    if behind is not None:
        place = torch.cat([behind.new_zeros(len(active), count), behind + 1], dim=1)
        place = place.masked_fill(merged == -torch.inf, torch.iinfo(place.dtype).max)
        order = merged.argsort(dim=1, descending=True, stable=True)
        order = order.gather(1, place.gather(1, order).argsort(dim=1, stable=True))[:, :count]
    else:
        order = merged.topk(count, dim=1).indices
    lengths = torch.where(real, prefixes.size(2), 0)
    best.tokens[active] = pick(torch.cat([best.tokens[active], tokens], dim=1), order)
    best.lengths[active] = torch.cat([best.lengths[active], lengths], dim=1).gather(1, order)
    best.scores[active] = merged.gather(1, order)
    return order


def distinct(found: Hypotheses, pad_id: int) -> Hypotheses:
    """The first of those with the same symbols; the others become empty and go to the end."""
    tokens, lengths, scores = found
    same = (tokens[:, :, None] == tokens[:, None]).all(3)
    same &= lengths[:, :, None] == lengths[:, None]
    gone = same.tril(-1).any(2)
    order = gone.long().argsort(dim=1, stable=True)
    return Hypotheses(
        pick(tokens.masked_fill(gone[:, :, None], pad_id), order),
        lengths.masked_fill(gone, 0).gather(1, order),
        scores.masked_fill(gone, -torch.inf).gather(1, order),
    )


def trim(found: Hypotheses, count: int) -> Hypotheses:
    """The first `count` a row, without the columns that no row fills."""
    lengths = found.lengths[:, :count]
    longest = int(lengths.max()) if lengths.numel() else 0
    return Hypotheses(found.tokens[:, :count, :longest], lengths, found.scores[:, :count])


def pick(values: Tensor, index: Tensor) -> Tensor:
    """Along the second dimension: (A, W, L), index (A, N) → (A, N, L)."""
    return values.gather(1, index[:, :, None].expand(-1, -1, values.size(2)))


def map_rows(function: Callable[[Tensor], Tensor], parts: Any) -> Any:
    """Apply `function` to every tensor of nested tuples, whose types stay; None stays None."""
    if parts is None:
        return None
    if isinstance(parts, Tensor):
        return function(parts)
    done = [map_rows(function, part) for part in parts]
    return type(parts)(*done) if hasattr(parts, "_fields") else tuple(done)


def select(parts: Any, rows: Tensor) -> Any:
    """Rows (N,) of a state or context."""
    return map_rows(lambda part: part.index_select(0, rows), parts)


def repeat(parts: Any, times: int) -> Any:
    """Each row of a state or context `times` times in a row."""
    if times == 1:
        return parts
    return map_rows(lambda part: part.repeat_interleave(times, dim=0), parts)


def first_symbols(state: State, bos_id: int | Tensor) -> Tensor:
    """The first symbol, one for all rows or one a row (B,) → (B,)."""
    leaf = leaves(state)[0]
    return torch.zeros(len(leaf), dtype=torch.long, device=leaf.device) + bos_id


def row_caps(max_length: int | Tensor, batch: int, device: torch.device) -> tuple[Tensor, int]:
    """`max_length`, one for all rows or one a row (B,) → (B,), and the largest."""
    if isinstance(max_length, int):
        check_at_least("max_length", max_length, 1)
        return torch.full((batch,), max_length, device=device), max_length
    check_at_least("max_length", int(max_length.min()), 1)
    return max_length.to(device), int(max_length.max())


def uniform(seeds: Sequence[int], *shape: int) -> Tensor:
    """Numbers (B, *shape) in [0, 1), a row from each seed: the same in any batch, on any device."""
    generator = torch.Generator()
    return torch.stack(
        [torch.rand(shape, generator=generator.manual_seed(int(seed))) for seed in seeds]
    )


def check_at_least(name: str, value: float, least: float) -> None:
    if not value >= least:
        raise ValueError(f"{name} is {least} or more, got {value}")
