"""LSTM with a matrix as its memory."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cells.heads import heads_of
from models.parallel import ChunkLayer

CLOSED = -1e30  # the logarithm of a gate that is shut


class MLSTM(ChunkLayer):
    """C' = f C + i v k^T, n' = f n + i k, h = o * C' q / max(|n' q|, 1), with i = exp(..).

    q, k, v and the gates see the input alone, so that a chunk of steps is a few products. All of C
    and n is kept divided by exp(m), as in an sLSTM. Each head's C' q is brought to unit size.
    State: C (B, heads, K, K), n (B, heads, K) and m (B, heads), with K = H / heads. Beck et al.
    2024, arXiv 2405.04517, equations 19 to 27.
    """

    fillable = ()

    def __init__(
        self, *, input_size: int, hidden_size: int, heads: int = 4, chunk: int = 64
    ) -> None:
        """`heads` is an upper bound: it must divide H. `chunk` changes the speed alone."""
        super().__init__(input_size=input_size, output_size=hidden_size)
        if chunk < 1:
            raise ValueError(f"chunk is 1 or more, got {chunk}")
        self.heads, self.chunk = heads_of(hidden_size, heads), chunk
        self.enter = nn.Linear(input_size, 4 * hidden_size)  # q, k, v, o
        self.gates = nn.Linear(input_size, 2 * self.heads)  # i, f
        nn.init.xavier_uniform_(self.enter.weight)
        nn.init.zeros_(self.enter.bias)
        nn.init.zeros_(self.gates.weight)
        with torch.no_grad():
            nn.init.normal_(self.gates.bias[: self.heads], std=0.1)
            self.gates.bias[self.heads :] = torch.linspace(3.0, 6.0, self.heads)
        self.norm = nn.RMSNorm(hidden_size // self.heads, eps=1e-5)

    def initial_memory(self, batch_size: int) -> tuple[Tensor, ...]:
        size = self.output_size // self.heads
        return (
            self.zeros(batch_size, self.heads, size, size),
            self.zeros(batch_size, self.heads, size),
            self.zeros(batch_size, self.heads),
        )

    def coefficients(
        self, inputs: Tensor, tail: Tensor | None, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        query, key, value, output = self.enter(inputs).chunk(4, dim=-1)
        write, forget = self.full(self.gates(inputs)).chunk(2, dim=-1)
        forget = F.logsigmoid(forget)
        if valid is not None:
            write = write.masked_fill(~valid[:, :, None], CLOSED)
            forget = forget * valid[:, :, None]
        by_head = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (query, key, value)
        )
        return *by_head, write.transpose(1, 2), forget.transpose(1, 2), output

    def remember(
        self, coefficients: tuple[Tensor, ...], memory: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        query, key, value, write, forget, _ = coefficients
        key = key / math.sqrt(key.size(-1))
        parts = (part.split(self.chunk, dim=2) for part in (query, key, value, write, forget))
        outputs = []
        for q, k, v, i, f in zip(*parts, strict=True):
            read, memory = exponential_chunk(q, k, v, i, f, memory)
            outputs.append(read)
        return torch.cat(outputs, dim=2), memory

    def readout(self, coefficients: tuple[Tensor, ...], read: Tensor) -> Tensor:
        normed = self.norm(self.full(read)).transpose(1, 2).flatten(2)
        return coefficients[-1].sigmoid() * normed


def exponential_chunk(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    write: Tensor,
    forget: Tensor,
    memory: tuple[Tensor, ...],
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """L steps at once: q, k, v (B, heads, L, K), log i and log f (B, heads, L), (C, n, m) → h,
    (C', n', m').

    What step s wrote is worth exp(F_t - F_s + log i_s) at step t, with F the running sum of log f.
    """
    matrix, norm, scale = memory
    total = forget.cumsum(-1)
    worth = total[..., :, None] - total[..., None, :] + write[..., None, :]
    length = query.size(2)
    later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    worth = worth.masked_fill(later, -torch.inf)
    old = total + scale[..., None]  # what the memory before the chunk is worth
    top = torch.maximum(worth.amax(-1), old)  # m_t
    old = torch.exp(old - top)
    scores = (query @ key.transpose(-1, -2)) * torch.exp(worth - top[..., None])
    values = scores.to(value.dtype) @ value + old[..., None] * (query @ matrix.to(query.dtype))
    weight = scores.sum(-1) + old * (query @ norm[..., None].to(query.dtype)).squeeze(-1)
    outputs = values / torch.maximum(weight.abs(), torch.exp(-top))[..., None]
    last = top[..., -1]
    shares = torch.exp(worth[..., -1, :] - last[..., None])[..., None] * key
    matrix = old[..., -1, None, None] * matrix + shares.transpose(-1, -2).to(value.dtype) @ value
    norm = old[..., -1, None] * norm + shares.sum(-2)
    return outputs, (matrix, norm, last)
