"""How a query and the places of a memory are compared: the scores that attention weighs by."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.product import RepeatedProduct

CHUNK = 2**22  # elements of the widest intermediate of additive attention


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
        moved = self.query(queries)
        pieces = (moved,) if queries.size(1) == 1 else moved.split(steps, dim=1)
        parts = [
            self.weigh(torch.tanh(part[:, :, None] + keys[:, None])).squeeze(-1) for part in pieces
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
