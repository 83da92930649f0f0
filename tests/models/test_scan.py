"""The fast recurrences equal their plain twins, in values and gradients."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import models.scan
from models.cells.gru import GRU
from models.cells.rglru import _Gates, gates_plain
from models.cells.rnn import RNN
from models.convolution import depthwise, next_tail, windows
from models.product import RepeatedProduct, product
from models.recomputed import recomputed
from models.scan import (
    elementwise_scan,
    elementwise_scan_loop,
    linear_scan,
    linear_scan_loop,
)
from models.selective_scan import selective_scan, selective_scan_loop
from models.softplus import softplus

B, S = 3, 5


def draw(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=dtype, generator=generator)


def same(fast, plain, tensors: list[Tensor]) -> None:
    found = []
    for run in (fast, plain):
        given = [tensor.clone().requires_grad_() for tensor in tensors]
        outputs = run(*given)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        total = sum((part * draw(*part.shape, dtype=part.dtype, seed=9)).sum() for part in outputs)
        total = total.real if total.is_complex() else total
        found.append([*outputs, *torch.autograd.grad(total, given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_linear_scan(dtype: torch.dtype, steps: int) -> None:
    decay, update = draw(B, steps, S, dtype=dtype), draw(B, steps, S, dtype=dtype, seed=2)
    same(linear_scan, linear_scan_loop, [0.7 * decay, update, draw(B, S, dtype=dtype, seed=3)])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("steps", [1, 2, 7, 16])
def test_doubling_equals_the_loop(monkeypatch, dtype: torch.dtype, steps: int) -> None:
    """What a GPU runs, here on the processor."""

    def accumulate(decay: Tensor, update: Tensor, initial: Tensor) -> Tensor:
        first = update[:, :1] + decay[:, :1] * initial[:, None]
        return models.scan._double(decay, torch.cat([first, update[:, 1:]], dim=1))

    def backwards(slopes: Tensor, grad: Tensor) -> Tensor:
        shifted = torch.cat([slopes[:, 1:], torch.zeros_like(slopes[:, :1])], dim=1)
        return models.scan._double(shifted.flip(1), grad.flip(1)).flip(1)

    monkeypatch.setattr(models.scan, "_accumulate", accumulate)
    monkeypatch.setattr(models.scan, "_accumulate_backwards", backwards)
    decay, update = draw(B, steps, S, dtype=dtype), draw(B, steps, S, dtype=dtype, seed=2)
    same(linear_scan, linear_scan_loop, [0.7 * decay, update, draw(B, S, dtype=dtype, seed=3)])


def test_one_decay_for_all_steps_gets_the_sum_of_their_gradients() -> None:
    update, initial = draw(B, 6, S), draw(B, S, seed=2)
    same(
        lambda a, b, h: linear_scan(a.expand_as(b), b, h),
        lambda a, b, h: linear_scan_loop(a.expand_as(b), b, h),
        [draw(S, seed=3), update, initial],
    )


def advance(state: Tensor, inputs: Tensor, gate: Tensor, weight: Tensor) -> Tensor:
    return torch.tanh(inputs + weight * state) * gate.sigmoid() + 0.5 * state


@pytest.mark.parametrize("steps", [1, 2, 15, 16, 17, 40])
def test_elementwise_scan(steps: int) -> None:
    tensors = [draw(B, steps, S), draw(B, steps, S, seed=2), draw(B, S, seed=3), draw(S, seed=4)]
    same(
        lambda x, g, h, w: elementwise_scan(advance, (x, g), h, [w]),
        lambda x, g, h, w: elementwise_scan_loop(advance, (x, g), h, [w]),
        tensors,
    )


@pytest.mark.parametrize("steps", [1, 15, 16, 17, 40])
def test_selective_scan(steps: int) -> None:
    features, states = 4, 3
    tensors = [
        draw(B, steps, features).abs(),
        draw(B, steps, features, seed=2),
        -draw(states, features, seed=3).abs(),
        draw(B, steps, states, seed=4),
        draw(B, steps, states, seed=5),
        draw(B, states, features, seed=6),
    ]
    same(selective_scan, selective_scan_loop, tensors)


@pytest.mark.parametrize("span", [1, 3, 4, 256])
@pytest.mark.parametrize("blocks", [(), (2,)])
def test_repeated_products_equal_plain_ones(
    blocks: tuple[int, ...], span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A recurrence, so that gradients pass from product to product, of `span` steps at a time."""
    monkeypatch.setattr("models.product.SPAN", span)
    shape = (*blocks, 4, 4)

    def run(repeated: bool, hidden: Tensor, matrix: Tensor) -> Tensor:
        times = RepeatedProduct(matrix) if repeated else partial(product, matrix=matrix)
        total = hidden
        for _ in range(4):
            hidden = torch.tanh(times(hidden))
            total = total + hidden
        return total

    tensors = [draw(*blocks, B, 4), draw(*shape, seed=2)]
    same(partial(run, True), partial(run, False), tensors)


def test_a_repeated_product_without_a_call_has_no_gradient_and_frozen_ones_need_none() -> None:
    matrix = draw(4, 4).requires_grad_()
    RepeatedProduct(matrix)
    hidden = draw(B, 4, seed=2).requires_grad_()
    RepeatedProduct(matrix.detach())(hidden).sum().backward()
    assert matrix.grad is None and hidden.grad is not None


def test_of_repeated_products_no_more_than_a_span_of_shares_is_kept_for_the_gradient(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("models.product.SPAN", 3)
    matrix, hidden, most = draw(4, 4).requires_grad_(), draw(B, 4, seed=2), 0
    times = RepeatedProduct(matrix)

    def look(_: Tensor) -> None:
        nonlocal most
        most = max(most, len(times.shares.pairs))

    for _ in range(8):
        hidden = torch.tanh(times(hidden))
        hidden.register_hook(look)
    first, second = (  # the second begins anew
        torch.autograd.grad(hidden.sum(), matrix, retain_graph=True)[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    assert 0 < most < 3


def test_repeated_products_are_rounded_as_autocast_does() -> None:
    hidden, matrix = draw(B, 4, dtype=torch.float32), draw(4, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(RepeatedProduct(matrix)(hidden), F.linear(hidden, matrix))


def test_windows_and_tails_make_a_causal_convolution_in_pieces() -> None:
    inputs, weight, bias = draw(B, 9, S), draw(4, S, seed=2), draw(S, seed=3)
    padded = F.pad(inputs.transpose(1, 2), (3, 0))
    expected = F.conv1d(padded, weight.t()[:, None], bias, groups=S).transpose(1, 2)
    tail, parts = torch.zeros(B, 3, S).double(), []
    for piece in inputs.split([1, 2, 6], dim=1):
        parts.append(depthwise(windows(piece, tail), weight, bias))
        tail = next_tail(piece, tail)
    torch.testing.assert_close(torch.cat(parts, 1), expected)
    assert torch.equal(tail, inputs[:, -3:])


def test_a_tail_is_that_of_the_valid_inputs() -> None:
    inputs, tail = draw(3, 5, S), draw(3, 2, S, seed=2)
    found = next_tail(inputs, tail, torch.tensor([5, 0, 1]))
    assert torch.equal(found[0], inputs[0, 3:5])
    assert torch.equal(found[1], tail[1])
    assert torch.equal(found[2], torch.stack([tail[2, 1], inputs[2, 0]]))


@pytest.mark.parametrize("span", [1, 2, 256])
def test_a_bias_of_repeated_products_gets_the_gradient_of_all_steps(
    span: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.product.SPAN", span)

    def run(repeated: bool):
        def times(matrix: Tensor, bias: Tensor, first: Tensor) -> Tensor:
            product = RepeatedProduct(matrix, bias) if repeated else lambda h: h @ matrix.T + bias
            return product(torch.tanh(product(first)))

        return times

    same(run(True), run(False), [draw(S, S), draw(S, seed=2), draw(B, S, seed=3)])


def test_softplus_is_precise_far_from_zero_on_either_side() -> None:
    values = torch.cat([torch.linspace(-80, 80, 3001), torch.tensor([0.0, -1e-8, 1e4, -1e4])])
    right = torch.log1p(torch.exp(-values.double().abs())) + values.double().clamp(min=0)
    torch.testing.assert_close(softplus(values).double(), right, rtol=1e-6, atol=1e-37)
    same(softplus, lambda x: F.softplus(x, threshold=100.0), [draw(7, 3) * 20])


def test_recomputed_algebra_has_the_gradient_of_the_plain_one() -> None:
    def algebra(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(a) * b, a.exp() + b

    same(lambda a, b: recomputed(algebra, a, b), algebra, [draw(B, S), draw(B, S, seed=2)])
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        recomputed(algebra, draw(B, S).requires_grad_(), draw(B, S))
    assert len(kept) == 2, "only what goes in"


def test_gates_of_rglru_equal_their_equations() -> None:
    gates, rate = draw(2, B * 4, 6, seed=2), -draw(6, seed=3).abs()
    same(_Gates.apply, gates_plain, [draw(B, 4, 6), gates, rate])


LOOPED = {
    "gru": (GRU, torch.nn.GRU, {}),
    "tanh": (RNN, torch.nn.RNN, {"nonlinearity": "tanh"}),
    "relu": (RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
}


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", LOOPED)
def test_loops_on_a_processor_equal_pytorch_s_layers(kind: str, both: bool) -> None:
    cell, module, options = LOOPED[kind]
    layer, back = (cell(input_size=S, hidden_size=4, **options).double() for _ in range(2))
    plain = module(S, 4, batch_first=True, bidirectional=both, **options).double()
    owners = [layer, back] if both else [layer]
    for owner, ending in zip(owners, ("", "_reverse"), strict=False):
        for name, value in owner.rnn.named_parameters():
            plain.get_parameter(f"{name}{ending}").data.copy_(value)

    def ours(inputs: Tensor) -> Tensor:
        return layer.both_ways(back, inputs)[0] if both else layer(inputs)[0]

    inputs = draw(B, 9, S)
    same(ours, lambda x: plain(x)[0], [inputs])
    found = []
    for run, modules in ((ours, owners), (lambda x: plain(x)[0], [plain])):
        parameters = [p for owner in modules for p in owner.parameters()]
        found.append(torch.autograd.grad(run(inputs).square().sum(), parameters))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():  # which keeps nothing for a gradient
        torch.testing.assert_close(ours(inputs), plain(inputs)[0])


@pytest.mark.parametrize("kind", LOOPED)
def test_loops_carry_a_state_and_its_gradient(kind: str) -> None:
    cell, module, options = LOOPED[kind]
    layer = cell(input_size=S, hidden_size=4, **options).double()
    plain = module(S, 4, batch_first=True, **options).double()
    plain.load_state_dict(layer.rnn.state_dict())

    def theirs(inputs: Tensor, before: Tensor) -> tuple[Tensor, Tensor]:
        outputs, last = plain(inputs, before[None])
        return outputs, last[0]

    same(layer, theirs, [draw(B, 6, S), draw(B, 4, seed=2)])


@pytest.mark.parametrize("kind", LOOPED)
def test_loops_under_autocast_round_products_and_not_the_state(kind: str) -> None:
    torch.manual_seed(1)
    cell, _, options = LOOPED[kind]
    layer = cell(input_size=S, hidden_size=4, **options)
    inputs, before = draw(B, 9, S, dtype=torch.float32), draw(B, 4, dtype=torch.float32, seed=2)
    found = []
    for autocast in (False, True):
        given = inputs.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            outputs, state = layer(given, before)
        assert outputs.dtype == state.dtype == torch.float32
        outputs.square().sum().backward()
        gradients = [parameter.grad for parameter in layer.parameters()]
        assert all(each.dtype == torch.float32 for each in gradients)
        found.append([outputs, given.grad, *gradients])
        layer.zero_grad()
    assert not torch.equal(found[0][0], found[1][0])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.1)
