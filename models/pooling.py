"""From the outputs of every step to one vector a row, pads left out.

A row of length 0 has nothing to say: its vector is 0.
"""

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """Outputs (B, T, D), mask (B, T) → pooled (B, P), and weights (B, R, T) where there are any:
    the rows were read R times.
    """

    needs_all = True  # whether earlier outputs than the last one count

    def __init__(self, *, input_size: int, bidirectional: bool = False) -> None:
        """`bidirectional`: the second half of D was read from right to left."""
        super().__init__()
        self.bidirectional = bidirectional
        self.output_size = input_size

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError

    def penalty(self, weights: Tensor | None) -> Tensor | float:
        """What the loss of so weighed rows has on top in training, summed over the rows."""
        return 0.0


class Last(Pooling):
    """What stood last when the row had been read: for the way back that is its first step."""

    needs_all = False

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        last = (mask.sum(1) - 1).clamp(min=0)
        pooled = outputs.gather(1, last[:, None, None].expand(-1, 1, outputs.size(2))).squeeze(1)
        if self.bidirectional:
            half = outputs.size(2) // 2
            pooled = torch.cat([pooled[:, :half], outputs[:, 0, half:]], dim=-1)
        return pooled.masked_fill(~mask[:, :1], 0.0), None


class Mean(Pooling):
    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        total = outputs.masked_fill(~mask[:, :, None], 0.0).sum(1)
        return total / mask.sum(1, keepdim=True).clamp(min=1).to(total.dtype), None


class Max(Pooling):
    """The greatest value of each feature (Collobert et al. 2011, arXiv 1103.0398)."""

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        lowest = torch.finfo(outputs.dtype).min
        pooled = outputs.masked_fill(~mask[:, :, None], lowest).max(dim=1).values
        return pooled.masked_fill(~mask[:, :1], 0.0), None


class MeanMax(Pooling):
    """Both, joined."""

    def __init__(self, *, input_size: int, bidirectional: bool = False) -> None:
        super().__init__(input_size=input_size, bidirectional=bidirectional)
        self.mean = Mean(input_size=input_size)
        self.max = Max(input_size=input_size)
        self.output_size = 2 * input_size

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.cat([self.mean(outputs, mask)[0], self.max(outputs, mask)[0]], dim=-1), None


class Concat(MeanMax):
    """The last state, the mean and the maximum, joined (concat pooling, Howard and Ruder 2018,
    arXiv 1801.06146)."""

    def __init__(self, *, input_size: int, bidirectional: bool = False) -> None:
        super().__init__(input_size=input_size, bidirectional=bidirectional)
        self.last = Last(input_size=input_size, bidirectional=bidirectional)
        self.output_size = 3 * input_size

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        last, both = self.last(outputs, mask)[0], super().forward(outputs, mask)[0]
        return torch.cat([last, both], dim=-1), None


class Attention(Pooling):
    """A mean whose weights are learnt, one a step (Yang et al. 2016, doi 10.18653/v1/N16-1174).

    `hops` such means, joined, may look at different parts of a row; `penalty` weighs
    ‖AAᵀ − I‖² of a row's weights A (R, T), which grows where they look at the same or at much:
    structured self-attention, Lin et al. 2017, arXiv 1703.03130.
    """

    def __init__(
        self,
        *,
        input_size: int,
        bidirectional: bool = False,
        hops: int = 1,
        penalty: float = 0.0,
    ) -> None:
        super().__init__(input_size=input_size, bidirectional=bidirectional)
        if hops < 1:
            raise ValueError(f"pooling_hops is 1 or more, got {hops}")
        if not penalty >= 0.0:
            raise ValueError(f"pooling_penalty is a weight of 0 or more, got {penalty}")
        self.key = nn.Linear(input_size, input_size)
        self.score = nn.Linear(input_size, hops, bias=False)
        self.penalty_weight = penalty
        self.output_size = hops * input_size

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        scores = self.score(self.key(outputs).tanh()).transpose(1, 2)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.masked_fill(~mask[:, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).masked_fill(~mask[:, None], 0.0)
        values = outputs.masked_fill(~mask[:, :, None], 0.0)
        return torch.bmm(weights.to(values.dtype), values).flatten(1), weights

    def penalty(self, weights: Tensor | None) -> Tensor | float:
        if not self.penalty_weight:
            return 0.0
        assert weights is not None
        with torch.autocast(weights.device.type, enabled=False):
            alike = torch.bmm(weights, weights.transpose(1, 2))
        squares = (alike - torch.eye(alike.size(1)).to(alike)).square().sum((1, 2))
        some = weights.sum((1, 2)) > 0  # an empty row looks at nothing
        return self.penalty_weight * squares.masked_fill(~some, 0.0).sum()


POOLINGS: dict[str, type[Pooling]] = {
    "last": Last,
    "mean": Mean,
    "max": Max,
    "mean_max": MeanMax,
    "concat": Concat,
    "attention": Attention,
}


def build_pooling(
    name: str, *, input_size: int, bidirectional: bool = False, hops: int = 1, penalty: float = 0.0
) -> Pooling:
    """The pooling of this name, or a ValueError that lists the names.

    `hops` and `penalty` are those of `Attention`, and a ValueError where they are set for others.
    """
    if name not in POOLINGS:
        raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, got {name!r}")
    if (hops, penalty) == (1, 0.0):
        return POOLINGS[name](input_size=input_size, bidirectional=bidirectional)
    if name != "attention":
        raise ValueError(
            f"pooling_hops={hops} and pooling_penalty={penalty} are for model.pooling=attention, "
            f"got pooling={name}"
        )
    return Attention(input_size=input_size, bidirectional=bidirectional, hops=hops, penalty=penalty)


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Lengths (B,) → mask (B, steps), True on what is no pad."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
