"""PyTorch's plain and gated recurrent layers on a processor: all steps as one function.

PyTorch has no kernel there for training nn.RNN and nn.GRU: it records every operation of every step
and adds to the gradient of the recurrent matrix at each. Here a step is one product and a few
operations into memory that is there already; what does not flow through time is computed for all
steps at once, the gradient of the recurrent matrix too. `nn.RNN` and `nn.GRU` are the twins that
tests hold both to.

Under autocast products are of its dtype, and states of the dtype that they began with: a memory of
hundreds of steps would not last if it were rounded to bf16 at each.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Loop = Callable[[Tensor, Tensor, Sequence[Tensor]], Tensor]


def rnn_loop(
    inputs: Tensor, hidden: Tensor, weights: Sequence[Tensor], *, nonlinearity: str
) -> Tensor:
    """Inputs (B, T, I), h before them (B, H), weights as nn.RNN has them: W, U, b, c → all h
    (B, T, H). `nonlinearity` is tanh or relu.
    """
    weight, recurrent, bias, bias_hidden = weights
    shares = F.linear(inputs.transpose(0, 1), weight, bias + bias_hidden)
    return _RNN.apply(shares, hidden, recurrent, nonlinearity == "relu").transpose(0, 1)


def gru_loop(inputs: Tensor, hidden: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """As `rnn_loop`, with the weights of nn.GRU."""
    weight, recurrent, bias, bias_hidden = weights
    shares = F.linear(inputs.transpose(0, 1), weight, bias)
    kept = torch.is_grad_enabled()
    return _GRU.apply(shares, hidden, recurrent, bias_hidden, kept).transpose(0, 1)


def run(
    loop: Loop, inputs: Tensor, before: Tensor, weights: Sequence[Tensor]
) -> tuple[Tensor, Tensor]:
    """One direction or two, as many as `before` (directions, B, H) has: all h, side by side, and
    the last of each direction.
    """
    forth = loop(inputs, before[0], weights[:4])
    if len(before) == 1:
        return forth, forth[:, -1][None]
    back = loop(inputs.flip(1), before[1], weights[4:])
    return torch.cat([forth, back.flip(1)], dim=-1), torch.stack([forth[:, -1], back[:, -1]])


class _RNN(torch.autograd.Function):
    """h' = f(share + U h); shares (T, B, H)."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor, hidden: Tensor, matrix: Tensor, relu: bool) -> Tensor:
        narrow = matrix.to(shares.dtype)  # which autocast chose, if it is on
        states = hidden.new_empty(len(shares) + 1, *hidden.shape)
        before, *rest = states.unbind()
        before.copy_(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            for share, after in zip(shares.unbind(), rest, strict=True):
                if narrow.dtype == after.dtype:
                    torch.addmm(share, before, narrow.t(), out=after)
                else:
                    after.copy_(torch.addmm(share, before.to(narrow.dtype), narrow.t()))
                before = after.relu_() if relu else after.tanh_()
        ctx.save_for_backward(states, narrow)
        ctx.relu, ctx.dtype = relu, matrix.dtype
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, narrow = ctx.saved_tensors
        after = states[1:]
        slopes = (after > 0).to(after.dtype) if ctx.relu else 1 - after.square()
        flow = torch.zeros_like(states[0])
        for slope, own in zip(reversed(slopes.unbind()), reversed(grad.unbind()), strict=True):
            flow = (slope.mul_(flow.add_(own)).to(narrow.dtype) @ narrow).to(flow.dtype)
        sent = slopes.to(narrow.dtype)
        of_matrix = sent.flatten(0, 1).t() @ states[:-1].flatten(0, 1).to(narrow.dtype)
        return sent, flow, of_matrix.to(ctx.dtype), None


class _GRU(torch.autograd.Function):
    """h' = (1 - z) n + z h with n = tanh(s_n + r p_n), r and z = σ(s + p); p = U h + c, and s is
    the inputs' share (T, B, 3 H). Without `kept` there is no gradient, and memory for one step.
    """

    @staticmethod
    def forward(
        ctx: Any, shares: Tensor, hidden: Tensor, matrix: Tensor, bias: Tensor, kept: bool
    ) -> Tensor:
        narrow, c = matrix.to(shares.dtype), bias.to(shares.dtype)
        steps, (rows, size) = len(shares), hidden.shape

        def memory(like: Tensor, *shape: int) -> Tensor:
            return like.new_empty(steps if kept else 1, *shape).expand(steps, *shape)

        states = hidden.new_empty(steps + 1, rows, size)
        products = memory(narrow, rows, 3 * size)
        candidates = memory(hidden, rows, size)
        same = narrow.dtype == hidden.dtype
        # gates take the place of the products that they are of
        gates = products[:, :, : 2 * size] if same else memory(hidden, rows, 2 * size)
        resets, updates = gates.split(size, dim=2)
        before, *rest = states.unbind()
        before.copy_(hidden)
        every = zip(
            *shares.to(hidden.dtype).split([2 * size, size], dim=2),
            products, *products.split([2 * size, size], dim=2),
            gates, resets, updates, candidates, rest, strict=True,
        )  # fmt: skip
        with torch.autocast(hidden.device.type, enabled=False):
            for share, share_n, p, p_gates, p_n, gate, reset, update, n, after in every:
                torch.addmm(c, before.to(narrow.dtype), narrow.t(), out=p)
                torch.add(share, p_gates, out=gate).sigmoid_()
                torch.addcmul(share_n, reset, p_n.to(n.dtype), out=n).tanh_()
                before = torch.lerp(n, before, update, out=after)
        ctx.save_for_backward(states, narrow, gates, products, candidates)
        ctx.dtypes = matrix.dtype, bias.dtype
        return states[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        states, narrow, gates, products, candidates = ctx.saved_tensors
        steps, rows, size = candidates.shape
        resets, updates = gates.split(size, dim=2)
        inner = products[:, :, 2 * size :].to(states.dtype)
        # how much of what flows into h' goes to r, z, the product's share in n, and n
        slopes = states.new_empty(steps, rows, 4, size)
        of_reset, of_update, of_inner, of_candidate = slopes.unbind(2)
        torch.addcmul(candidates.new_ones(()), candidates, candidates, value=-1, out=of_candidate)
        of_candidate.mul_(1 - updates)
        torch.mul(of_candidate, resets, out=of_inner)
        torch.mul(of_inner, inner, out=of_reset).mul_(1 - resets)
        torch.sub(states[:-1], candidates, out=of_update).mul_(updates).mul_(1 - updates)
        # all but the last of four go through the matrix
        sent = slopes.flatten(2)[:, :, : 3 * size]
        narrowed = narrow.dtype != states.dtype
        through = torch.empty_like(sent, dtype=narrow.dtype) if narrowed else sent
        flow = torch.zeros_like(states[0])
        every = zip(
            *(reversed(one.unbind()) for one in (slopes, sent, through, updates, grad)), strict=True
        )
        for slope, send, product, update, own in every:
            flow = flow + own
            slope.mul_(flow[:, None])
            if narrowed:
                flow = flow.mul_(update).add_(product.copy_(send) @ narrow)
            else:
                flow = flow.mul_(update).addmm_(product, narrow)
        of_shares = torch.cat([sent[:, :, : 2 * size], of_candidate], dim=2).to(narrow.dtype)
        flat = through.flatten(0, 1)
        of_matrix = flat.t() @ states[:-1].flatten(0, 1).to(narrow.dtype)
        of_bias = flat.sum(0, dtype=states.dtype)
        matrix_dtype, bias_dtype = ctx.dtypes
        return of_shares, flow, of_matrix.to(matrix_dtype), of_bias.to(bias_dtype), None
