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


def rotating_scan(radius: Tensor, angle: Tensor, update: Tensor, initial: Tensor) -> Tensor:
    """h_t = r_t exp(iθ) h_{t-1} + b_t of complex h and b, whose real and imaginary parts alternate.

    r (S,) or (B, T, S), θ (S,), b (B, T, 2 S), h_0 (B, 2 S) → all h (B, T, 2 S).
    """
    if update.size(1) == 1:  # in real numbers: ONNX knows no others
        real, imaginary = initial.unsqueeze(1).unflatten(-1, (-1, 2)).unbind(-1)
        keep, turn = radius * angle.cos(), radius * angle.sin()
        parts = [keep * real - turn * imaginary, turn * real + keep * imaginary]
        return torch.stack(parts, dim=-1).flatten(-2) + update
    updates, start = (torch.view_as_complex(v.unflatten(-1, (-1, 2))) for v in (update, initial))
    decay = torch.polar(radius, angle.expand_as(radius)).expand_as(updates)
    return torch.view_as_real(linear_scan(decay, updates, start)).flatten(-2)


Step = Callable[..., Tensor]  # (previous (..., S), *inputs (..., S), *parameters) → next (..., S)


def elementwise_scan(
    step: Step, inputs: Sequence[Tensor], initial: Tensor, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """h_t = step(h_{t-1}, *inputs_t, *parameters) for an elementwise step: (B, T, S), (B, S) → h.

    What reaches h_t from later steps is a linear scan over the slopes ∂h_t/∂h_{t-1}. Only the
    inputs and h are kept: `step` is called again, SPAN steps side by side, when gradients are due.
    """
    if inputs[0].size(1) == 1:  # nothing to save, and a step that ONNX can hold
        return elementwise_scan_loop(step, inputs, initial, parameters)
    return _ElementwiseScan.apply(step, len(inputs), initial, *inputs, *parameters)


def elementwise_scan_loop(
    step: Step, inputs: Sequence[Tensor], initial: Tensor, parameters: Sequence[Tensor] = ()
) -> Tensor:
    """The plain twin of `elementwise_scan`."""
    hidden, outputs = initial, []
    for parts in zip(*(values.unbind(1) for values in inputs), strict=True):
        hidden = step(hidden, *parts, *parameters)
        outputs.append(hidden)
    return torch.stack(outputs, dim=1)


SPAN = 16  # steps of an elementwise scan whose gradient is taken at once: few, to stay in cache


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


class _ElementwiseScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, step: Step, count: int, initial: Tensor, *arguments: Tensor) -> Tensor:
        inputs, parameters = arguments[:count], arguments[count:]
        hidden = torch.empty_like(inputs[0])
        current = initial
        times = zip(*(values.unbind(1) for values in inputs), strict=True)
        for parts, place in zip(times, hidden.unbind(1), strict=True):
            current = step(current, *parts, *parameters)
            place.copy_(current)
        ctx.step, ctx.count = step, count
        ctx.save_for_backward(hidden, initial, *arguments)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden, initial, *arguments = ctx.saved_tensors
        inputs, parameters = arguments[: ctx.count], arguments[ctx.count :]
        of_inputs = [torch.empty_like(values) for values in inputs]
        of_parameters = [torch.zeros_like(parameter) for parameter in parameters]
        length = hidden.size(1)
        span = length if hidden.is_cuda else SPAN
        from_later = torch.zeros_like(initial)  # the gradient of the span's last h from behind it
        for begin in reversed(range(0, length, span)):
            steps = slice(begin, min(begin + span, length))
            before = hidden[:, begin - 1] if begin else initial
            previous = torch.cat([before[:, None], hidden[:, steps][:, :-1]], dim=1)
            given = [previous, *(values[:, steps] for values in inputs), *parameters]
            with torch.enable_grad():
                given = [tensor.detach().requires_grad_() for tensor in given]
                following = ctx.step(*given)
            ones = torch.ones_like(following)
            (slopes,) = torch.autograd.grad(following, given[0], ones, retain_graph=True)
            flow = grad[:, steps].clone()
            flow[:, -1] += from_later
            flow = _accumulate_backwards(slopes, flow)
            from_later = slopes[:, 0] * flow[:, 0]
            found = torch.autograd.grad(following, given[1:], flow, materialize_grads=True)
            for whole, part in zip(of_inputs, found, strict=False):
                whole[:, steps] = part
            for whole, part in zip(of_parameters, found[ctx.count :], strict=True):
                whole += part
        return None, None, from_later, *of_inputs, *of_parameters


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
