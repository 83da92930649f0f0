"""Coverage: attention that knows what it has attended to, and what it costs to go there again."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attend, MemoryReader
from models.state import State


class CoverageAttention(MemoryReader):
    """An attention whose scores see the sum of its weights so far, for each place of the memory.

    The sum c moves a place's key k to k + c w, w learnt. With additive attention that is just See
    et al. 2017, arXiv 1704.04368, u · tanh(W q + U v + c w + b), the simplest coverage of Tu et
    al. 2016, arXiv 1601.04811; with products the score gains c (q · w). Of several heads the mean
    weights are summed. Each step needs the weights of the one before, so that they run in turn.
    """

    def __init__(self, attention: MemoryReader) -> None:
        super().__init__()
        self.attention = attention
        self.key_size = attention.key_size
        self.weight = nn.Parameter(torch.zeros(self.key_size))  # first it attends as without

    def prepare(self, values: Tensor) -> Tensor:
        return self.attention.prepare(values)

    def start(self, mask: Tensor) -> Tensor:
        """Nothing is covered: zeros (B, S)."""
        dtype = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device)

    def after(self, seen: State, weights: Tensor) -> Tensor:
        assert isinstance(seen, Tensor)
        return seen + (weights if weights.dim() == 2 else weights.sum(1))

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()
    ) -> tuple[Tensor, Tensor]:
        if query.dim() == 3:
            attend = self.stepper(keys, values, mask, seen)
            steps = [attend(one) for one in query.unbind(1)]
            context, weights = (torch.stack(parts, dim=1) for parts in zip(*steps, strict=True))
            return context, weights
        assert isinstance(seen, Tensor)
        # what stands behind the compared numbers, such as the values of several heads, stays
        weight = F.pad(self.weight, (0, keys.size(-1) - self.key_size))
        moved = keys + (seen.unsqueeze(-1) * weight).to(keys.dtype)
        context, weights = self.attention(query, moved, values, mask)
        return context, weights

    def stepper(self, keys: Tensor, values: Tensor, mask: Tensor, seen: State = ()) -> Attend:
        def attend(query: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal seen
            context, weights = self(query, keys, values, mask, seen)
            seen = self.after(seen, weights)
            return context, weights

        return attend


def coverage_loss(attention: Tensor, mask: Tensor, *, weight: float = 1.0) -> Tensor:
    """How much is attended again: weights (B, T, S), steps that count (B, T) → `weight` * a sum.

    At each step, summed over the places, the smaller of its weight and of the sum of the weights
    before (See et al. 2017, arXiv 1704.04368). It needs no `CoverageAttention`.
    """
    before = attention.cumsum(dim=1) - attention
    again = torch.minimum(attention, before).sum(-1)
    return weight * again.masked_fill(~mask, 0.0).sum()
