"""Stacks: the contract of one layer, kept by several."""

import copy
from functools import partial

import pytest
import torch
from torch import Tensor

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.rnn import RNN
from models.dropout import drop_symbols, locked_dropout, replace_symbols
from models.stack import BidirectionalStack, RNNStack
from models.state import leaves, map_state

B, T, D, H = 4, 6, 5, 3
LENGTHS = torch.tensor([6, 2, 0, 5])
OPTIONS = [
    {},
    {"residual": True},
    {"layer_norm": True},
    {"residual": True, "layer_norm": True, "dropout": 0.5, "variational": True},
]
CELLS = [LSTM, GRU, RNN, Memoryless]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__.lower())
every_option = pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")


def build(kind, cell=GRU, num_layers=3, input_size=D, **options):
    torch.manual_seed(0)
    stack = kind(input_size=input_size, hidden_size=H, cell=cell, num_layers=num_layers, **options)
    return stack.double()


def sequence(*shape: int, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape or (B, T, D), generator=generator, dtype=torch.float64)


def random_state(stack: RNNStack):
    generator = torch.Generator().manual_seed(2)
    return map_state(
        lambda leaf: torch.rand(leaf.shape, generator=generator, dtype=torch.float64),
        stack.initial_state(B),
    )


def assert_states_close(a, b) -> None:
    for one, other in zip(leaves(a), leaves(b), strict=True):
        torch.testing.assert_close(one, other)


@every_cell
@every_option
def test_forward_equals_a_loop_of_steps(cell, options) -> None:
    """In training too: the masks of variational dropout are drawn once and passed to both."""
    stack = build(RNNStack, cell, **options)
    state, drawn = random_state(stack), stack.draw(B)
    outputs, after = stack(sequence(), state, drawn=drawn)
    assert outputs.shape == (B, T, stack.output_size)
    stepped = []
    for inputs in sequence().unbind(1):
        output, state = stack.step(inputs, state, drawn)
        stepped.append(output)
    torch.testing.assert_close(outputs, torch.stack(stepped, 1))
    assert_states_close(after, state)


@every_cell
@every_option
@pytest.mark.parametrize("kind", [RNNStack, BidirectionalStack])
def test_right_padding_changes_nothing(kind, cell, options) -> None:
    stack = build(kind, cell, **options)
    drawn = stack.draw(B)
    valid = torch.arange(T) < LENGTHS[:, None]
    inputs = sequence()
    outputs, state = stack(inputs, None, LENGTHS, drawn)
    more = torch.cat([inputs.masked_fill(~valid[:, :, None], 50.0), sequence(B, 3, D)], 1)
    padded, padded_state = stack(more, None, LENGTHS, drawn)
    torch.testing.assert_close(padded[:, :T][valid], outputs[valid])
    assert_states_close(padded_state, state)
    for row, length in enumerate(LENGTHS.tolist()):
        if length:
            rows = slice(row, row + 1)
            mask = tuple(m if m is None else m[rows] for m in drawn.masks)
            alone, _ = stack(inputs[rows, :length], drawn=drawn._replace(masks=mask))
            torch.testing.assert_close(alone[0], outputs[row, :length])


def test_chunks_with_carried_state_equal_the_whole() -> None:
    stack = build(RNNStack, LSTM, residual=True)
    whole, after = stack(sequence())
    first, state = stack(sequence()[:, :2])
    second, state = stack(sequence()[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    assert_states_close(state, after)


def test_a_bidirectional_layer_is_one_pytorch_bidirectional_layer() -> None:
    for cell, kind in ((LSTM, torch.nn.LSTM), (GRU, torch.nn.GRU), (RNN, torch.nn.RNN)):
        stack = build(BidirectionalStack, cell, num_layers=1)
        reference = kind(D, H, batch_first=True, bidirectional=True).double()
        weights = stack.forward_layers[0].rnn.state_dict()
        backward = stack.backward_layers[0].rnn.state_dict()
        weights.update({f"{name}_reverse": value for name, value in backward.items()})
        reference.load_state_dict(weights)
        torch.testing.assert_close(stack(sequence())[0], reference(sequence())[0])
        lengths = LENGTHS.clamp(min=1)
        packed = torch.nn.utils.rnn.pack_padded_sequence(
            sequence(), lengths, batch_first=True, enforce_sorted=False
        )
        expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
        valid = torch.arange(T) < lengths[:, None]
        torch.testing.assert_close(stack(sequence(), None, lengths)[0][valid], expected[valid])


def test_sizes_and_states_are_what_models_read() -> None:
    stack = build(RNNStack, LSTM, num_layers=2)
    assert (stack.input_size, stack.output_size, stack.num_layers) == (D, H, 2)
    assert stack.fillable == (0, 1, 2, 3)
    assert build(RNNStack, Memoryless).fillable == ()
    both = build(BidirectionalStack, GRU, num_layers=2)
    assert (both.output_size, both.num_layers) == (2 * H, 2)
    _, state = both(sequence())
    assert [len(level) for level in state] == [2, 2]
    assert {leaf.shape for leaf in leaves(state)} == {(B, H)}


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("kind", [RNNStack, BidirectionalStack])
def test_dropout_works_in_training_only_and_between_layers_only(kind, variational) -> None:
    stack = build(kind, dropout=0.5, variational=variational, num_layers=2)
    assert not torch.equal(stack(sequence())[0], stack(sequence())[0])
    stack.eval()
    assert torch.equal(stack(sequence())[0], stack(sequence())[0])
    assert stack.draw_masks(B) == (None, None)
    single = build(kind, dropout=0.5, variational=variational, num_layers=1)
    assert torch.equal(single(sequence())[0], single(sequence())[0])


def test_a_variational_mask_is_the_same_at_every_step_and_keeps_the_mean() -> None:
    stack = build(RNNStack, dropout=0.25, variational=True, num_layers=2)
    none, mask = stack.draw_masks(2000)
    assert none is None and mask.shape == (2000, H) and mask.dtype == torch.float64
    assert set(mask.unique().tolist()) == {0.0, 1 / 0.75}
    assert abs(mask.mean().item() - 1.0) < 0.05
    dropped = locked_dropout(torch.ones(3, 5, 40), 0.5, training=True)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert torch.equal(locked_dropout(dropped, 0.5, training=False), dropped)


def test_a_step_in_training_asks_for_the_sequences_masks() -> None:
    stack = build(RNNStack, dropout=0.5, variational=True)
    with pytest.raises(AssertionError, match="draw once a sequence"):
        stack.step(sequence(B, D), stack.initial_state(B))
    stack.eval().step(sequence(B, D), stack.initial_state(B))


def test_residual_adds_the_layers_input_where_sizes_agree() -> None:
    plain = build(RNNStack, num_layers=2)
    residual = build(RNNStack, num_layers=2, residual=True)
    first = plain.layers[0](sequence())[0]
    expected = first + plain.layers[1](first)[0]
    torch.testing.assert_close(residual(sequence())[0], expected)  # D != H: none at the first
    square = build(RNNStack, num_layers=1, input_size=H, residual=True)
    inputs = sequence(B, T, H)
    torch.testing.assert_close(square(inputs)[0], inputs + square.layers[0](inputs)[0])


def test_layer_norm_normalises_what_leaves_each_layer() -> None:
    outputs, _ = build(RNNStack, num_layers=2, layer_norm=True)(sequence())
    torch.testing.assert_close(outputs.mean(-1), torch.zeros(B, T).double(), atol=1e-6, rtol=0)


def test_a_stack_can_be_copied_and_its_weights_loaded() -> None:
    stack = build(RNNStack, partial(RNN, nonlinearity="relu"))
    torch.testing.assert_close(copy.deepcopy(stack)(sequence())[0], stack(sequence())[0])
    other = build(RNNStack, partial(RNN, nonlinearity="relu"))
    other.load_state_dict(stack.state_dict())


def test_mistakes_name_the_value() -> None:
    with pytest.raises(ValueError, match="below 1, got 1.0"):
        build(RNNStack, dropout=1.0)
    with pytest.raises(ValueError, match="num_layers is 1 to 1000, got 0"):
        build(BidirectionalStack, num_layers=0)
    with pytest.raises(ValueError, match="takes no state"):
        build(BidirectionalStack)(sequence(), torch.zeros(B, H))


def test_dropped_symbols_are_dropped_wherever_they_stand() -> None:
    torch.manual_seed(0)
    symbols = torch.randint(0, 10, (4, 50))
    dropped = drop_symbols(torch.ones(4, 50, 3), symbols, 10, 0.5, training=True)
    kept = {int(symbol): set() for symbol in symbols.unique()}
    for symbol, vector in zip(symbols.flatten(), dropped.flatten(0, 1), strict=True):
        kept[int(symbol)].add(tuple(vector.tolist()))
    assert all(len(values) == 1 for values in kept.values())
    assert set().union(*kept.values()) == {(0.0,) * 3, (2.0,) * 3}
    embedded = torch.ones(4, 50, 3)
    assert drop_symbols(embedded, symbols, 10, 0.5, training=False) is embedded


def test_replaced_symbols_are_among_the_replaceable() -> None:
    torch.manual_seed(0)
    symbols = torch.randint(2, 10, (4, 50))
    replaceable = symbols > 5
    replaced = replace_symbols(symbols, replaceable, 1, 0.5, training=True)
    changed = replaced != symbols
    assert changed.any() and not (changed & ~replaceable).any()
    assert set(replaced[changed].tolist()) == {1}
