"""What every cell of configs/cell promises, and the equations of those we ship, written out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import hydra.utils
import pytest
import torch
import yaml
from torch import Tensor

from models.cells.gru import GRU
from models.cells.hgrn import HGRN
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.rnn import RNN
from models.fused import FusedLayer
from models.recurrent import RecurrentLayer, reverse_rows
from models.state import State, detach, leaves, map_state, repeat_rows, select_rows
from models.stepwise import StepwiseLayer

CELLS = sorted((Path(__file__).parents[2] / "configs" / "cell").glob("*.yaml"))
B, T, D, H = 5, 7, 3, 4
LENGTHS = torch.tensor([7, 3, 0, 1, 5])


class Sums(StepwiseLayer):
    """h' = tanh(W x + h): the smallest cell that is written as a step, without a matrix."""

    def __init__(self, *, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size=input_size, output_size=hidden_size, state_sizes=(hidden_size,))
        self.weight = torch.nn.Linear(input_size, hidden_size)

    def project(self, inputs: Tensor) -> Tensor:
        return self.weight(inputs)

    def recur(
        self, projected: Tensor, state: tuple[Tensor, ...], products: tuple
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        hidden = torch.tanh(projected + state[0])
        return hidden, (hidden,)


VARIANTS: dict[str, Callable[..., RecurrentLayer]] = {  # beside what the YAML files say
    "stepwise": Sums,
    "rnn_relu": partial(RNN, nonlinearity="relu"),
    "hgrn_rotation": partial(HGRN, rotation=True),
}


def factory(name: str) -> Callable[..., RecurrentLayer]:
    if name in VARIANTS:
        return VARIANTS[name]
    path = next(path for path in CELLS if path.stem == name)
    return hydra.utils.instantiate(yaml.safe_load(path.read_text()))


NAMES = [*(path.stem for path in CELLS), *VARIANTS]
every_cell = pytest.mark.parametrize("name", NAMES)


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float64, size: int = H):
    torch.manual_seed(seed)
    return factory(name)(input_size=D, hidden_size=size).to(dtype)


def random_state(layer: RecurrentLayer, seed: int = 3, batch_size: int = B) -> State:
    """A state that the layer may be in: after a few random steps, with noise where it may be."""
    generator = torch.Generator().manual_seed(seed)
    dtype = next(layer.parameters()).dtype
    inputs = torch.randn(batch_size, 4, D, generator=generator, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        flat = leaves(layer(inputs)[1])
    for index in layer.fillable:
        noise = torch.rand(flat[index].shape, generator=generator, dtype=torch.float64) - 0.5
        flat[index] = flat[index] + noise.to(dtype)
    fresh = iter(flat)
    return map_state(lambda _: next(fresh).clone(), layer.initial_state(batch_size))


def sequence(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(
        shape or (B, T, D), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    ).to(dtype)


def has_memory(layer: RecurrentLayer) -> bool:
    return any(leaf.numel() for leaf in leaves(layer.initial_state(1)))


def assert_states_close(a: State, b: State, **tolerance: float) -> None:
    assert len(leaves(a)) == len(leaves(b))
    for one, other in zip(leaves(a), leaves(b), strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def loop(layer: RecurrentLayer, inputs: Tensor, state: State) -> tuple[Tensor, State]:
    outputs = []
    for step_inputs in inputs.unbind(1):
        output, state = layer.step(step_inputs, state)
        outputs.append(output)
    return torch.stack(outputs, 1), state


def row_by_row(layer: RecurrentLayer, inputs: Tensor, state: State, lengths: Tensor) -> State:
    """The state after each row's last valid step, each row run alone and unpadded."""
    after = []
    for row, length in enumerate(lengths.tolist()):
        alone = select_rows(state, torch.tensor([row]))
        if length:
            alone = layer(inputs[row : row + 1, :length], alone)[1]
        after.append(alone)
    return map_state(lambda *rows: torch.cat(rows), *after)


@every_cell
def test_forward_equals_a_loop_of_steps(name: str) -> None:
    layer = build(name)
    inputs, state = sequence(), random_state(layer)
    outputs, after = layer(inputs, state)
    assert outputs.shape == (B, T, layer.output_size)
    expected, expected_after = loop(layer, inputs, state)
    torch.testing.assert_close(outputs, expected)
    assert_states_close(after, expected_after)


@every_cell
def test_gradients_of_forward_equal_those_of_the_loop(name: str) -> None:
    layer = build(name)
    found = []
    for run in (layer, lambda *arguments: loop(layer, *arguments)):
        layer.zero_grad()
        inputs = sequence().requires_grad_()
        state = map_state(lambda leaf: leaf.requires_grad_(), random_state(layer))
        outputs, after = run(inputs, state)
        total = outputs.sin().sum() + sum(leaf.cos().sum() for leaf in leaves(after))
        total.backward()
        found.append([inputs.grad, *(leaf.grad for leaf in leaves(state))])
        found[-1] += [parameter.grad.clone() for parameter in layer.parameters()]
    for fused, looped in zip(*found, strict=True):
        torch.testing.assert_close(fused, looped)


@every_cell
def test_no_state_means_the_initial_state(name: str) -> None:
    layer = build(name)
    for none, given in zip(
        layer(sequence()), layer(sequence(), layer.initial_state(B)), strict=True
    ):
        assert_states_close(none, given)


@every_cell
@pytest.mark.parametrize("chunks", [(3, 4), (1, 5, 1), (2, 2, 2, 1), (1,) * 7])
def test_chunks_with_carried_state_equal_the_whole(name: str, chunks: tuple[int, ...]) -> None:
    layer = build(name)
    whole, after = layer(sequence())
    state, parts = None, []
    for chunk in sequence().split(chunks, dim=1):
        outputs, state = layer(chunk, state)
        parts.append(outputs)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    assert_states_close(state, after)


@every_cell
def test_another_state_changes_every_output_row(name: str) -> None:
    layer = build(name)
    if not has_memory(layer):
        pytest.skip("nothing is carried by design")
    one, after_one = layer(sequence(), random_state(layer, 3))
    other, after_other = layer(sequence(), random_state(layer, 4))
    assert (one - other).abs().amax(dim=(1, 2)).min() > 1e-4
    pairs = zip(leaves(after_one), leaves(after_other), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


@every_cell
def test_a_state_that_was_passed_in_is_not_changed(name: str) -> None:
    layer = build(name)
    state = random_state(layer)
    before = map_state(Tensor.clone, state)
    layer(sequence(), state, LENGTHS)
    layer.step(sequence(B, D), state)
    for was, now in zip(leaves(before), leaves(state), strict=True):
        assert torch.equal(was, now)


@every_cell
def test_the_state_is_that_after_each_rows_last_valid_step(name: str) -> None:
    layer = build(name)
    inputs, state = sequence(), random_state(layer)
    outputs, after = layer(inputs, state, LENGTHS)
    assert_states_close(after, row_by_row(layer, inputs, state, LENGTHS))
    unpadded = layer(inputs, state)[0]
    for row, length in enumerate(LENGTHS.tolist()):
        torch.testing.assert_close(outputs[row, :length], unpadded[row, :length])


@every_cell
def test_a_length_of_zero_returns_the_given_state(name: str) -> None:
    layer = build(name)
    state = random_state(layer)
    _, after = layer(sequence(), state, torch.zeros(B, dtype=torch.long))
    for given, returned in zip(leaves(state), leaves(after), strict=True):
        assert torch.equal(given, returned)


@every_cell
def test_right_padding_changes_nothing(name: str) -> None:
    """Not the outputs, the state or a gradient, whatever stands on the pads and however many."""
    found = []
    for pads in (0.0, 100.0, -3.0):
        layer = build(name)
        more = 0 if pads == 0.0 else 4
        inputs = torch.cat([sequence(), torch.zeros(B, more, D, dtype=torch.float64)], 1)
        valid = torch.arange(T + more) < LENGTHS[:, None]
        inputs = inputs.masked_fill(~valid[:, :, None], pads).requires_grad_()
        outputs, after = layer(inputs, random_state(layer), LENGTHS)
        assert outputs.isfinite().all()
        (outputs[valid].sin().sum() + sum(leaf.cos().sum() for leaf in leaves(after))).backward()
        gradients = [parameter.grad for parameter in layer.parameters()]
        found.append([outputs[valid], inputs.grad[:, :T], *leaves(after), *gradients])
        assert not inputs.grad[~valid].any()
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b)


@every_cell
def test_rows_do_not_know_each_other(name: str) -> None:
    """Selecting and repeating rows (beams) commutes with running."""
    layer = build(name)
    inputs, state = sequence(), random_state(layer)
    outputs, after = layer(inputs, state, LENGTHS)
    rows = torch.tensor([4, 0, 0, 3])
    selected, after_selected = layer(inputs[rows], select_rows(state, rows), LENGTHS[rows])
    torch.testing.assert_close(selected, outputs[rows])
    assert_states_close(after_selected, select_rows(after, rows))
    repeated, after_repeated = layer(
        inputs.repeat_interleave(3, 0), repeat_rows(state, 3), LENGTHS.repeat_interleave(3)
    )
    torch.testing.assert_close(repeated, outputs.repeat_interleave(3, 0))
    assert_states_close(after_repeated, repeat_rows(after, 3))


@every_cell
def test_outputs_are_causal(name: str) -> None:
    layer = build(name)
    inputs = sequence().requires_grad_()
    layer(inputs)[0][:, 3].sum().backward()
    assert not inputs.grad[:, 4:].any()
    assert inputs.grad[:, 3].any()


@every_cell
def test_detaching_cuts_the_graph_and_carrying_keeps_it(name: str) -> None:
    layer = build(name)
    inputs = sequence().requires_grad_()
    _, state = layer(inputs)
    layer(sequence(seed=2), detach(state))[0].sum().backward()
    assert inputs.grad is None
    if has_memory(layer):
        layer(sequence(seed=2), state)[0].sum().backward()
        assert inputs.grad.any()


@every_cell
def test_one_seed_gives_the_same_weights(name: str) -> None:
    for a, b in zip(build(name, 5).parameters(), build(name, 5).parameters(), strict=True):
        assert torch.equal(a, b)
    one, other = (torch.cat([p.flatten() for p in build(name, s).parameters()]) for s in (5, 6))
    assert not torch.equal(one, other)


@every_cell
def test_weights_travel_through_a_state_dict(name: str, tmp_path: Path) -> None:
    layer, other = build(name, 1), build(name, 2)
    torch.save(layer.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(layer(sequence())[0], other(sequence())[0])


@every_cell
def test_gradcheck(name: str) -> None:
    layer = build(name, size=2)
    inputs = sequence(2, 3, D).requires_grad_()
    state = map_state(lambda leaf: leaf.requires_grad_(), random_state(layer, batch_size=2))
    lengths = torch.tensor([3, 2])

    def run(inputs: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        outputs, after = layer(inputs, state, lengths)
        valid = (torch.arange(3) < lengths[:, None])[:, :, None]
        return (outputs * valid, *(leaf for leaf in leaves(after) if leaf.numel()))

    filled = [leaf for leaf in leaves(state) if leaf.numel()]
    assert torch.autograd.gradcheck(run, (inputs, *filled, *layer.parameters()))


@every_cell
def test_gradients_flow_in_evaluation_too(name: str) -> None:
    layer = build(name, dtype=torch.float32).eval()
    inputs = sequence(dtype=torch.float32).requires_grad_()
    layer(inputs)[0].sum().backward()
    assert inputs.grad.any()


@every_cell
@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
def test_recording_gradients_changes_no_value(name: str, guard: Callable) -> None:
    """The kernels take another path where none are recorded."""
    layer, other = build(name, dtype=torch.float32), build(name, 8, torch.float32)
    inputs = sequence(dtype=torch.float32)
    recorded = [*layer(inputs, None, LENGTHS), *layer.both_ways(other, inputs, LENGTHS)]
    with guard():
        plain = [*layer(inputs, None, LENGTHS), *layer.both_ways(other, inputs, LENGTHS)]
    for one, another in zip(recorded, plain, strict=True):
        assert_states_close(one, another)


@every_cell
def test_bf16_autocast_stays_near_fp32_and_keeps_the_states_dtype(name: str) -> None:
    layer = build(name, dtype=torch.float32)
    inputs, state = sequence(dtype=torch.float32), random_state(layer)
    outputs, after = layer(inputs, state, LENGTHS)
    valid = torch.arange(T) < LENGTHS[:, None]
    with torch.autocast("cpu", torch.bfloat16):
        rough, rough_after = layer(inputs, state, LENGTHS)
        _, step_after = layer.step(inputs[:, 0], map_state(Tensor.bfloat16, state))
        layer(inputs, map_state(Tensor.bfloat16, state))  # what a bridge under autocast gives
    torch.testing.assert_close(rough[valid].float(), outputs[valid], atol=0.05, rtol=0.05)
    assert_states_close(rough_after, after, atol=0.05, rtol=0.05)
    assert {leaf.dtype for leaf in leaves(step_after)} == {torch.float32}


@every_cell
def test_under_bf16_it_remembers_in_evaluation_as_it_was_trained(name: str) -> None:
    """A kernel that rounds the state at every step may only run where training runs it too."""
    layer = build(name, dtype=torch.float32, size=16)
    inputs = sequence(2, 300, D, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        trained, state = layer.train()(inputs)
        with torch.no_grad():
            evaluated, again = layer.eval()(inputs)
    torch.testing.assert_close(evaluated, trained.detach(), atol=1e-5, rtol=1e-5)
    assert_states_close(again, map_state(Tensor.detach, state), atol=1e-5, rtol=1e-5)


@every_cell
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "padded"])
def test_both_ways_equals_reversing_by_hand(name: str, lengths: Tensor | None) -> None:
    found = []
    for fast in (True, False):
        forth, back = build(name, 1), build(name, 2)
        inputs = sequence().requires_grad_()
        run = type(forth).both_ways if fast else RecurrentLayer.both_ways
        outputs, (state, reverse_state) = run(forth, back, inputs, lengths)
        assert outputs.shape == (B, T, 2 * H)
        valid = torch.ones(B, T).bool() if lengths is None else torch.arange(T) < lengths[:, None]
        ends = [*leaves(state), *leaves(reverse_state)]
        (outputs[valid].sin().sum() + sum(leaf.cos().sum() for leaf in ends)).backward()
        gradients = [p.grad for layer in (forth, back) for p in layer.parameters()]
        found.append([outputs[valid], *ends, inputs.grad, *gradients])
    for fused, by_hand in zip(*found, strict=True):
        torch.testing.assert_close(fused, by_hand)


def test_reversing_twice_gives_the_rows_back() -> None:
    inputs = sequence()
    reverse = reverse_rows(inputs, LENGTHS)
    assert torch.equal(reverse[1, :3], inputs[1, :3].flip(0))
    assert torch.equal(reverse[1, 3:], inputs[1, 3:])
    assert torch.equal(reverse_rows(reverse, LENGTHS), inputs)


@every_cell
def test_fillable_names_leaves_that_exist(name: str) -> None:
    layer = build(name)
    assert set(layer.fillable) <= set(range(len(leaves(layer.initial_state(1)))))


# The equations, one step each: weights W (gates · H, D), U (gates · H, H), biases a and b.


def lstm_equations(x: Tensor, state: State, W: Tensor, U: Tensor, a: Tensor, b: Tensor):
    h, c = state
    i, f, g, o = (x @ W.T + a + h @ U.T + b).split(H, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    h = o.sigmoid() * c.tanh()
    return h, (h, c)


def gru_equations(x: Tensor, h: Tensor, W: Tensor, U: Tensor, a: Tensor, b: Tensor):
    r_x, z_x, n_x = (x @ W.T + a).split(H, 1)
    r_h, z_h, n_h = (h @ U.T + b).split(H, 1)
    r, z = (r_x + r_h).sigmoid(), (z_x + z_h).sigmoid()
    h = (1 - z) * (n_x + r * n_h).tanh() + z * h
    return h, h


def rnn_equations(x: Tensor, h: Tensor, W: Tensor, U: Tensor, a: Tensor, b: Tensor):
    h = (x @ W.T + a + h @ U.T + b).tanh()
    return h, h


def rnn_relu_equations(x: Tensor, h: Tensor, W: Tensor, U: Tensor, a: Tensor, b: Tensor):
    h = (x @ W.T + a + h @ U.T + b).clamp(min=0)
    return h, h


def memoryless_equations(x: Tensor, state: Tensor, W: Tensor, a: Tensor, V: Tensor, b: Tensor):
    return ((x @ W.T + a).clamp(min=0) @ V.T + b).tanh(), state


EQUATIONS = {
    "lstm": lstm_equations,
    "gru": gru_equations,
    "rnn": rnn_equations,
    "rnn_relu": rnn_relu_equations,
    "memoryless": memoryless_equations,
}


@pytest.mark.parametrize("name", EQUATIONS)
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["full", "padded"])
def test_values_and_gradients_follow_the_equations(name: str, lengths: Tensor | None) -> None:
    layer = build(name)
    for parameter in layer.parameters():  # biases too, which start at zero
        torch.nn.init.normal_(parameter, std=0.5)
    counts = [T] * B if lengths is None else lengths.tolist()
    found = []
    for written_out in (False, True):
        layer.zero_grad()
        inputs = sequence().requires_grad_()
        state = map_state(lambda leaf: leaf.requires_grad_(), random_state(layer))
        if written_out:
            outputs, ends = [], []
            for row, count in enumerate(counts):
                end = map_state(lambda leaf, row=row: leaf[row : row + 1], state)
                for place in range(count):
                    x = inputs[row : row + 1, place]
                    output, end = EQUATIONS[name](x, end, *layer.parameters())
                    outputs.append(output)
                ends.append(end)
            after = map_state(lambda *rows: torch.cat(rows), *ends)
            values = torch.cat(outputs)
        else:
            padded, after = layer(inputs, state, lengths)
            values = padded[torch.arange(T) < torch.tensor(counts)[:, None]]
        (values.sin().sum() + sum(leaf.cos().sum() for leaf in leaves(after))).backward()
        gradients = [inputs.grad, *(p.grad.clone() for p in layer.parameters())]
        given = [leaf.grad for leaf in leaves(state) if leaf.numel()]
        found.append([values, *leaves(after), *gradients, *given])
    for ours, reference in zip(*found, strict=True):
        torch.testing.assert_close(ours, reference)


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn", "rnn_relu"])
@pytest.mark.parametrize("directions", [1, 2])
def test_running_through_pads_equals_packing(name: str, directions: int) -> None:
    """In float32, within 1e-6, values and gradients; the packed twin is what a GPU runs."""
    layer = build(name, dtype=torch.float32)
    assert isinstance(layer, FusedLayer)
    if directions == 2 and layer.pad_column is None:
        pytest.skip("no gate holds its state: it is reversed by index instead")
    backward = build(name, 9, torch.float32)
    valid = torch.arange(T) < LENGTHS[:, None]
    found = []
    for run in (layer._padded, layer._packed):
        layer.zero_grad()
        backward.zero_grad()
        inputs = sequence(dtype=torch.float32).requires_grad_()
        weights = layer._weights() + (backward._weights() if directions == 2 else [])
        start = layer.initial_state(B) if directions == 2 else random_state(layer)
        before = [torch.stack([leaf] * directions) for leaf in leaves(start)]
        outputs, *after = run(inputs, before, weights, LENGTHS)
        after = [leaf[:, LENGTHS > 0] for leaf in after]
        (outputs[valid].sin().sum() + sum(leaf.cos().sum() for leaf in after)).backward()
        gradients = [weight.grad.clone() for weight in weights]
        found.append([outputs[valid], *after, inputs.grad, *gradients])
    for padded, packed in zip(*found, strict=True):
        torch.testing.assert_close(padded, packed, atol=1e-6, rtol=1e-6)


def test_the_forget_gate_starts_open_and_recurrent_matrices_orthogonal() -> None:
    rnn = LSTM(input_size=D, hidden_size=H).rnn
    bias = rnn.bias_ih_l0 + rnn.bias_hh_l0
    assert torch.equal(bias, torch.tensor([0.0, 1.0, 0.0, 0.0]).repeat_interleave(H))
    for layer in (LSTM, GRU, RNN):
        for gate in layer(input_size=D, hidden_size=H).rnn.weight_hh_l0.split(H):
            torch.testing.assert_close(gate @ gate.T, torch.eye(H))


def test_without_orthogonal_weights_are_as_pytorch_draws_them() -> None:
    torch.manual_seed(0)
    ours = GRU(input_size=D, hidden_size=H, orthogonal=False).rnn.state_dict()
    torch.manual_seed(0)
    theirs = torch.nn.GRU(D, H).state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_memoryless_has_as_many_weights_as_a_plain_rnn() -> None:
    count = [
        sum(p.numel() for p in cell(input_size=D, hidden_size=H).parameters() if p.dim() == 2)
        for cell in (Memoryless, RNN)
    ]
    assert count[0] == count[1]


def test_a_wrong_option_names_the_value_and_what_exists() -> None:
    with pytest.raises(ValueError, match="tanh, relu, got 'gelu'"):
        RNN(input_size=D, hidden_size=H, nonlinearity="gelu")
    with pytest.raises(ValueError, match="1 or more, got input 0"):
        Memoryless(input_size=0, hidden_size=H)


@every_cell
def test_long_sequences_go_through_in_spans(name: str, monkeypatch) -> None:
    """Whatever a parallel cell computes at once, the outputs, states and gradients are the same."""
    layer = build(name)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(B, T, D, dtype=torch.float64, generator=generator)
    found = []
    for span in (T, 3):
        monkeypatch.setattr("models.parallel.SPAN", span)
        given = inputs.clone().requires_grad_()
        outputs, state = layer(given, random_state(layer), LENGTHS)
        valid = torch.arange(T)[None] < LENGTHS[:, None]
        outputs = outputs.masked_fill(~valid[:, :, None], 0.0)
        total = outputs.square().sum() + sum(leaf.sum() for leaf in leaves(state))
        found.append([outputs, *leaves(state), *torch.autograd.grad(total, given)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
