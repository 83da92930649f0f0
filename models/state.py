"""The state of a recurrent layer: a tensor or nested tuples of tensors, every leaf batch-first.

Because every leaf is (B, ...), each operation on a state is one map over its leaves.
"""

from collections.abc import Callable

import torch
from torch import Tensor

State = Tensor | tuple["State", ...]


def map_state(function: Callable[..., Tensor], *states: State) -> State:
    """Apply `function` to corresponding leaves of one or more states of the same structure."""
    first = states[0]
    if isinstance(first, Tensor):
        return function(*states)
    return tuple(map_state(function, *parts) for parts in zip(*states, strict=True))


def leaves(state: State) -> list[Tensor]:
    """All tensors of a state, left to right."""
    if isinstance(state, Tensor):
        return [state]
    return [leaf for part in state for leaf in leaves(part)]


def detach(state: State) -> State:
    """Cut the state from the graph: where truncated back-propagation stops."""
    return map_state(Tensor.detach, state)


def select_rows(state: State, rows: Tensor) -> State:
    """Rows (N,) of a state of batch B → a state of batch N."""
    return map_state(lambda leaf: leaf.index_select(0, rows), state)


def repeat_rows(state: State, times: int) -> State:
    """Each row `times` times in a row, (B, ...) → (B * times, ...): one a beam."""
    return map_state(lambda leaf: leaf.repeat_interleave(times, dim=0), state)


def where_rows(condition: Tensor, yes: State, no: State) -> State:
    """Row b from `yes` where condition[b] (B,), else from `no`."""

    def choose(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(condition.view(-1, *[1] * (a.dim() - 1)), a, b)

    return map_state(choose, yes, no)
