"""Attention: which places of a memory matter to a query, and their mean weighted by that."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from models.product import RepeatedProduct
from models.scores import SCORES, Score
from models.state import State


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
