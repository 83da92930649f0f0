"""Attention: which places of a memory matter to a query, and their mean weighted by that."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.product import RepeatedProduct
from models.state import State

CHUNK = 2**22  # elements of the widest intermediate of additive attention


class MemoryReader(nn.Module):
    """Whatever attends over a memory: query (B, Q) → context (B, D), weights (B, S).

    What it keeps from one step to the next (`seen`, none by default) is a part of the decoder's
    state: `start` gives it before the first step, `after` follows it.
    """

    key_size: int  # of what `prepare` gives: so many of its first numbers are compared

    def prepare(self, values: Tensor) -> Tensor:
        """What of the comparison depends on the memory alone, once a sequence: → (B, S, K)."""
        raise NotImplementedError

    def start(self, mask: Tensor) -> State:
        """What is kept before the first step over a memory with this mask (B, S)."""
        return ()

    def after(self, seen: State, weights: Tensor) -> State:
        """What is kept after steps that had these weights, (B, S) or (B, T, S)."""
        return seen

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()
    ) -> tuple[Tensor, Tensor]:
        """(B, Q) or (B, T, Q), `prepare`d keys, (B, S, D), (B, S) → contexts, weights.

        What the mask shuts out has a weight of exactly 0; a row without any place has context 0.
        """
        raise NotImplementedError

    def stepper(self, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()) -> "Attend":
        """`forward` for the queries (B, Q) of one sequence in turn, as a function."""
        raise NotImplementedError


class Attention(MemoryReader):
    """Attend over a memory, for one query or for all at once.

    `kind` says how a query and a value are compared: "additive" (Bahdanau et al. 2014, arXiv
    1409.0473), "general" or "dot" (Luong et al. 2015, arXiv 1508.04025).
    """

    def __init__(
        self, *, kind: str, query_size: int, value_size: int, attention_size: int | None = None
    ) -> None:
        """`attention_size` is the width of additive attention's hidden layer, None: query_size."""
        super().__init__()
        if kind not in SCORES:
            raise ValueError(f"attention is one of {', '.join(SCORES)} or none, got {kind!r}")
        self.score: Score = SCORES[kind](query_size, value_size, attention_size or query_size)
        self.key_size = self.score.key_size

    def prepare(self, values: Tensor) -> Tensor:
        return self.score.prepare(values)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()
    ) -> tuple[Tensor, Tensor]:
        queries = query.unsqueeze(1) if query.dim() == 2 else query
        shut = ~mask[:, None]
        weights = _weigh(self.score(queries, keys), shut)
        context = torch.bmm(weights.to(values.dtype), values)
        if query.dim() == 2:
            return context.squeeze(1), weights.squeeze(1)
        return context, weights

    def stepper(self, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()) -> "Attend":
        """The gradients of keys, values and matrices are summed up once, not at every step."""
        score = self.score.stepper(keys)
        read = RepeatedProduct(values.transpose(1, 2))
        shut = ~mask[:, None]

        def attend(query: Tensor) -> tuple[Tensor, Tensor]:
            weights = _weigh(score(query.unsqueeze(1)), shut)
            return read(weights).squeeze(1), weights.squeeze(1)

        return attend


Attend = Callable[[Tensor], tuple[Tensor, Tensor]]


def _weigh(scores: Tensor, shut: Tensor) -> Tensor:
    scores = scores.masked_fill(shut, torch.finfo(scores.dtype).min)
    # Weights are fp32 under autocast too: in bf16 they would not sum to 1.
    precise = torch.promote_types(scores.dtype, torch.float32)
    return scores.softmax(dim=-1, dtype=precise).masked_fill(shut, 0.0)


class Score(nn.Module):
    """How well each query suits each key."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__()
        self.key_size = value_size

    def prepare(self, values: Tensor) -> Tensor:
        """(B, S, D) → keys (B, S, K)."""
        return values

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q), (B, S, K) → (B, T, S)."""
        raise NotImplementedError

    def stepper(self, keys: Tensor) -> Callable[[Tensor], Tensor]:
        """`forward` with these keys for one query after the other: (B, 1, Q) → (B, 1, S)."""
        return partial(self, keys=keys)


class Dot(Score):
    """q · v: nothing to learn, so both must be of one size."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(query_size, value_size, attention_size)
        if query_size != value_size:
            raise ValueError(
                "attention=dot compares vectors of one size, got a decoder of size "
                f"{query_size} and a memory of size {value_size}: make them equal (a bidirectional "
                "encoder gives twice its hidden_size) or use attention=general"
            )

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.bmm(queries.to(keys.dtype), keys.transpose(1, 2))

    def stepper(self, keys: Tensor) -> Callable[[Tensor], Tensor]:
        return RepeatedProduct(keys)


class General(Score):
    """q · W v, computed as (Wᵀ q) · v: queries are fewer than a memory's places while decoding."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(query_size, value_size, attention_size)
        self.project = nn.Linear(query_size, value_size, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.bmm(self.project(queries).to(keys.dtype), keys.transpose(1, 2))

    def stepper(self, keys: Tensor) -> Callable[[Tensor], Tensor]:
        project, compare = RepeatedProduct(self.project.weight), RepeatedProduct(keys)
        return lambda queries: compare(project(queries.squeeze(1)).unsqueeze(1))


class Additive(Score):
    """u · tanh(W q + U v + b)."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(query_size, value_size, attention_size)
        self.key_size = attention_size
        self.query = nn.Linear(query_size, attention_size, bias=False)
        self.key = nn.Linear(value_size, attention_size)
        self.weigh = nn.Linear(attention_size, 1, bias=False)

    def prepare(self, values: Tensor) -> Tensor:
        keys: Tensor = self.key(values)
        return keys

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        # (B, T, S, A) is the sum of every query and every key: made for a few queries at a time.
        steps = max(1, CHUNK // max(1, keys.numel()))
        parts = [
            self.weigh(torch.tanh(part[:, :, None] + keys[:, None])).squeeze(-1)
            for part in self.query(queries).split(steps, dim=1)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def stepper(self, keys: Tensor) -> Callable[[Tensor], Tensor]:
        project, sums = RepeatedProduct(self.query.weight), _Sums()
        shared, weigh = _Shared.apply(keys, self.weigh.weight, sums)

        def score(queries: Tensor) -> Tensor:
            query = project(queries.squeeze(1)).unsqueeze(1)
            return _Scores.apply(query, shared, weigh, sums).unsqueeze(1)

        return score


class _Sums:
    """The gradients of keys and of u over the steps so far."""

    keys: Tensor | None = None
    weigh: Tensor | None = None


class _Shared(torch.autograd.Function):
    """What all steps read, as it is; its gradient is the sum that they left in `sums`."""

    @staticmethod
    def forward(ctx: Any, keys: Tensor, weigh: Tensor, sums: _Sums) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        ctx.sums = sums
        return keys.view_as(keys), weigh.to(keys.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, Tensor | None, None]:
        keys, weigh = ctx.sums.keys, ctx.sums.weigh
        ctx.sums.keys = ctx.sums.weigh = None
        return keys, weigh, None


class _Scores(torch.autograd.Function):
    """u · tanh(q + k) of one step: tanh, (B, S, A), is computed anew for the gradient."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, keys: Tensor, weigh: Tensor, sums: _Sums) -> Tensor:
        ctx.save_for_backward(query, keys, weigh)
        ctx.sums = sums
        with torch.autocast(keys.device.type, enabled=False):
            return (query + keys).tanh_() @ weigh[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, keys, weigh = ctx.saved_tensors
        sums, grad = ctx.sums, grad.to(keys.dtype)
        # summed in float32: a sum of many small steps has no room in bfloat16
        wide = torch.promote_types(keys.dtype, torch.float32)
        hidden = (query + keys).tanh_()
        share = (grad.flatten() @ hidden.flatten(0, 1)).to(wide)[None]
        sums.weigh = share if sums.weigh is None else sums.weigh.add_(share)
        slopes = hidden.square_().neg_().add_(1.0).mul_(weigh[0]).mul_(grad.unsqueeze(-1))
        sums.keys = slopes.to(wide, copy=True) if sums.keys is None else sums.keys.add_(slopes)
        return slopes.sum(1, keepdim=True).to(query.dtype), None, None, None


SCORES: dict[str, type[Score]] = {"additive": Additive, "general": General, "dot": Dot}
