"""From the outputs of every step to one vector a row, pads left out.

A row of length 0 has nothing to say: its vector is 0.
"""

import torch
from torch import Tensor, nn


class Pooling(nn.Module):
    """Outputs (B, T, D), mask (B, T) → pooled (B, P), and weights (B, T) where there are any."""

    def __init__(self, *, input_size: int, bidirectional: bool = False) -> None:
        """`bidirectional`: the second half of D was read from right to left."""
        super().__init__()
        self.bidirectional = bidirectional
        self.output_size = input_size

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError


class Last(Pooling):
    """What stood last when the row had been read: for the way back that is its first step."""

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
    """A mean whose weights are learnt, one a step (Yang et al. 2016, doi 10.18653/v1/N16-1174)."""

    def __init__(self, *, input_size: int, bidirectional: bool = False) -> None:
        super().__init__(input_size=input_size, bidirectional=bidirectional)
        self.key = nn.Linear(input_size, input_size)
        self.score = nn.Linear(input_size, 1, bias=False)

    def forward(self, outputs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        scores = self.score(self.key(outputs).tanh()).squeeze(-1)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1).masked_fill(~mask, 0.0)
        values = outputs.masked_fill(~mask[:, :, None], 0.0)
        pooled = torch.bmm(weights.to(values.dtype)[:, None], values).squeeze(1)
        return pooled, weights


POOLINGS: dict[str, type[Pooling]] = {
    "last": Last,
    "mean": Mean,
    "max": Max,
    "mean_max": MeanMax,
    "concat": Concat,
    "attention": Attention,
}


def build_pooling(name: str, *, input_size: int, bidirectional: bool = False) -> Pooling:
    """The pooling of this name, or a ValueError that lists the names."""
    if name not in POOLINGS:
        raise ValueError(f"pooling is one of {', '.join(POOLINGS)}, got {name!r}")
    return POOLINGS[name](input_size=input_size, bidirectional=bidirectional)


def valid_steps(lengths: Tensor, steps: int) -> Tensor:
    """Lengths (B,) → mask (B, steps), True on what is no pad."""
    return torch.arange(steps, device=lengths.device) < lengths[:, None]
