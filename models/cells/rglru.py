"""Real-gated linear recurrent unit."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.cells.heads import heads_of
from models.convolution import depthwise, windows
from models.parallel import ScanLayer
from models.scan import linear_scan

SHARPNESS = 8.0  # c of the paper


class RGLRU(ScanLayer):
    """h' = a h + sqrt(1 - a²) (i * u) with a = σ(Λ)^(8 r), in the recurrent block of Griffin.

    u is a causal convolution over W_u x; r = σ(W_r u) and i = σ(W_i u), block-diagonal; the output
    is W_o (h * gelu(W_g x)). State: h (B, H) and the convolution's last inputs (B, window - 1, H).
    De et al. 2024, arXiv 2402.19427.
    """

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        window: int = 4,
        blocks: int = 8,
        min_decay: float = 0.9,
        max_decay: float = 0.999,
    ) -> None:
        """The decays σ(Λ)^8 start between the two; `blocks` is an upper bound: it must divide H."""
        super().__init__(
            input_size=input_size,
            output_size=hidden_size,
            state_size=hidden_size,
            window=window,
            convolved=hidden_size,
        )
        if window < 2:
            raise ValueError(f"window is 2 steps or more, got {window}")
        if not 0 < min_decay <= max_decay < 1:
            raise ValueError(
                f"decays start at 0 < min_decay <= max_decay < 1, got {min_decay} and {max_decay}"
            )
        self.enter = nn.Linear(input_size, 2 * hidden_size)
        self.filters = nn.Parameter(torch.empty(window, hidden_size).normal_(std=window**-0.5))
        self.filter_bias = nn.Parameter(torch.zeros(hidden_size))
        blocks = heads_of(hidden_size, blocks, "blocks")
        size = hidden_size // blocks
        self.gates = nn.Parameter(torch.empty(blocks, size, 2 * size).normal_(std=size**-0.5))
        self.gates_bias = nn.Parameter(torch.zeros(blocks, 1, 2 * size))
        decays = torch.empty(hidden_size).uniform_(min_decay**2, max_decay**2).sqrt()
        self.decay = nn.Parameter(torch.logit(decays ** (1 / SHARPNESS)))  # Λ
        self.leave = nn.Linear(hidden_size, hidden_size)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        assert tail is not None
        entered, gate = self.enter(inputs).chunk(2, dim=-1)
        filtered = self.full(depthwise(windows(entered, tail), self.filters, self.filter_bias))
        blocks, size, _ = self.gates.shape
        parts = filtered.reshape(-1, blocks, size).transpose(0, 1)  # (blocks, B T, size)
        gates = torch.baddbmm(self.gates_bias.expand(-1, 1, -1), parts, self.gates)
        rate = -SHARPNESS * F.softplus(-self.decay)
        # for one step passes cost more than they save, and ONNX has no writing into a view
        run = gates_plain if inputs.size(1) == 1 else _Gates.apply
        return *run(filtered, gates, rate), gate, entered

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update, *_ = coefficients
        return linear_scan(keep, update, before)

    def readout(self, coefficients: tuple[Tensor, ...], hidden: Tensor, before: Tensor) -> Tensor:
        return self.leave(hidden * F.gelu(coefficients[2], approximate="tanh"))


def gates_plain(inputs: Tensor, gates: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
    """The plain twin of `_Gates`: u (B, T, H), W_r u and W_i u as (blocks, B T, 2 H / blocks),
    log a at r = 1 (H,) → a and sqrt(1 - a²) i u, both (B, T, H).
    """
    both = gates.to(inputs.dtype).sigmoid().unflatten(-1, (2, -1)).permute(2, 1, 0, 3)
    recurrence, write = both.reshape(2, *inputs.shape)
    decay = torch.exp(rate * recurrence)
    norm = torch.sqrt((1 - decay.square()).clamp(min=SMALL))
    return decay, norm * write * inputs


SMALL = 1e-6  # the root has no slope at zero


class _Gates(torch.autograd.Function):
    """`gates_plain` in few passes, keeping only what comes in and a."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, gates: Tensor, rate: Tensor) -> tuple[Tensor, Tensor]:
        recurrence, write = _open(gates, inputs.dtype)
        decay = torch.empty_like(inputs)
        torch.mul(recurrence, _by_block(rate, gates), out=_by_block(decay, gates))
        decay.exp_()
        update = _norm(decay).mul_(inputs)
        _by_block(update, gates).mul_(write)
        ctx.save_for_backward(inputs, gates, rate, decay)
        return decay, update

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_decay: Tensor, d_update: Tensor) -> tuple[Tensor | None, ...]:
        inputs, gates, rate, decay = ctx.saved_tensors
        recurrence, write = _open(gates, inputs.dtype)
        norm = _norm(decay)
        d_inputs = d_update * norm
        d_gates = torch.empty_like(gates)
        d_recurrence, d_write = d_gates.chunk(2, dim=-1)
        slope = torch.addcmul(write, write, write, value=-1)
        torch.mul(slope.mul_(_by_block(inputs, gates)), _by_block(d_inputs, gates), out=d_write)
        _by_block(d_inputs, gates).mul_(write)
        flow = d_update * inputs  # to the root, then to log a
        _by_block(flow, gates).mul_(write)
        flow.mul_(decay).div_(norm).masked_fill_(norm * norm <= SMALL, 0.0)
        flow.sub_(d_decay).mul_(decay).neg_()
        by_block = _by_block(flow, gates)
        d_rate = (by_block * recurrence).sum(1).flatten()
        by_block.mul_(_by_block(rate, gates))
        slope = torch.addcmul(recurrence, recurrence, recurrence, value=-1)
        torch.mul(slope, by_block, out=d_recurrence)
        return d_inputs, d_gates, d_rate


def _open(gates: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """r and i, each (blocks, B T, H / blocks)."""
    return gates.to(dtype, copy=True).sigmoid_().chunk(2, dim=-1)


def _norm(decay: Tensor) -> Tensor:
    return decay.square().neg_().add_(1.0).clamp_(min=SMALL).sqrt_()


def _by_block(features: Tensor, gates: Tensor) -> Tensor:
    """(..., H) → (blocks, rows, H / blocks), of the same memory."""
    return features.view(-1, len(gates), gates.size(-1) // 2).transpose(0, 1)
