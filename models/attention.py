"""Attention: which places of a memory matter to a query, and their mean weighted by that."""

import torch
from torch import Tensor, nn

CHUNK = 2**22  # elements of the widest intermediate of additive attention


class Attention(nn.Module):
    """Attend over a memory: query (B, Q) → context (B, D), weights (B, S); or all queries at once.

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

    def prepare(self, values: Tensor) -> Tensor:
        """What of the comparison depends on the memory alone, once a sequence: → (B, S, K)."""
        return self.score.prepare(values)

    def forward(
        self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(B, Q) or (B, T, Q), `prepare`d keys, (B, S, D), (B, S) → contexts, weights.

        What the mask shuts out has a weight of exactly 0; a row without any place has context 0.
        """
        queries = query.unsqueeze(1) if query.dim() == 2 else query
        shut = ~mask[:, None]
        scores = self.score(queries, keys)
        scores = scores.masked_fill(shut, torch.finfo(scores.dtype).min)
        # Weights are fp32 under autocast too: in bf16 they would not sum to 1.
        precise = torch.promote_types(scores.dtype, torch.float32)
        weights = scores.softmax(dim=-1, dtype=precise).masked_fill(shut, 0.0)
        context = torch.bmm(weights.to(values.dtype), values)
        if query.dim() == 2:
            return context.squeeze(1), weights.squeeze(1)
        return context, weights


class Score(nn.Module):
    """How well each query suits each key."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__()

    def prepare(self, values: Tensor) -> Tensor:
        """(B, S, D) → keys (B, S, K)."""
        return values

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        """(B, T, Q), (B, S, K) → (B, T, S)."""
        raise NotImplementedError


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


class General(Score):
    """q · W v, computed as (Wᵀ q) · v: queries are fewer than a memory's places while decoding."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(query_size, value_size, attention_size)
        self.project = nn.Linear(query_size, value_size, bias=False)

    def forward(self, queries: Tensor, keys: Tensor) -> Tensor:
        return torch.bmm(self.project(queries).to(keys.dtype), keys.transpose(1, 2))


class Additive(Score):
    """u · tanh(W q + U v + b)."""

    def __init__(self, query_size: int, value_size: int, attention_size: int) -> None:
        super().__init__(query_size, value_size, attention_size)
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


SCORES: dict[str, type[Score]] = {"additive": Additive, "general": General, "dot": Dot}
