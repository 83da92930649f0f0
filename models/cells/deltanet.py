"""Linear attention that corrects what it stored: the delta rule."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cells.heads import heads_of
from models.convolution import depthwise, windows
from models.kernels import delta_rule_kernel
from models.parallel import ChunkLayer


class DeltaNet(ChunkLayer):
    """S' = S + β k (v - S^T k)^T, o = S'^T q: what k stood for is replaced, by a share β, by v.

    q, k, v come from the input through a short convolution; q and k have unit length. Each head's
    outputs are normalised. State: S (B, heads, K, K), K = H / heads, and the convolution's last
    inputs (B, window - 1, 3 H). Schlag et al. 2021, arXiv 2102.11174; in chunks as Yang et al.
    2024, arXiv 2406.06484.
    """

    fillable = ()

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        heads: int = 4,
        window: int = 4,
        chunk: int = 64,
    ) -> None:
        """`heads` is an upper bound: it must divide H. `chunk` changes the speed alone."""
        super().__init__(
            input_size=input_size, output_size=hidden_size, window=window, convolved=3 * hidden_size
        )
        if chunk < 1 or window < 2:
            raise ValueError(f"chunk is 1 or more and window 2 or more, got {chunk} and {window}")
        self.heads, self.chunk = heads_of(hidden_size, heads), chunk
        self.enter = nn.Linear(input_size, 3 * hidden_size, bias=False)  # q, k, v
        self.rate = nn.Linear(input_size, self.heads)  # β
        nn.init.xavier_uniform_(self.enter.weight)
        filters = torch.empty(window, 3 * hidden_size).normal_(std=0.1)
        filters[-1] += 1.0  # nearly no convolution at the start
        self.filters = nn.Parameter(filters)
        self.filter_bias = nn.Parameter(torch.zeros(3 * hidden_size))
        self.norm = nn.RMSNorm(hidden_size // self.heads, eps=1e-5)
        self.leave = nn.Linear(hidden_size, hidden_size, bias=False)

    def initial_memory(self, batch_size: int) -> tuple[Tensor, ...]:
        size = self.output_size // self.heads
        return (self.zeros(batch_size, self.heads, size, size),)

    def coefficients(
        self, inputs: Tensor, tail: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        assert tail is not None
        entered = self.enter(inputs)
        filtered = F.silu(depthwise(windows(entered, tail), self.filters, self.filter_bias))
        query, key, value = (
            self.full(part).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in filtered.chunk(3, dim=-1)
        )
        rate = self.full(self.rate(inputs)).sigmoid()
        if valid is not None:
            rate = rate * valid[:, :, None]  # nothing is corrected
        query, key = F.normalize(query, dim=-1), F.normalize(key, dim=-1)
        return query, key, value, rate.transpose(1, 2), entered

    def remember(
        self, coefficients: tuple[Tensor, ...], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        (query, key, value, rate, _), (matrix,) = coefficients, memory
        run = delta_rule_kernel(query) or delta_rule
        with torch.autocast(query.device.type, enabled=False):
            outputs, matrix = run(query, key, value, rate, matrix, self.chunk)
        return outputs, (matrix,)

    def readout(self, coefficients: tuple[Tensor, ...], read: Tensor) -> Tensor:
        return self.leave(self.norm(read).transpose(1, 2).flatten(2))


def delta_rule(
    query: Tensor, key: Tensor, value: Tensor, rate: Tensor, matrix: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """q, k, v (B, heads, T, K), β (B, heads, T), S (B, heads, K, K) → o (B, heads, T, K), S'.

    Within a chunk the corrections u of its steps solve (1 + tril(β k k^T, -1)) u = β (v - S^T k),
    a triangular system; its two halves that do not need S are solved for all chunks at once.
    """
    length = query.size(2)
    chunk = min(chunk, length)
    missing = -length % chunk
    query, key, value = (F.pad(part, (0, 0, 0, missing)) for part in (query, key, value))
    rate = F.pad(rate, (0, missing))
    query, key, value = (part.unflatten(2, (-1, chunk)) for part in (query, key, value))
    rate = rate.unflatten(2, (-1, chunk))[..., None]
    solved = torch.cat([rate * key, rate * value], -1)
    if chunk > 1:  # one step alone has none before it
        likeness = rate * (key @ key.transpose(-1, -2))
        solved = torch.linalg.solve_triangular(
            likeness.tril(-1), solved, upper=False, unitriangular=True
        )
    keys, values = solved.split(key.size(-1), dim=-1)
    scores = (query @ key.transpose(-1, -2)).tril()
    outputs = []
    for q, k, reached, wanted, seen in zip(
        *(part.unbind(2) for part in (query, key, keys, values, scores)), strict=True
    ):
        corrections = wanted - reached @ matrix
        outputs.append(q @ matrix + seen @ corrections)
        matrix = matrix + k.transpose(-1, -2) @ corrections
    return torch.cat(outputs, dim=2)[:, :, :length], matrix
