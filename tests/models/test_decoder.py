"""The decoder: one call for a known text equals a loop of steps, whatever it is made of."""

import itertools

import pytest
import torch

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.mingru import MinGRU
from models.cells.mogrifier_lstm import MogrifierLSTM
from models.cells.peephole_lstm import PeepholeLSTM
from models.cells.rnn import RNN
from models.decoder import AttentionDecoder
from models.encoders.memory import KeyedMemory, Memory
from models.regularise import Regularised
from models.state import leaves, map_state, select_rows

V, E, H, D, B, T, S = 11, 5, 6, 6, 4, 5, 7
LENGTHS = torch.tensor([7, 3, 1, 5])
CELLS = [LSTM, GRU, RNN, Memoryless]
KINDS = ["additive", "general", "dot", "none"]
WAYS = [
    (kind, fed)
    for kind, fed in itertools.product(KINDS, (False, True))
    if (kind, fed) != ("none", True)
]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__.lower())
every_way = pytest.mark.parametrize(
    ("attention", "input_feeding"), WAYS, ids=[f"{k}-fed" if fed else k for k, fed in WAYS]
)


def build(cell=LSTM, **options) -> AttentionDecoder:
    torch.manual_seed(0)
    given = {"vocabulary_size": V, "memory_size": D, "embedding_size": E, "hidden_size": H}
    return AttentionDecoder(**(given | {"cell": cell, "num_layers": 2} | options)).double()


def tokens(*shape: int):
    return torch.randint(0, V, shape or (B, T), generator=torch.Generator().manual_seed(1))


def memory() -> Memory:
    generator = torch.Generator().manual_seed(2)
    values = torch.randn(B, S, D, generator=generator, dtype=torch.float64)
    summary = torch.randn(B, D, generator=generator, dtype=torch.float64)
    return Memory(
        values.requires_grad_(), torch.arange(S) < LENGTHS[:, None], summary.requires_grad_()
    )


def gradients(decoder, read, output, state) -> list:
    """Of everything that is learnt or read, for a sum that weighs all results differently."""
    results = [*output, *leaves(state)]
    total = sum((result.sin() * (place + 1)).sum() for place, result in enumerate(results))
    wanted = [*decoder.parameters(), read.values, read.summary]
    return [*torch.autograd.grad(total, wanted, allow_unused=True, retain_graph=True)]


@every_cell
@every_way
def test_forward_equals_a_loop_of_steps(cell, attention, input_feeding) -> None:
    """Values and gradients, in training too: masks are drawn once and passed to both."""
    decoder = build(
        cell,
        attention=attention,
        input_feeding=input_feeding,
        dropout=0.3,
        embedding_dropout=0.3,
        variational=True,
    )
    read, masks = memory(), decoder.draw_masks(B)
    output, after = decoder(tokens(), read, masks=masks)
    assert output.hidden.shape == (B, T, decoder.output_size)
    assert output.attention.shape == (B, T, 0 if attention == "none" else S)
    state, steps = decoder.initial_state(read), []
    for token in tokens().unbind(1):
        step, state = decoder.step(token, state, read, masks)
        steps.append(step)
    stepped = type(output)(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
    for one, other in zip([*output, *leaves(after)], [*stepped, *leaves(state)], strict=True):
        torch.testing.assert_close(one, other)
    together = gradients(decoder, read, output, after)
    apart = gradients(decoder, read, stepped, state)
    for one, other in zip(together, apart, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


LAYERS = {
    "peephole": PeepholeLSTM,
    "mogrifier": MogrifierLSTM,
    "dropped": Regularised(cell=LSTM, weight_drop=0.5),
    "dropped-mogrifier": Regularised(cell=MogrifierLSTM, weight_drop=0.5),
    "zoned": Regularised(cell=GRU, weight_drop=0.5, zoneout=1e-9),
    "mingru": MinGRU,
}


@pytest.mark.parametrize("attention", ["additive", "general", "dot"])
@pytest.mark.parametrize("name", LAYERS)
def test_the_loop_of_input_feeding_equals_steps_for_any_layers(name, attention) -> None:
    """Dropped weights, cells of steps and of scans, residual sums and normalisation."""
    decoder = build(
        LAYERS[name],
        attention=attention,
        input_feeding=True,
        dropout=0.3,
        variational=True,
        residual=True,
        layer_norm=True,
        embedding_size=H,
        hidden_size=H,
        num_layers=3,
    )
    read, masks = memory(), decoder.draw_masks(B)
    output, after = decoder(tokens(), read, masks=masks)
    state, steps = decoder.initial_state(read), []
    for token in tokens().unbind(1):
        step, state = decoder.step(token, state, read, masks)
        steps.append(step)
    stepped = type(output)(*(torch.stack(parts, 1) for parts in zip(*steps, strict=True)))
    torch.testing.assert_close([*output, *leaves(after)], [*stepped, *leaves(state)])
    together = gradients(decoder, read, output, after)
    apart = gradients(decoder, read, stepped, state)
    for one, other in zip(together, apart, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("attention", ["additive", "general", "dot"])
@pytest.mark.parametrize("cell", [LSTM, GRU, RNN], ids=lambda cell: cell.__name__.lower())
def test_the_loop_of_input_feeding_stays_close_in_bfloat16(cell, attention) -> None:
    """Against float64: no further away than bfloat16's 8 bits lead."""
    decoder = build(cell, attention=attention, input_feeding=True)
    read = memory()
    output, after = decoder(tokens(), read)
    exact = gradients(decoder, read, output, after)
    decoder.float()
    narrow = Memory(
        read.values.detach().float().requires_grad_(),
        read.mask,
        read.summary.detach().float().requires_grad_(),
    )
    with torch.autocast("cpu", torch.bfloat16):
        rough_output, rough_after = decoder(tokens(), narrow)
    torch.testing.assert_close(rough_output.hidden.double(), output.hidden, atol=0.03, rtol=0.0)
    rough = gradients(decoder, narrow, rough_output, rough_after)
    for one, other in zip(rough, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one.double() - other).norm() <= 0.1 * other.norm() + 1e-6


@every_cell
@every_way
def test_pads_of_the_memory_change_nothing_and_weigh_nothing(
    cell, attention, input_feeding
) -> None:
    decoder = build(cell, attention=attention, input_feeding=input_feeding).eval()
    read = memory()
    output, _ = decoder(tokens(), read)
    pads = ~read.mask
    other = read.values.masked_fill(pads[:, :, None], 9.0)
    more = torch.cat([other, torch.full((B, 2, D), -9.0).double()], 1)
    mask = torch.cat([read.mask, torch.zeros(B, 2, dtype=torch.bool)], 1)
    padded, _ = decoder(tokens(), Memory(more, mask, read.summary))
    torch.testing.assert_close(padded.hidden, output.hidden)
    if attention != "none":
        torch.testing.assert_close(padded.attention[:, :, :S], output.attention)
        assert (padded.attention.masked_fill(mask[:, None], 0.0) == 0.0).all()
        torch.testing.assert_close(output.attention.sum(-1), torch.ones(B, T).double())


@every_cell
@every_way
def test_a_row_does_not_depend_on_the_rows_beside_it(cell, attention, input_feeding) -> None:
    decoder = build(cell, attention=attention, input_feeding=input_feeding).eval()
    read = decoder.prepare(memory())
    output, state = decoder(tokens(), read)
    rows = torch.tensor([3, 1, 1])
    some = type(read)(*(part[rows] for part in read))
    picked, after = decoder(tokens()[rows], some)
    torch.testing.assert_close(picked.hidden, output.hidden[rows])
    for one, other in zip(leaves(after), leaves(select_rows(state, rows)), strict=True):
        torch.testing.assert_close(one, other)


@every_cell
@every_way
def test_the_summary_and_the_state_reach_the_result(cell, attention, input_feeding) -> None:
    decoder = build(cell, attention=attention, input_feeding=input_feeding).eval()
    read = memory()
    plain, _ = decoder(tokens(), read)
    changed, _ = decoder(tokens(), read._replace(summary=read.summary + 1.0))
    assert not torch.allclose(changed.hidden[:, 0], plain.hidden[:, 0])
    state = map_state(lambda leaf: leaf + 0.5, decoder.initial_state(read))
    if any(leaf.numel() for leaf in leaves(state)):
        moved, _ = decoder(tokens(), read, state)
        assert not torch.allclose(moved.hidden, plain.hidden)


@every_way
def test_a_text_in_two_parts_equals_the_whole(attention, input_feeding) -> None:
    decoder = build(attention=attention, input_feeding=input_feeding).eval()
    read = memory()
    whole, _ = decoder(tokens(), read)
    first, state = decoder(tokens()[:, :2], read)
    second, _ = decoder(tokens()[:, 2:], read, state)
    torch.testing.assert_close(torch.cat([first.hidden, second.hidden], 1), whole.hidden)


def test_later_symbols_do_not_reach_earlier_steps() -> None:
    for attention, input_feeding in WAYS:
        decoder = build(attention=attention, input_feeding=input_feeding).eval()
        other = torch.cat([tokens()[:, :3], (tokens()[:, 3:] + 1) % V], 1)
        one, two = (decoder(ids, memory())[0].hidden for ids in (tokens(), other))
        torch.testing.assert_close(one[:, :3], two[:, :3])
        assert not torch.allclose(one[:, 3], two[:, 3])


@pytest.mark.parametrize("attention", ["additive", "general", "dot"])
def test_keys_are_computed_once_a_sentence(attention) -> None:
    decoder, calls = build(attention=attention).eval(), []
    prepare = decoder.attention.prepare
    decoder.attention.prepare = lambda values: calls.append(1) or prepare(values)
    read = decoder.prepare(memory())
    assert isinstance(read, KeyedMemory) == (attention == "additive")
    state = decoder.initial_state(read)
    calls.clear()
    for token in tokens().unbind(1):
        _, state = decoder.step(token, state, read)
    assert attention != "additive" or not calls
    assert decoder.prepare(read) is read


def test_without_input_feeding_the_layers_and_attention_are_called_once() -> None:
    decoder, calls = build(), []
    for part in (decoder.stack, decoder.attention):
        part.register_forward_hook(lambda module, *_: calls.append(type(module).__name__))
    decoder(tokens(), memory())
    assert calls == ["RNNStack", "Attention"]


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_works_in_training_only(variational) -> None:
    decoder, read = build(dropout=0.5, embedding_dropout=0.5, variational=variational), memory()
    assert not torch.equal(decoder(tokens(), read)[0].hidden, decoder(tokens(), read)[0].hidden)
    if variational:
        dropped = decoder(tokens(), read)[0].hidden == 0.0
        assert dropped.any() and torch.equal(dropped, dropped[:, :1].expand_as(dropped))
        with pytest.raises(AssertionError, match="draw_masks once a sequence"):
            decoder.step(tokens(B), decoder.initial_state(read), read)
    decoder.eval()
    assert torch.equal(decoder(tokens(), read)[0].hidden, decoder(tokens(), read)[0].hidden)


@every_way
def test_the_state_keeps_its_dtype_under_autocast(attention, input_feeding) -> None:
    decoder = build(attention=attention, input_feeding=input_feeding).float()
    read = Memory(*(p.float() if p.is_floating_point() else p for p in memory()))
    with torch.autocast("cpu", torch.bfloat16):
        start = decoder.initial_state(read)
        output, state = decoder(tokens(), read)
        _, state = decoder.step(tokens(B), state, read)
    assert {leaf.dtype for leaf in leaves(start) + leaves(state)} == {torch.float32}
    assert output.hidden.isfinite().all()


def test_input_feeding_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="input_feeding=false or attention=additive"):
        build(attention="none", input_feeding=True)
