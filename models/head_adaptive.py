"""An output layer that looks at rare symbols only where one may come."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cross_entropy import IGNORED, linear_cross_entropy
from models.head import Head, counted, full, tied_size


class AdaptiveHead(Head):
    """Adaptive softmax: the most frequent symbols at once, the others in clusters behind them.

    Symbols are numbered by falling frequency. Those below `cutoffs[0]` stand beside one symbol for
    each cluster; cluster i holds those from `cutoffs[i]` on, behind vectors of `input_size` /
    `division` ** (i + 1). It is a softmax in two steps, no approximation. Grave et al. 2017, arXiv
    1609.04309. `tied` shares the matrix of an embedding; all vectors are then as large as its own.
    """

    cutoffs: Tensor

    def __init__(
        self,
        *,
        input_size: int,
        num_outputs: int,
        cutoffs: list[int],
        division: float = 4.0,
        label_smoothing: float = 0.0,
        tied: nn.Embedding | None = None,
    ) -> None:
        super().__init__()
        bounds = [0, *cutoffs, num_outputs]
        if not cutoffs or any(after <= before for before, after in pairwise(bounds)):
            raise ValueError(
                f"model.head.cutoffs={cutoffs} cut a vocabulary of {num_outputs} symbols: give "
                f"numbers that rise between 0 and {num_outputs}, or take model/head=softmax"
            )
        if label_smoothing:
            raise ValueError(
                f"label_smoothing={label_smoothing} is for a whole softmax: set "
                "model.label_smoothing=0 with an adaptive one"
            )
        if division < 1:
            raise ValueError(f"model.head.division is 1 or more, got {division}")
        self.num_outputs = num_outputs
        self.bounds = list(pairwise(bounds))  # of the frequent symbols, then of each cluster
        self.register_buffer("cutoffs", torch.tensor(cutoffs), persistent=False)
        counts = [after - before for before, after in self.bounds]
        if tied is None:
            sizes = [max(1, int(input_size / division**i)) for i in range(len(counts))]
            self.tables = nn.ParameterList(map(_table, counts, sizes))
        else:
            sizes = [tied_size(tied, num_outputs)] * len(counts)
            self.matrix = tied.weight
        self.tied = tied is not None
        self.bias = nn.Parameter(torch.zeros(num_outputs))
        self.clusters = nn.Linear(sizes[0], len(cutoffs))
        self.projections = nn.ModuleList(
            nn.Identity() if size == input_size else nn.Linear(input_size, size, bias=False)
            for size in sizes
        )

    def forward(self, hidden: Tensor) -> Tensor:
        """Log-probabilities, which are logits of the whole: (..., D) → (..., V)."""
        return self.log_probs(hidden)

    def log_probs(self, hidden: Tensor) -> Tensor:
        pieces = [
            F.log_softmax(full(F.linear(project(hidden), weight, bias)), dim=-1)
            for project, (weight, bias) in zip(self.projections, self._pieces(), strict=True)
        ]
        frequent, *clusters = pieces
        first = self.bounds[0][1]
        parts = [own + frequent[..., first + place, None] for place, own in enumerate(clusters)]
        return torch.cat([frequent[..., :first], *parts], dim=-1)

    def loss(
        self, hidden: Tensor, targets: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        rows, ids = hidden.reshape(-1, hidden.size(-1)), targets.reshape(-1)
        if mask is not None:
            ids = ids.masked_fill(~mask.reshape(-1), IGNORED)
        first = self.bounds[0][1]
        cluster = torch.bucketize(ids, self.cutoffs, right=True)  # 0: frequent, or ignored
        (project, *others), (piece, *rest) = self.projections, self._pieces()
        either = torch.where(cluster == 0, ids, first + cluster - 1)
        nats = linear_cross_entropy(project(rows), *piece, either)
        for number, (project, piece) in enumerate(zip(others, rest, strict=True), start=1):
            place = (cluster == number).nonzero()[:, 0]
            within = ids[place] - self.bounds[number][0]
            nats = nats + linear_cross_entropy(project(rows[place]), *piece, within)
        return nats, counted(targets, mask)

    def _pieces(self) -> list[tuple[Tensor, Tensor]]:
        """Weights and biases: of frequent symbols and the clusters' own, and of each cluster."""
        counts = [after - before for before, after in self.bounds]
        tables = self.matrix.split(counts) if self.tied else list(self.tables)
        biases = self.bias.split(counts)
        frequent = (
            torch.cat([tables[0], self.clusters.weight]),
            torch.cat([biases[0], self.clusters.bias]),
        )
        return [frequent, *zip(tables[1:], biases[1:], strict=True)]


def _table(count: int, size: int) -> nn.Parameter:
    """Rows (count, size) as a linear layer would begin with."""
    return nn.Parameter(torch.empty(count, size).uniform_(-(size**-0.5), size**-0.5))
