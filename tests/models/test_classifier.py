"""Many to one."""

from functools import partial

import pytest
import torch
from torch import Tensor

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.rnn import RNN
from models.classifier import Classifier
from models.head import RealHead
from models.pooling import POOLINGS

V, B, T, LABELS = 11, 4, 7, 3
LENGTHS = torch.tensor([7, 4, 1, 5])
SYMBOLS = torch.randint(2, V, (B, T), generator=torch.Generator().manual_seed(0))

every_pooling = pytest.mark.parametrize("pooling", POOLINGS)
both_directions = pytest.mark.parametrize("bidirectional", [False, True])


def build(**options) -> Classifier:
    torch.manual_seed(0)
    settings = {
        "vocabulary_size": V,
        "input_features": None,
        "num_outputs": LABELS,
        "real": False,
        "pad_id": 0,
        "unk_id": 1,
        "cell": LSTM,
        "embedding_size": 5,
        "hidden_size": 6,
    }
    return Classifier(**{**settings, **options}).double()


def padded(more: int = 0, fill: int = 0) -> Tensor:
    symbols = torch.cat([SYMBOLS, torch.full((B, more), fill)], dim=1)
    return symbols.masked_fill(torch.arange(T + more) >= LENGTHS[:, None], fill)


@every_pooling
@both_directions
@pytest.mark.parametrize("cell", [LSTM, GRU, RNN], ids=lambda cell: cell.__name__)
def test_pads_change_nothing_in_loss_or_gradients(pooling, bidirectional, cell) -> None:
    model = build(pooling=pooling, bidirectional=bidirectional, cell=cell, num_layers=2)
    found = []
    for more, fill in ((0, 0), (3, 9)):
        output = model(padded(more, fill), LENGTHS)
        loss, _ = model.head.loss(output.hidden, torch.tensor([0, 1, 2, 0]))
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    torch.testing.assert_close(*found)


@every_pooling
@both_directions
def test_a_row_is_read_as_it_would_be_alone(pooling, bidirectional) -> None:
    model = build(pooling=pooling, bidirectional=bidirectional)
    hidden = model(padded(), LENGTHS).hidden
    for row, length in enumerate(LENGTHS.tolist()):
        alone = model(SYMBOLS[row : row + 1, :length], LENGTHS[row : row + 1]).hidden
        torch.testing.assert_close(hidden[row], alone[0])


@every_pooling
@both_directions
def test_without_memory_the_order_of_what_came_before_the_last_step_is_not_seen(
    pooling, bidirectional
) -> None:
    """Both ways round, a network that also looks at the first step keeps that step too."""
    moved = SYMBOLS.clone()
    moved[0, 1:6] = SYMBOLS[0, [5, 3, 1, 2, 4]]
    moved[3, 1:4] = SYMBOLS[3, [2, 3, 1]]
    assert not torch.equal(moved, SYMBOLS)
    options = {"pooling": pooling, "bidirectional": bidirectional, "num_layers": 2}
    blind = build(cell=Memoryless, **options)
    torch.testing.assert_close(blind(SYMBOLS, LENGTHS).hidden, blind(moved, LENGTHS).hidden)
    seeing = build(cell=GRU, **options)
    changed = (seeing(SYMBOLS, LENGTHS).hidden - seeing(moved, LENGTHS).hidden).abs().amax(1) > 1e-6
    assert changed.tolist() == [True, False, False, True]


def test_label_smoothing_works_in_training_only() -> None:
    smooth, plain = build(label_smoothing=0.3), build()
    targets = torch.tensor([0, 1, 2, 0])
    hidden = plain(SYMBOLS, LENGTHS).hidden
    assert smooth.head.loss(hidden, targets)[0] != plain.head.loss(hidden, targets)[0]
    smooth.eval()
    torch.testing.assert_close(smooth.head.loss(hidden, targets), plain.head.loss(hidden, targets))


def test_dropout_works_in_training_only() -> None:
    model = build(dropout=0.5, embedding_dropout=0.5, word_dropout=0.3)
    assert not torch.equal(model(SYMBOLS, LENGTHS).hidden, model(SYMBOLS, LENGTHS).hidden)
    model.eval()
    assert torch.equal(model(SYMBOLS, LENGTHS).hidden, model(SYMBOLS, LENGTHS).hidden)


def test_real_vectors_in_and_real_numbers_out() -> None:
    model = build(vocabulary_size=None, input_features=8, real=True, num_outputs=1)
    assert isinstance(model.head, RealHead)
    assert model.inputs.output_size == 8
    output = model(torch.randn(B, T, 8).double(), LENGTHS)
    loss, count = model.head.loss(output.hidden, torch.randn(B, 1))
    assert count == B and loss > 0 and output.attention is None


def test_attention_is_given_where_the_pooling_has_it() -> None:
    output = build(pooling="attention")(padded(), LENGTHS)
    assert output.attention.shape == (B, 1, T)


@pytest.mark.parametrize("options", [{"pooling": "median"}, {"dropout": 1.0}, {"num_layers": 0}])
def test_mistakes_are_named(options) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        build(**options)


@pytest.mark.parametrize("cell", [LSTM, GRU, partial(RNN, nonlinearity="relu")])
def test_a_memory_learns_what_came_first_and_none_does_not(cell) -> None:
    """Half the rows hold A before B, half B before A, with the same last step."""
    generator = torch.Generator().manual_seed(0)
    symbols = torch.randint(4, V, (64, 6), generator=generator)
    symbols[:, 1], symbols[:, 3], symbols[:, 5] = 2, 3, 4
    symbols[::2, 1], symbols[::2, 3] = 3, 2
    targets, lengths = torch.arange(64) % 2, torch.full((64,), 6)
    accuracy = []
    for each in (cell, Memoryless):
        model = build(cell=each, num_outputs=2, hidden_size=16)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            model.head.loss(model(symbols, lengths).hidden, targets)[0].backward()
            optimizer.step()
        answers = model.head(model(symbols, lengths).hidden).argmax(-1)
        accuracy.append((answers == targets).double().mean().item())
    assert accuracy[0] == 1.0
    assert accuracy[1] == 0.5
