"""The recurrence of Mamba: a linear scan whose state is N times as large as its input.

Gu and Dao 2023, arXiv 2312.00752, section 3. Its states are too many to be kept for the gradient:
every CHUNK steps one is, and those between are computed again.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 16


def selective_scan(
    delta: Tensor, inputs: Tensor, rate: Tensor, write: Tensor, read: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t, y_t = C_t h_t, for each of D features.

    Δ and x (B, T, D), A (N, D) below zero, B and C (B, T, N), h_0 (B, N, D) → y (B, T, D), h_T.
    """
    return _SelectiveScan.apply(delta, inputs, rate, write, read, initial)


def selective_scan_loop(
    delta: Tensor, inputs: Tensor, rate: Tensor, write: Tensor, read: Tensor, initial: Tensor
) -> tuple[Tensor, Tensor]:
    """The plain twin of `selective_scan`."""
    hidden, outputs = initial, []
    steps = zip(*(part.unbind(1) for part in (delta, inputs, write, read)), strict=True)
    for step, value, into, out_of in steps:
        decay = torch.exp(step[:, None] * rate)
        hidden = decay * hidden + into[:, :, None] * (step * value)[:, None]
        outputs.append((out_of[:, :, None] * hidden).sum(1))
    return torch.stack(outputs, dim=1), hidden


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        delta: Tensor,
        inputs: Tensor,
        rate: Tensor,
        write: Tensor,
        read: Tensor,
        initial: Tensor,
    ) -> tuple[Tensor, Tensor]:
        hidden = initial.clone()
        decay = torch.empty_like(hidden)
        batch, length, features = inputs.shape
        outputs = inputs.new_empty(length, batch, 1, features)
        kept = []
        with torch.autocast(inputs.device.type, enabled=False):
            steps = _steps(delta, delta * inputs, write, read)
            for place, (step, value, into, out_of) in enumerate(steps):
                if place % CHUNK == 0:
                    kept.append(hidden.clone())
                torch.mul(step, rate, out=decay).exp_()
                hidden.mul_(decay).baddbmm_(into, value)
                torch.bmm(out_of.transpose(1, 2), hidden, out=outputs[place])
        ctx.save_for_backward(delta, inputs, rate, write, read, *kept)
        return outputs.squeeze(2).transpose(0, 1), hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_outputs: Tensor, d_hidden: Tensor) -> tuple[Tensor | None, ...]:
        delta, inputs, rate, write, read, *kept = ctx.saved_tensors
        steps = _steps(delta, delta * inputs, write, read)
        flow = d_hidden.clone()  # the gradient of h_t from all later steps
        batch, length, features = delta.shape
        d_exponent = flow.new_empty(length, batch, features)
        d_value = flow.new_empty(length, batch, 1, features)
        d_write = flow.new_empty(length, batch, write.size(2), 1)
        d_read = torch.empty_like(d_write)
        d_rate = torch.zeros_like(flow)  # a sum over rows is left for the end
        scratch = torch.empty_like(flow)
        decays = flow.new_empty(CHUNK, *flow.shape)
        states = flow.new_empty(CHUNK + 1, *flow.shape)
        for chunk in reversed(range(len(kept))):
            begin, end = chunk * CHUNK, min((chunk + 1) * CHUNK, length)
            states[0] = kept[chunk]
            for place in range(begin, end):
                step, value, into, _ = steps[place]
                own = place - begin
                torch.mul(step, rate, out=decays[own]).exp_()
                torch.mul(states[own], decays[own], out=states[own + 1])
                states[own + 1].baddbmm_(into, value)
            for place in reversed(range(begin, end)):
                step, value, into, out_of = steps[place]
                own = place - begin
                d_output = d_outputs[:, place].unsqueeze(1)
                flow.baddbmm_(out_of, d_output)
                torch.bmm(states[own + 1], d_output.transpose(1, 2), out=d_read[place])
                torch.bmm(flow, value.transpose(1, 2), out=d_write[place])
                torch.bmm(into.transpose(1, 2), flow, out=d_value[place])
                flow.mul_(decays[own])
                torch.mul(flow, states[own], out=scratch)  # the gradient of Δ_t A
                d_rate.addcmul_(scratch, step)
                torch.sum(scratch.mul_(rate), 1, out=d_exponent[place])
        by_row = d_value.squeeze(2).transpose(0, 1)
        return (
            torch.addcmul(d_exponent.transpose(0, 1), by_row, inputs),
            by_row * delta,
            d_rate.sum(0),
            d_write.squeeze(3).transpose(0, 1),
            d_read.squeeze(3).transpose(0, 1),
            flow,
        )


def _steps(
    delta: Tensor, values: Tensor, write: Tensor, read: Tensor
) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Each step's Δ and Δ x as (B, 1, D), B and C as (B, N, 1)."""
    return list(
        zip(
            delta.unsqueeze(2).unbind(1),
            values.unsqueeze(2).unbind(1),
            write.unsqueeze(3).unbind(1),
            read.unsqueeze(3).unbind(1),
            strict=True,
        )
    )
