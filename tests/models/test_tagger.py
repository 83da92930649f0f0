"""One answer a step."""

import pytest
import torch

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.head import RealHead
from models.pooling import valid_steps
from models.state import leaves
from models.tagger import Tagger

V, B, T, TAGS = 11, 4, 7, 3
LENGTHS = torch.tensor([7, 4, 1, 5])
MASK = valid_steps(LENGTHS, T)
generator = torch.Generator().manual_seed(0)
SYMBOLS = torch.randint(2, V, (B, T), generator=generator)
TARGETS = torch.randint(TAGS, (B, T), generator=generator)


def build(**options) -> Tagger:
    torch.manual_seed(0)
    settings = {
        "vocabulary_size": V,
        "input_features": None,
        "num_outputs": TAGS,
        "real": False,
        "pad_id": 0,
        "unk_id": 1,
        "cell": LSTM,
        "embedding_size": 5,
        "hidden_size": 6,
    }
    return Tagger(**{**settings, **options}).double()


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", [LSTM, GRU], ids=lambda cell: cell.__name__)
def test_pads_change_nothing_in_loss_gradients_or_state(cell, bidirectional) -> None:
    model = build(cell=cell, bidirectional=bidirectional, num_layers=2)
    found = []
    for fill in (0, 9):
        hidden, state = model(SYMBOLS.masked_fill(~MASK, fill), LENGTHS)
        loss, count = model.head.loss(hidden, TARGETS.masked_fill(~MASK, -100 if fill else 0), MASK)
        assert count == LENGTHS.sum()
        found.append((loss, *torch.autograd.grad(loss, list(model.parameters())), *leaves(state)))
    torch.testing.assert_close(*found)


def test_an_answer_does_not_depend_on_later_steps_unless_bidirectional() -> None:
    later = SYMBOLS.clone()
    later[:, 4] = (SYMBOLS[:, 4] - 1) % (V - 2) + 2
    for bidirectional in (False, True):
        model = build(bidirectional=bidirectional)
        change = (model(SYMBOLS)[0] - model(later)[0]).abs().amax(-1) > 1e-9
        assert change[:, 4].all()
        assert change[:, :4].all() == change[:, :4].any() == bidirectional


def test_steps_with_the_state_passed_on_equal_the_whole() -> None:
    model = build(num_layers=2)
    whole, after = model(SYMBOLS)
    state, parts = None, []
    for symbols in SYMBOLS.split([1, 3, 1, 2], dim=1):
        hidden, state = model(symbols, None, state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(leaves(state), leaves(after))


def test_the_state_is_that_after_each_rows_last_valid_step() -> None:
    model = build()
    _, state = model(SYMBOLS, LENGTHS)
    for row, length in enumerate(LENGTHS.tolist()):
        _, alone = model(SYMBOLS[row : row + 1, :length])
        for one, other in zip(leaves(state), leaves(alone), strict=True):
            torch.testing.assert_close(one[row], other[0])


def test_a_bidirectional_tagger_takes_no_state() -> None:
    model = build(bidirectional=True)
    with pytest.raises(ValueError, match="takes no state"):
        model(SYMBOLS, None, model(SYMBOLS)[1])


def test_without_memory_a_step_is_answered_from_itself() -> None:
    model = build(cell=Memoryless)
    order = torch.randperm(T, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model(SYMBOLS[:, order])[0], model(SYMBOLS)[0][:, order])


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_works_in_training_only(variational) -> None:
    model = build(dropout=0.5, variational=variational)
    hidden, _ = model(SYMBOLS)
    dropped = hidden == 0
    assert dropped.any()
    assert (dropped == dropped[:, :1]).all() == variational
    model.eval()
    assert torch.equal(model(SYMBOLS)[0], model(SYMBOLS)[0])


def test_label_smoothing_works_in_training_only() -> None:
    smooth, plain = build(label_smoothing=0.3), build()
    hidden, _ = plain(SYMBOLS)
    assert smooth.head.loss(hidden, TARGETS, MASK)[0] != plain.head.loss(hidden, TARGETS, MASK)[0]
    losses = [model.eval().head.loss(hidden, TARGETS, MASK) for model in (smooth, plain)]
    torch.testing.assert_close(*losses)


def test_real_vectors_in_and_real_numbers_out() -> None:
    model = build(vocabulary_size=None, input_features=1, real=True, num_outputs=2)
    assert isinstance(model.head, RealHead)
    hidden, _ = model(torch.randn(B, T, 1).double(), LENGTHS)
    assert model.head(hidden).shape == (B, T, 2)
    assert model.head.loss(hidden, torch.randn(B, T, 2), MASK)[1] == 2 * LENGTHS.sum()
