"""Recurrences without a matrix: every feature goes its own way through time.

`linear_scan` runs h_t = a_t * h_{t-1} + b_t, real or complex. `elementwise_scan` runs any
h_t = f(x_t, h_{t-1}) that works feature by feature: its gradient is a linear scan too, backwards
in time. On a processor the scan is a loop over steps that records no graph; on a GPU, where a loop
would wait for T launches, each of log2(T) passes doubles the steps that are summed up (Hillis and
Steele 1986, doi 10.1145/7902.7903).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def linear_scan(decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
    """h_t = decay_t * h_{t-1} + update_t: (B, T, S), (B, T, S), h_0 (B, S) → all h (B, T, S)."""
    return _LinearScan.apply(decay, update, initial)


def linear_scan_loop(decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
    """The plain twin of `linear_scan`."""
    hidden, outputs = initial, []
    for a, b in zip(decay.unbind(1), update.unbind(1), strict=True):
        hidden = a * hidden + b
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)


Step = Callable[..., Tensor]  # (previous (..., S), *inputs (..., S)) → next (..., S)


def elementwise_scan(step: Step, inputs: Sequence[Tensor], initial: Tensor) -> Tensor:
    """h_t = step(h_{t-1}, *inputs_t) for an elementwise step: inputs (B, T, S), h_0 (B, S) → h.

    `step` is called twice: a step at a time without a graph, to find all h; then once with all
    steps side by side, for the gradient of the inputs and of the parameters that it closes over.
    What reaches h_t from later steps is a linear scan over the slopes ∂h_t/∂h_{t-1}.
    """
    with torch.no_grad():
        hidden, states = initial, []
        for parts in zip(*(values.unbind(1) for values in inputs), strict=True):
            hidden = step(hidden, *parts)
            states.append(hidden)
    if not _records(initial, *inputs):
        return torch.stack(states, dim=1)
    previous = torch.stack([initial.detach(), *states[:-1]], dim=1)
    with torch.enable_grad():
        point = previous.detach().requires_grad_()
        (slopes,) = torch.autograd.grad(step(point, *(v.detach() for v in inputs)).sum(), point)
    return _Spread.apply(step(previous, *inputs), slopes, initial)


def elementwise_scan_loop(step: Step, inputs: Sequence[Tensor], initial: Tensor) -> Tensor:
    """The plain twin of `elementwise_scan`."""
    hidden, outputs = initial, []
    for parts in zip(*(values.unbind(1) for values in inputs), strict=True):
        hidden = step(hidden, *parts)
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)


def _records(*tensors: Tensor) -> bool:
    """Parameters that a step closes over cannot be seen from here: inputs hang on them too."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class _LinearScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
        hidden = _accumulate(decay, update, initial)
        ctx.save_for_backward(decay, hidden, initial)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        decay, hidden, initial = ctx.saved_tensors
        slopes = decay.conj().resolve_conj() if decay.is_complex() else decay
        flow = _accumulate_backwards(slopes, grad)
        of_decay = None
        if ctx.needs_input_grad[0]:
            of_decay = torch.empty_like(flow)
            torch.mul(flow[:, 1:], hidden[:, :-1].conj(), out=of_decay[:, 1:])
            torch.mul(flow[:, 0], initial.conj(), out=of_decay[:, 0])
        return of_decay, flow, slopes[:, 0] * flow[:, 0]


class _Spread(torch.autograd.Function):
    """Values as they are; their gradient with what comes from later steps through the slopes."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, slopes: Tensor, initial: Tensor) -> Tensor:
        ctx.save_for_backward(slopes)
        return values.view_as(values)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        flow = _accumulate_backwards(slopes, grad)
        return flow, None, slopes[:, 0] * flow[:, 0]


def _accumulate(decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
    """All h of h_t = decay_t * h_{t-1} + update_t."""
    if update.is_cuda:
        first = update[:, :1] + decay[:, :1] * initial[:, None]
        return _double(decay, torch.cat([first, update[:, 1:]], dim=1))
    hidden = torch.empty_like(update)
    previous = initial
    for a, b, h in zip(decay.unbind(1), update.unbind(1), hidden.unbind(1), strict=True):
        previous = torch.addcmul(b, a, previous, out=h)
    return hidden


def _accumulate_backwards(slopes: Tensor, grad: Tensor) -> Tensor:
    """All g of g_t = grad_t + slopes_{t+1} * g_{t+1}, from a zero behind the end."""
    if grad.is_cuda:
        shifted = torch.cat([slopes[:, 1:], torch.zeros_like(slopes[:, :1])], dim=1)
        return _double(shifted.flip(1), grad.flip(1)).flip(1)
    flow = torch.empty_like(grad)
    flow[:, -1] = grad[:, -1]
    places = zip(
        reversed(slopes.unbind(1)[1:]),
        reversed(grad.unbind(1)[:-1]),
        reversed(flow.unbind(1)[:-1]),
        strict=True,
    )
    following = flow[:, -1]
    for k, d, g in places:
        following = torch.addcmul(d, k, following, out=g)
    return flow


def _double(decay: Tensor, hidden: Tensor) -> Tensor:
    """The scan from a zero state, in log2(T) passes over all steps at once."""
    reach = 1
    while reach < hidden.size(1):
        hidden = torch.cat(
            [hidden[:, :reach], hidden[:, reach:] + decay[:, reach:] * hidden[:, :-reach]], dim=1
        )
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], dim=1)
        reach *= 2
    return hidden
