"""Predicting what comes next, in windows and step by step."""

from functools import partial

import pytest
import torch

from models.cells.gru import GRU
from models.cells.lstm import LSTM
from models.cells.memoryless import Memoryless
from models.cells.rnn import RNN
from models.head import BernoulliHead, SoftmaxHead
from models.head_adaptive import AdaptiveHead
from models.head_mixture import MixtureHead
from models.language_model import LanguageModel
from models.state import leaves

V, K, B, T = 11, 5, 3, 8
generator = torch.Generator().manual_seed(0)
SYMBOLS = torch.randint(2, V, (B, T), generator=generator)
TARGETS = torch.randint(2, V, (B, T), generator=generator)
FRAMES = torch.rand(B, T, K, generator=generator).round().double()
CELLS = [LSTM, GRU, RNN, Memoryless]
every_cell = pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.__name__)
both_inputs = pytest.mark.parametrize("keys", [None, K], ids=["symbols", "keys"])


def build(keys: int | None = None, **options) -> LanguageModel:
    torch.manual_seed(0)
    settings = {
        "vocabulary_size": V if keys is None else None,
        "keys": keys,
        "pad_id": 0,
        "unk_id": 1,
        "cell": LSTM,
        "embedding_size": None,
        "hidden_size": 6,
        "num_layers": 2,
        "tie_weights": keys is None,
    }
    return LanguageModel(**{**settings, **options}).double()


@every_cell
@both_inputs
def test_windows_with_the_state_carried_equal_one_long_pass(keys, cell) -> None:
    """In values and, where nothing is detached, in gradients."""
    model, inputs = build(keys, cell=cell), SYMBOLS if keys is None else FRAMES
    targets = TARGETS if keys is None else FRAMES.flip(1)
    whole, after = model(inputs)
    state, parts = None, []
    for window in inputs.split(3, dim=1):
        hidden, state = model(window, state)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts, 1), whole)
    torch.testing.assert_close(leaves(state), leaves(after))
    gradients = [
        torch.autograd.grad(model.head.loss(hidden, targets)[0], list(model.parameters()))
        for hidden in (whole, torch.cat(parts, 1))
    ]
    torch.testing.assert_close(*gradients)


@every_cell
@both_inputs
def test_a_loop_of_steps_equals_forward(keys, cell) -> None:
    dropout = {"embedding_dropout": 0.3, "dropout": 0.3, "output_dropout": 0.3}
    model, inputs = build(keys, cell=cell, **dropout).eval(), SYMBOLS if keys is None else FRAMES
    whole, after = model(inputs)
    state, stepped = model.initial_state(B), []
    for each in inputs.unbind(1):
        hidden, state = model.step(each, state)
        stepped.append(hidden)
    torch.testing.assert_close(torch.stack(stepped, 1), whole)
    torch.testing.assert_close(leaves(state), leaves(after))


def test_no_state_is_the_initial_state() -> None:
    model = build()
    torch.testing.assert_close(model(SYMBOLS)[0], model(SYMBOLS, model.initial_state(B))[0])


def test_tied_weights_share_memory_and_stay_tied_when_loaded() -> None:
    model, other = build(), build()
    assert model.head.linear.weight.data_ptr() == model.inputs.embedding.weight.data_ptr()
    untied = build(tie_weights=False)
    difference = [sum(p.numel() for p in m.parameters()) for m in (untied, model)]
    assert difference[0] - difference[1] == V * 6
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1.0)
    model.load_state_dict(other.state_dict())
    assert model.head.linear.weight is model.inputs.embedding.weight
    torch.testing.assert_close(model(SYMBOLS)[0], other(SYMBOLS)[0])


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="model/head=null"):
        build(keys=K, tie_weights=False, head=SoftmaxHead)
    with pytest.raises(ValueError, match="model=music"):
        build(keys=K, tie_weights=True)
    with pytest.raises(ValueError, match="output_dropout"):
        build(output_dropout=1.0)


@pytest.mark.parametrize(
    ("sizes", "projected"),
    [
        ({}, False),
        ({"embedding_size": 4}, True),
        ({"embedding_size": 4, "last_hidden_size": 4}, False),
        ({"embedding_size": 4, "last_hidden_size": 3, "num_layers": 3}, True),
        ({"embedding_size": 4, "last_hidden_size": 4, "num_layers": 1}, False),
    ],
)
def test_an_embedding_of_any_size_is_tied_and_projected_only_where_it_must_be(
    sizes: dict[str, int], projected: bool
) -> None:
    model = build(**sizes).eval()
    embedding = model.inputs.embedding.weight
    assert model.head.linear.weight is embedding
    assert embedding.shape == (V, sizes.get("embedding_size", 6))
    named = dict(model.named_parameters())
    assert ("head.projection.weight" in named) == projected
    layers = [layer.output_size for layer in model.stack.layers]
    assert layers[:-1] == [6] * (len(layers) - 1) and layers[-1] == sizes.get("last_hidden_size", 6)
    hidden, _ = model(SYMBOLS)
    assert hidden.shape == (B, T, layers[-1])
    assert model.head.log_probs(hidden).exp().sum(-1).allclose(torch.ones(B, T).double())
    stepped, _ = model.step(SYMBOLS[:, 0], model.initial_state(B))
    torch.testing.assert_close(stepped, hidden[:, 0])


@pytest.mark.parametrize("tie_weights", [True, False])
@pytest.mark.parametrize(
    "head", [partial(MixtureHead, components=2), partial(AdaptiveHead, cutoffs=[4])]
)
def test_any_head_of_symbols_fits(head, tie_weights: bool) -> None:
    model = build(head=head, embedding_size=4, tie_weights=tie_weights)
    hidden, _ = model(SYMBOLS)
    loss, count = model.head.loss(hidden, TARGETS)
    picked = model.head.log_probs(hidden).gather(-1, TARGETS[..., None])
    torch.testing.assert_close(loss, -picked.sum())
    assert count == B * T
    other = build(head=head, embedding_size=4, tie_weights=tie_weights)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(2.0)
    other.load_state_dict(model.state_dict())
    torch.testing.assert_close(other.head.loss(hidden, TARGETS)[0], loss)


def test_an_untrained_model_is_about_as_surprised_as_chance() -> None:
    loss, count = build().head.loss(build()(SYMBOLS)[0], TARGETS)
    assert (loss / count).item() == pytest.approx(torch.tensor(V).log().item(), rel=0.05)


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_works_in_training_only_and_variational_masks_last_a_window(variational) -> None:
    model = build(output_dropout=0.5, variational=variational)
    dropped = model(SYMBOLS)[0] == 0
    assert dropped.any()
    assert (dropped == dropped[:, :1]).all() == variational
    model.eval()
    assert torch.equal(model(SYMBOLS)[0], model(SYMBOLS)[0])


def test_label_smoothing_works_in_training_only() -> None:
    smooth, plain = build(label_smoothing=0.3), build()
    hidden, _ = plain(SYMBOLS)
    assert smooth.head.loss(hidden, TARGETS)[0] != plain.head.loss(hidden, TARGETS)[0]
    losses = [model.eval().head.loss(hidden, TARGETS) for model in (smooth, plain)]
    torch.testing.assert_close(*losses)


def test_keys_are_counted_in_nats_a_frame() -> None:
    model = build(keys=K)
    assert isinstance(model.head, BernoulliHead)
    mask = torch.arange(T) < torch.tensor([8, 3, 1])[:, None]
    hidden, _ = model(FRAMES)
    loss, count = model.head.loss(hidden, FRAMES, mask)
    assert count == 12
    frames = torch.distributions.Bernoulli(logits=model.head(hidden)).log_prob(FRAMES).sum(-1)
    torch.testing.assert_close(loss, -frames[mask].sum())
