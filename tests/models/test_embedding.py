"""What a network reads: vectors of symbols, or features as they are."""

import pytest
import torch

from models.embedding import Inputs

V, E, B, T = 12, 5, 3, 400


def build(**options) -> Inputs:
    torch.manual_seed(0)
    given = {"vocabulary_size": V, "input_features": None, "embedding_size": E, "unk_id": 1}
    return Inputs(**(given | options))


def symbols(seed: int = 1):
    return torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(seed))


def test_symbols_become_their_vectors_alone_or_in_a_sequence() -> None:
    inputs = build()
    assert inputs.output_size == E
    torch.testing.assert_close(inputs(symbols()), inputs.embedding.weight[symbols()])
    torch.testing.assert_close(inputs(symbols()[:, 0]), inputs.embedding.weight[symbols()[:, 0]])


def test_vectors_start_within_their_range() -> None:
    for given, largest in [({}, 0.1), ({"initial_range": 1.0}, 1.0)]:
        sizes = build(vocabulary_size=1000, **given).embedding.weight.abs()
        assert 0.99 * largest < sizes.max() <= largest
        assert 0.45 * largest < sizes.mean() < 0.55 * largest
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"embedding_range is above 0 .* got {wrong}"):
            build(initial_range=wrong)


def test_real_features_pass_as_they_are() -> None:
    inputs = build(vocabulary_size=None, input_features=4)
    features = torch.randn(B, T, 4)
    assert inputs.output_size == 4 and inputs.embedding is None
    assert inputs(features) is features


def test_word_dropout_replaces_symbols_but_never_pads() -> None:
    inputs, ids = build(word_dropout=0.5), symbols()
    unknown = (inputs(ids) == inputs.embedding.weight[1]).all(-1)
    assert not unknown[ids == 0].any()
    assert 0.4 < unknown[ids > 1].float().mean() < 0.6
    torch.testing.assert_close(inputs.eval()(ids), inputs.embedding.weight[ids])


def test_variational_word_dropout_takes_a_symbol_wherever_it_stands() -> None:
    inputs, ids = build(word_dropout=0.5, variational=True, unk_id=None), symbols()
    gone = (inputs(ids) == 0.0).all(-1)
    fates = {symbol: set(gone[ids == symbol].tolist()) for symbol in range(V)}
    assert all(len(fate) == 1 for fate in fates.values())
    assert {True, False} == set.union(*fates.values())


def test_variational_dropout_takes_the_same_features_at_every_step() -> None:
    inputs, ids = build(dropout=0.5, variational=True), symbols()
    dropped = inputs(ids) == 0.0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped)) and dropped.any()
    mask = inputs.draw_mask(B)
    steps = torch.stack([inputs(step, mask) for step in ids.unbind(1)], 1)
    torch.testing.assert_close(inputs(ids, mask), steps)
    with pytest.raises(AssertionError, match="draw_mask once a sequence"):
        inputs(ids[:, 0])
    assert inputs.eval().draw_mask(B) is None


@pytest.mark.parametrize("variational", [False, True])
@pytest.mark.parametrize("real", [False, True])
def test_dropout_keeps_the_mean_and_works_in_training_only(variational, real) -> None:
    options = {"vocabulary_size": None, "input_features": 500} if real else {"embedding_size": 500}
    inputs = build(dropout=0.5, variational=variational, **options)
    given = torch.ones(8, 50, 500) if real else torch.randint(0, V, (8, 50))
    if not real:
        torch.nn.init.ones_(inputs.embedding.weight)
    assert abs(inputs(given).mean().item() - 1.0) < 0.1
    assert torch.equal(inputs.eval()(given), torch.ones(8, 50, 500))


def test_loaded_vectors_take_the_known_rows_and_stay_where_they_are_frozen() -> None:
    inputs = build(freeze=True)
    before = inputs.embedding.weight.clone()
    known = torch.arange(V) % 2 == 0
    inputs.load_vectors(torch.full((V, E), 3.0), known)
    assert (inputs.embedding.weight[known] == 3.0).all()
    assert torch.equal(inputs.embedding.weight[~known], before[~known])
    assert not inputs.embedding.weight.requires_grad
    assert build().embedding.weight.requires_grad


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_features": 3}, "give either vocabulary_size or input_features"),
        ({"vocabulary_size": None}, "give either vocabulary_size or input_features"),
        ({"dropout": 1.0}, "embedding_dropout is a probability"),
        ({"word_dropout": -0.1}, "word_dropout is a probability"),
        ({"word_dropout": 0.1, "unk_id": None}, "set word_dropout=0"),
        ({"embedding_size": 0}, "embedding_size 0"),
        (
            {"vocabulary_size": None, "input_features": 3, "freeze": True},
            "leave out freeze_embedding=True",
        ),
    ],
)
def test_mistakes_name_the_value_and_the_mend(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_vectors_of_another_size_name_the_size_to_set() -> None:
    with pytest.raises(ValueError, match="set model.embedding_size=7"):
        build().load_vectors(torch.zeros(V, 7), torch.ones(V, dtype=torch.bool))
    with pytest.raises(ValueError, match="reads real features"):
        build(vocabulary_size=None, input_features=3).load_vectors(torch.zeros(1), torch.ones(1))


def test_normalised_vectors_have_mean_0_and_variance_1_over_what_is_read() -> None:
    inputs, ids = build(normalise=True), symbols()
    inputs(ids)
    read = inputs.eval()(ids)[ids != 0]
    again = inputs(ids)[ids != 0]
    assert torch.equal(read, again)  # evaluation counts nothing
    # each symbol counts once before it is read, which is little among so many
    torch.testing.assert_close(read.mean(0), torch.zeros(E), atol=0.02, rtol=0.0)
    torch.testing.assert_close(read.var(0), torch.ones(E), atol=0.03, rtol=0.0)
    assert inputs.embedding.counts.sum() == (ids != 0).sum() + V - 1


def test_normalised_vectors_cannot_grow() -> None:
    inputs, ids = build(normalise=True).eval(), symbols()
    before = inputs(ids)
    with torch.no_grad():
        inputs.embedding.weight.mul_(30.0).add_(5.0)
    torch.testing.assert_close(inputs(ids), before, atol=1e-2, rtol=1e-2)
    loss = inputs.train()(ids)[0, 0].sum()
    assert torch.autograd.grad(loss, inputs.embedding.weight)[0].isfinite().all()
    with pytest.raises(ValueError, match="leave out normalise_embedding=True"):
        build(vocabulary_size=None, input_features=3, normalise=True)
