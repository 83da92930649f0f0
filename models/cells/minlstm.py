"""Minimal long short-term memory."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from models.cells.initial import gate_bias
from models.parallel import ScanLayer
from models.scan import linear_scan
from models.softplus import softplus


class MinLSTM(ScanLayer):
    """h' = f h + i c, where σ(W_f x) and σ(W_i x) are scaled to f + i = 1; state h (B, H).

    Feng et al. 2024, arXiv 2410.01201: an LSTM whose gates see the input alone, without output
    gate.
    """

    outputs_state = True

    def __init__(
        self,
        *,
        input_size: int,
        hidden_size: int,
        forget_bias: float = 1.0,
        chrono_steps: int | None = None,
    ) -> None:
        """How much is kept at the start: see `models.cells.initial.gate_bias`."""
        super().__init__(input_size=input_size, output_size=hidden_size, state_size=hidden_size)
        self.linear = nn.Linear(input_size, 3 * hidden_size)
        nn.init.xavier_uniform_(self.linear.weight)
        gate_bias(self.linear.bias, gates=3, gate=0, value=forget_bias, chrono_steps=chrono_steps)

    def coefficients(self, inputs: Tensor, tail: Tensor | None) -> tuple[Tensor, ...]:
        keep, update = _Gates.apply(self.linear(inputs))
        return keep, update

    def scan(self, coefficients: tuple[Tensor, ...], before: Tensor) -> Tensor:
        keep, update = coefficients
        return linear_scan(keep, update, before)


def gates(projected: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of the three gates (..., 3 H) → what is kept, and i c: (..., H) each, in fp32."""
    wide = torch.promote_types(projected.dtype, torch.float32)
    forget, write, candidate = projected.to(wide).chunk(3, dim=-1)
    # f / (f + i) = σ(log f - log i): never zero by zero
    keep = (softplus(-write) - softplus(-forget)).sigmoid()
    return keep, (1 - keep) * candidate


class _Gates(torch.autograd.Function):
    """`gates`, which keeps two tensors for its gradient and not the eight that autograd would."""

    @staticmethod
    def forward(ctx: Any, projected: Tensor) -> tuple[Tensor, Tensor]:
        keep, update = gates(projected)
        ctx.save_for_backward(projected, keep)
        return keep, update

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_keep: Tensor, of_update: Tensor) -> Tensor:
        projected, keep = ctx.saved_tensors
        forget, write, candidate = projected.to(keep.dtype).chunk(3, dim=-1)
        write_share = 1 - keep
        found = torch.empty_like(projected)
        of_forget, of_write, of_candidate = found.chunk(3, dim=-1)
        of_candidate.copy_(write_share * of_update)
        # dσ(log f - log i), with d log σ(x) = σ(-x) dx
        slope = torch.addcmul(of_keep, of_update, candidate, value=-1).mul_(keep).mul_(write_share)
        of_forget.copy_(forget.neg().sigmoid_().mul_(slope))
        of_write.copy_(write.neg().sigmoid_().mul_(slope).neg_())
        return found
