"""Tags that depend on their neighbours: a linear-chain conditional random field.

Lafferty et al. 2001; above a recurrent network Huang et al. 2015, arXiv 1508.01991, and Lample et
al. 2016, arXiv 1603.01360. A way through T steps scores the sum of its emissions (T, K), which the
network gives, and of the transitions (K, K), [from, to], between neighbours; its probability is
exp(score) by the sum over all ways. The steps of a row are its first `lengths`.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.head import SoftmaxHead, full


class CRFHead(SoftmaxHead):
    """Whole sequences of classes: hidden (B, T, D), targets (B, T), the loss is in nats a step.

    Steps where the mask (B, T) is False do not exist: the chain goes on from the one before. `ends`
    also scores which classes begin and end a sequence. Without transitions it is a softmax.
    """

    stepwise = False

    def __init__(
        self,
        *,
        input_size: int,
        num_outputs: int,
        ends: bool = True,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        if label_smoothing or class_weights is not None:
            raise ValueError(
                "a CRF learns sequences of classes, which have neither a smoothing nor weights: "
                f"set model.label_smoothing=0 and task.class_weights=null, got {label_smoothing} "
                f"and {class_weights}"
            )
        super().__init__(input_size=input_size, num_outputs=num_outputs)
        self.transitions = nn.Parameter(torch.zeros(num_outputs, num_outputs))
        self.ends = nn.Parameter(torch.zeros(2, num_outputs)) if ends else None  # first, last

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        emissions, order, lengths = self._chain(hidden, mask)
        tags = targets.gather(1, order)
        right = score(emissions, self.transitions, tags, lengths).sum()
        every = log_partition(emissions, self.transitions, lengths)
        return every - right, lengths.sum(dtype=torch.float32)

    def log_probs(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """The log-probability of each class at each step over all ways, in float32: (B, T, V)."""
        return self.answers(hidden, mask)[1]

    def answers(self, hidden: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The classes (B, T) of the likeliest way, and the log-probabilities of all (B, T, V)."""
        emissions, order, lengths = self._chain(hidden, mask)
        way = best_way(emissions, self.transitions, lengths)
        logs = log_marginals(emissions, self.transitions, lengths)
        back = order.argsort(1)
        return way.gather(1, back), _at(back, logs)

    def _chain(self, hidden: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Emissions (B, T, V), those of the mask first; their places (B, T); how many they are."""
        if hidden.dim() != 3:
            raise ValueError(f"a CRF reads sequences (B, T, D), got {tuple(hidden.shape)}")
        emissions = full(self(hidden))
        if mask is None:
            mask = torch.ones_like(emissions[:, :, 0], dtype=torch.bool)
        order = (~mask).int().argsort(dim=1, stable=True)
        emissions, lengths = _at(order, emissions), mask.sum(1)
        if self.ends is not None:
            steps = torch.arange(mask.size(1), device=mask.device)
            places = torch.stack([(steps == 0).expand_as(mask), steps == lengths[:, None] - 1], 2)
            with torch.autocast(hidden.device.type, enabled=False):
                emissions = emissions + places.to(emissions.dtype) @ full(self.ends)
        return emissions, order, lengths


def _at(order: Tensor, rows: Tensor) -> Tensor:
    return rows.gather(1, order[..., None].expand_as(rows))


def score(emissions: Tensor, transitions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
    """The score of one way a row: emissions (B, T, K), tags (B, T) → (B,)."""
    there = _there(emissions, lengths)
    tags = tags.masked_fill(~there, 0)
    emitted = emissions.gather(2, tags[..., None]).squeeze(2)
    moved = transitions[tags[:, :-1], tags[:, 1:]]
    return emitted.masked_fill(~there, 0.0).sum(1) + moved.masked_fill(~there[:, 1:], 0.0).sum(1)


def log_partition(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    """The log of the sum of all ways' exp(score), summed over rows: (B, T, K) → a scalar.

    Has a first derivative only: by the emissions it is the probability of each class.
    """
    total: Tensor = _LogPartition.apply(emissions, transitions, lengths)
    return total


@torch.no_grad()
def log_marginals(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    """The log-probability of each class at each step, over all ways: (B, T, K) → (B, T, K).

    At steps that do not exist it is the softmax of their emissions.
    """
    inside, outside, *_ = _sweep(emissions, transitions, lengths)
    tiny = torch.finfo(inside.dtype).tiny
    logs = (inside * outside).clamp(min=tiny).log().log_softmax(-1)
    return torch.where(_there(emissions, lengths)[..., None], logs, emissions.log_softmax(-1))


@torch.no_grad()
def best_way(emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
    """The way of the greatest score: (B, T, K) → classes (B, T).

    Steps that do not exist repeat the last. Viterbi 1967, doi 10.1109/TIT.1967.1054010.
    """
    there = _there(emissions, lengths).unbind(1)
    stay = torch.arange(emissions.size(2), device=emissions.device)
    first, *others = emissions.unbind(1)
    reached, origins = first, []
    for emitted, here in zip(others, there[1:], strict=True):
        # the best score of a way to each class, and the class before on that way
        moved, origin = (reached[:, :, None] + transitions).max(1)
        reached = torch.where(here[:, None], moved + emitted, reached)
        origins.append(torch.where(here[:, None], origin, stay))
    way = [reached.argmax(1, keepdim=True)]
    for origin in reversed(origins):
        way.append(origin.gather(1, way[-1]))
    return torch.cat(way[::-1], 1)


class _LogPartition(torch.autograd.Function):
    """Gradients are made on the way forward, by one sweep each way."""

    @staticmethod
    def forward(ctx: Any, emissions: Tensor, transitions: Tensor, lengths: Tensor) -> Tensor:
        inside, outside, weights, total = _sweep(emissions, transitions, lengths)
        there = _there(emissions, lengths)[..., None]
        tiny = torch.finfo(inside.dtype).tiny
        marginals = inside * outside
        marginals = marginals / marginals.sum(-1, keepdim=True).clamp(min=tiny)
        # p(i, j) of two steps is inside_i · weight_ij · (emission · outside)_j by the sum of these
        before, after = inside[:, :-1], weights.emissions[:, 1:] * outside[:, 1:]
        with torch.autocast(emissions.device.type, enabled=False):
            sums = (before @ weights.transitions * after).sum(-1, keepdim=True)
            before = (before / sums.clamp(min=tiny)).masked_fill(~there[:, 1:], 0.0)
            pairs = weights.transitions * (before.flatten(0, 1).t() @ after.flatten(0, 1))
        ctx.save_for_backward(marginals.masked_fill(~there, 0.0), pairs)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        marginals, pairs = ctx.saved_tensors
        return grad * marginals, grad * pairs, None


class _Weights(NamedTuple):
    emissions: Tensor  # (B, T, K), exp of the scores, the greatest of each step 1
    transitions: Tensor  # (K, K), the greatest 1


def _sweep(
    emissions: Tensor, transitions: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, _Weights, Tensor]:
    """Ways up to each step and its class, ways on from there (both (B, T, K), up to a factor a
    step), the weights of one step, and the log of the sum over all ways, summed over rows.

    Each step is scaled to a sum of 1, so that nothing overflows however long the chain: Rabiner
    1989, doi 10.1109/5.18626.
    """
    highest, most = emissions.amax(-1, keepdim=True), transitions.max()
    weights = _Weights((emissions - highest).exp(), (transitions - most).exp())
    steps, there = weights.emissions.unbind(1), _there(emissions, lengths)
    tiny = torch.finfo(emissions.dtype).tiny
    with torch.autocast(emissions.device.type, enabled=False):
        inside, scales = [], []
        ways = torch.ones_like(steps[0])
        for place, emitted in enumerate(steps):
            ways = ways @ weights.transitions * emitted if place else emitted
            scales.append(ways.sum(-1, keepdim=True).clamp(min=tiny))
            ways = ways / scales[-1]
            inside.append(ways)
        outside = [torch.ones_like(steps[0])]
        back = weights.transitions.t()
        for emitted, here in zip(steps[:0:-1], there.unbind(1)[:0:-1], strict=True):
            ways = emitted * outside[-1] @ back
            ways = ways / ways.sum(-1, keepdim=True).clamp(min=tiny)
            outside.append(torch.where(here[:, None], ways, 1.0))
    # the scales, and what was taken off: `highest` at every step, `most` between two
    logs = torch.cat(scales, 1).log() + highest.squeeze(-1)
    logs[:, 1:] += most
    total = logs.masked_fill(~there, 0.0).sum()
    return torch.stack(inside, 1), torch.stack(outside[::-1], 1), weights, total


def _there(emissions: Tensor, lengths: Tensor) -> Tensor:
    """(B, T) True at steps that exist."""
    return torch.arange(emissions.size(1), device=lengths.device) < lengths[:, None]
