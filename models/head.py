"""The output layer: what a model's hidden vectors say, and what it costs to be wrong.

A part of its own, so that another distribution replaces it without touching the model below.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cross_entropy import IGNORED, linear_cross_entropy


class Head(nn.Module):
    """Hidden vectors (..., D) → numbers, and the loss of many positions as (sum, count)."""

    stepwise = True  # whether an answer depends on its own hidden vector alone

    def forward(self, hidden: Tensor) -> Tensor:
        """The layer's plain numbers: (..., D) → (..., V) logits or real values."""
        raise NotImplementedError

    def log_probs(self, hidden: Tensor) -> Tensor:
        """Log-probabilities in float32: (..., D) → (..., V)."""
        raise NotImplementedError

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Hidden (..., D), targets, mask (...), True or None where all count → sum, count.

        Two float32 scalars, the sum with a gradient. What stands where the mask is False, target
        or hidden vector, changes neither.
        """
        raise NotImplementedError

    def answers(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Hidden (..., D) → the likeliest class (...), and the log-probabilities (..., V) of all.

        `mask` (...) is for heads whose answers depend on each other: True at what is there.
        """
        log_probs = self.log_probs(hidden)
        return log_probs.argmax(-1), log_probs


HeadFactory = Callable[..., Head]  # given sizes and what the model knows: see `build_head`


def build_head(factory: HeadFactory, **known: Any) -> Head:
    """The output layer that a config chose, told what a model knows: `input_size`, `num_outputs`,
    `label_smoothing`, and `tied` (a language model's embedding) or `class_weights`.

    ValueError where it has no use for one of them, and so belongs to another kind of model.
    """
    useless = sorted(known.keys() - inspect.signature(factory).parameters.keys())
    if useless:
        name = getattr(factory, "func", factory).__name__
        raise ValueError(
            f"model/head: {name} is not for this model, it has no use for {', '.join(useless)}; "
            "leave model/head out for a softmax"
        )
    return factory(**known)


class SoftmaxHead(Head):
    """One of `num_outputs` classes or symbols; targets (...) are their ids, the loss is in nats.

    `tied` shares the matrix of an embedding (Press and Wolf 2017, arXiv 1608.05859); where its
    size is not `input_size`, a projection leads there. `label_smoothing` (Szegedy et al. 2016,
    arXiv 1512.00567) spreads that share of each target over all classes; `class_weights`, one a
    class, weigh each position by its target, in the loss and in the count. Both in training only,
    so that a measured loss stays a likelihood.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        *,
        input_size: int,
        num_outputs: int,
        bias: bool = True,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        tied: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        if not 0.0 <= label_smoothing < 1.0:
            raise ValueError(
                f"label_smoothing is a share of at least 0 and below 1, got {label_smoothing}"
            )
        self.input_size = input_size
        self.num_outputs = num_outputs
        self.label_smoothing = label_smoothing
        given = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", given, persistent=False)
        self.projection: nn.Module = nn.Identity()
        size = input_size
        if tied is not None:
            size = tied_size(tied, num_outputs)
            if size != input_size:
                self.projection = nn.Linear(input_size, size, bias=False)
        self.linear = output_layer(size, num_outputs, bias=bias, tied=tied)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., D) → (..., V), in the dtype of autocast."""
        return self.linear(self.projection(hidden))

    def log_probs(self, hidden: Tensor) -> Tensor:
        return F.log_softmax(full(self(hidden)), dim=-1)

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        rows, ids = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
        count = counted(targets, mask)
        if mask is not None:
            chosen = mask.reshape(-1)
            if mask.is_cuda:  # selecting rows would wait for the device: mark them instead
                ids = ids.masked_fill(~chosen, IGNORED)
            elif not bool(chosen.all()):
                rows, ids = rows[chosen], ids[chosen]
        smoothing = self.label_smoothing if self.training else 0.0
        if self.class_weights is not None and self.training:
            return self._weighted(rows, ids, self.class_weights)
        layer = self.linear
        nats = linear_cross_entropy(self.projection(rows), layer.weight, layer.bias, ids, smoothing)
        return nats, count

    def _weighted(self, rows: Tensor, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        logits = full(self(rows))
        nats = F.cross_entropy(
            logits,
            ids,
            weights.to(logits.dtype),
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        kept = ids != IGNORED
        return nats, weights[ids.masked_fill(~kept, 0)].masked_fill(~kept, 0.0).sum()


class BernoulliHead(Head):
    """Independent keys, on or off; targets (..., K) are 0 or 1.

    The loss is the negative log-likelihood of whole frames: nats summed over the keys, and a count
    of frames, as is usual for polyphonic music (Boulanger-Lewandowski et al. 2012, arXiv
    1206.6392).
    """

    def __init__(self, *, input_size: int, keys: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.num_outputs = keys
        self.linear = nn.Linear(input_size, keys)

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (..., D) → (..., K)."""
        return self.linear(hidden)

    def log_probs(self, hidden: Tensor) -> Tensor:
        """The log-probability of each key being on, in float32: (..., D) → (..., K)."""
        return F.logsigmoid(full(self(hidden)))

    def answers(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The keys (..., K) that are likelier on than off, and the log-probability of each on."""
        logits = full(self(hidden))
        return logits > 0, F.logsigmoid(logits)

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        logits = full(self(hidden))
        nats = F.binary_cross_entropy_with_logits(
            logits, targets.to(logits.dtype), reduction="none"
        ).sum(-1)
        return _masked_sum(nats, mask), counted(nats, mask)


class RealHead(Head):
    """Real numbers; targets (..., K). The loss is the squared error, its count that of numbers."""

    def __init__(self, *, input_size: int, num_outputs: int) -> None:
        super().__init__()
        self.input_size = input_size
        self.num_outputs = num_outputs
        self.linear = nn.Linear(input_size, num_outputs)

    def forward(self, hidden: Tensor) -> Tensor:
        """Values (..., D) → (..., K), in float32."""
        return full(self.linear(hidden))

    def log_probs(self, hidden: Tensor) -> Tensor:
        raise TypeError("real numbers have no log-probabilities here: call the head for its values")

    def answers(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The values (..., K), twice."""
        values = self(hidden)
        return values, values

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        values = self(hidden)
        errors = (values - targets.to(values.dtype).reshape(values.shape)).square().sum(-1)
        return _masked_sum(errors, mask), counted(errors, mask) * self.num_outputs


def full(values: Tensor) -> Tensor:
    """At least float32: sums over a vocabulary are not made in half precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def tied_size(embedding: nn.Embedding, num_outputs: int) -> int:
    """The size of an embedding that an output layer shares. ValueError where rows are missing."""
    if embedding.num_embeddings != num_outputs:
        raise ValueError(
            f"a tied output layer has a row for each symbol: the embedding has "
            f"{embedding.num_embeddings}, the output {num_outputs}"
        )
    return embedding.embedding_dim


def output_layer(
    size: int, num_outputs: int, *, bias: bool, tied: nn.Embedding | None
) -> nn.Linear:
    """The matrix of a softmax; `tied` shares the embedding's, and a bias then begins at 0."""
    layer = nn.Linear(size, num_outputs, bias=bias)
    if tied is not None:
        layer.weight = tied.weight
        if bias:
            nn.init.zeros_(layer.bias)
    return layer


def _masked_sum(values: Tensor, mask: Tensor | None) -> Tensor:
    return values.sum() if mask is None else values.masked_fill(~mask, 0.0).sum()


def counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """How many of the values (...) count, as a float32 scalar."""
    if mask is None:
        return torch.full((), float(values.numel()), device=values.device)
    return mask.sum(dtype=torch.float32)
