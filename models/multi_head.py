"""Attention that reads a memory in several places at once."""

import torch
from torch import Tensor, nn

from models.attention import Attend, Attention, MemoryReader
from models.product import RepeatedProduct
from models.state import State


class MultiHeadAttention(MemoryReader):
    """`heads` attentions side by side, each over projections of its own; called as `Attention` is.

    A head compares and reads query_size / heads numbers (rounded up) of a query and of each value;
    what all have read is projected to one context. The weights that come out are the heads' mean,
    which sums to 1 as one head's do: for pictures, coverage and unknown words.

    Vaswani et al. 2017, arXiv 1706.03762, with any `kind` of comparison: additive as in Chen et
    al. 2018, arXiv 1804.09849, products scaled by 1/sqrt of a head's size. The heads' projections
    are their own; the small matrices that some kinds add behind them are shared.
    """

    def __init__(
        self,
        *,
        kind: str,
        query_size: int,
        value_size: int,
        heads: int,
        attention_size: int | None = None,
    ) -> None:
        """`attention_size` is that of all heads together, None: query_size."""
        super().__init__()
        if heads < 1:
            raise ValueError(f"heads must be at least 1, got {heads}")
        self.heads = heads
        self.size = -(-query_size // heads)
        self.query = nn.Linear(query_size, heads * self.size, bias=False)
        self.key_and_value = nn.Linear(value_size, 2 * heads * self.size)
        self.join = nn.Linear(heads * self.size, value_size, bias=False)
        self.each = Attention(
            kind=kind,
            query_size=self.size,
            value_size=self.size,
            attention_size=-(-(attention_size or query_size) // heads),
        )
        self.key_size = heads * self.each.key_size
        self.scale = 1.0 if kind == "additive" else self.size**-0.5

    def prepare(self, values: Tensor) -> Tensor:
        """All that depends on the memory alone: (B, S, D) → every head's keys and values."""
        keys, own = self.key_and_value(values).unflatten(-1, (-1, self.size)).tensor_split(2, dim=2)
        return torch.cat([self.each.prepare(keys).flatten(2), own.flatten(2)], dim=-1)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()
    ) -> tuple[Tensor, Tensor]:
        queries = query.unsqueeze(1) if query.dim() == 2 else query
        heads = (self.query(queries) * self.scale).unflatten(-1, (self.heads, -1))
        folded = heads.transpose(1, 2).flatten(0, 1)  # (B * heads, T, Q / heads)
        contexts, weights = self.each(folded, *self._fold(keys, mask))
        context = contexts.unflatten(0, (-1, self.heads)).transpose(1, 2).flatten(2)
        context, mean = self.join(context), self._mean(weights)
        if query.dim() == 2:
            return context.squeeze(1), mean.squeeze(1)
        return context, mean

    def stepper(self, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()) -> Attend:
        attend_each = self.each.stepper(*self._fold(keys, mask))
        project, join = RepeatedProduct(self.query.weight), RepeatedProduct(self.join.weight)

        def attend(query: Tensor) -> tuple[Tensor, Tensor]:
            heads = (project(query) * self.scale).view(-1, self.size)
            contexts, weights = attend_each(heads)
            return join(contexts.reshape(len(query), -1)), self._mean(weights)

        return attend

    def _fold(self, keys: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heads as rows: keys (B, S, K + Q), mask → (B * heads, S, ...) of keys, values, mask."""
        parts = keys.split([self.key_size, self.heads * self.size], dim=-1)
        own_keys, own = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2).flatten(0, 1) for part in parts
        )
        return own_keys, own, mask.repeat_interleave(self.heads, dim=0)

    def _mean(self, weights: Tensor) -> Tensor:
        return weights.unflatten(0, (-1, self.heads)).mean(1)
