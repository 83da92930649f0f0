"""Count models: every probability worked out by hand, every sample as the counts say."""

import os
from pathlib import Path

import numpy as np
import pytest

from data.codec import TokenizerSettings
from data.text import TextStreams
from tasks.ngram_model import NgramModel


def fitted(text: list[int], order: int, size: int = 4) -> NgramModel:
    return NgramModel(order=order, vocabulary_size=size).fit(text)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_probabilities_add_up_to_one_after_any_context(order: int) -> None:
    text = np.random.default_rng(0).integers(0, 6, 300) ** 2 % 7
    model = NgramModel(order=order, vocabulary_size=9).fit(text)
    for context in ([], [1], [8, 8, 8, 8], text[:4], text[10:17]):
        chances = model.probabilities(context)
        assert chances.shape == (9,)
        assert chances.sum() == pytest.approx(1) and (chances > 0).all()


def test_unigram_probabilities_are_counts_less_a_discount() -> None:
    # 0 four times, 1 twice, 2 once: a discount of n1 / (n1 + 2 n2) = 1 / 3, saved three times
    chances = fitted([0, 0, 1, 0, 2, 1, 0], 1).probabilities([])
    saved = 3 * (1 / 3) / 7 / 4
    assert chances == pytest.approx(
        [(4 - 1 / 3) / 7 + saved, (2 - 1 / 3) / 7 + saved, (1 - 1 / 3) / 7 + saved, saved]
    )


def test_a_shorter_context_counts_the_symbols_that_stood_before() -> None:
    # pairs 01 ×3, 10 ×2, 13, 30, each other none; a discount of 2 / (2 + 2) = 1/2
    model = fitted([0, 1, 0, 1, 3, 0, 1, 0], 2)
    # before 0 stand 1 and 3, before 1 only 0, before 3 only 1: 2, 1, 1 of 4 kinds of pairs
    discount = 2 / (2 + 2 * 1)
    saved = 3 * discount / 4
    lower = np.array([2, 1, 0, 1]) / 4
    lower = np.where(lower > 0, lower - discount / 4, 0) + saved / 4
    assert model.probabilities([3]) == pytest.approx([0.5 + 0.5 * lower[0], *(0.5 * lower[1:])])
    after_one = 2 * 0.5 / 3 * lower
    after_one += np.array([2 - 0.5, 0, 0, 1 - 0.5]) / 3
    assert model.probabilities([0, 3, 1]) == pytest.approx(after_one)
    assert model.probabilities([2]) == pytest.approx(lower)  # never seen: the shorter one alone


def test_nats_are_those_of_the_probabilities() -> None:
    random = np.random.default_rng(1)
    model = NgramModel(order=3, vocabulary_size=6).fit(random.integers(0, 5, 200))
    text = random.integers(0, 6, 20)
    expected = [-np.log(model.probabilities(text[:i])[symbol]) for i, symbol in enumerate(text)]
    assert model.nats(text) == pytest.approx(np.array(expected))


def test_pieces_do_not_know_each_other() -> None:
    random = np.random.default_rng(2)
    model = NgramModel(order=3, vocabulary_size=5).fit(random.integers(0, 5, 500))
    pieces = random.integers(0, 5, (4, 12))
    assert np.array_equal(model.nats(pieces), np.stack([model.nats(piece) for piece in pieces]))
    assert model.nats(pieces[:, :1]).shape == (4, 1)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_samples_follow_the_probabilities(order: int) -> None:
    text = np.random.default_rng(3).integers(0, 4, 400) * np.tile([1, 1, 0, 1], 100)
    model = NgramModel(order=order, vocabulary_size=5).fit(text)
    drawn = model.sample(2000, 30, np.random.default_rng(4))
    # chi-square of what follows each context: about as large as its degrees of freedom
    contexts = [(drawn[:, i : i + order - 1], drawn[:, i + order - 1]) for i in range(31 - order)]
    before, after = (np.concatenate(side) for side in zip(*contexts, strict=True))
    surprise, freedom = 0.0, 0
    for context in np.unique(before, axis=0):
        counts = np.bincount(after[(before == context).all(1)], minlength=5)
        expected = model.probabilities(context) * counts.sum()
        kept = expected >= 5
        surprise += float(((counts - expected) ** 2 / expected)[kept].sum())
        freedom += int(kept.sum()) - 1
    assert freedom >= 2
    assert surprise < freedom + 4 * np.sqrt(2 * freedom)


def test_a_seed_gives_the_same_samples_and_another_gives_others() -> None:
    model = fitted([0, 1, 2, 3, 2, 1, 0, 2] * 5, 3)
    first, again, other = (model.sample(5, 20, np.random.default_rng(s)) for s in (1, 1, 2))
    assert first.shape == (5, 20)
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_sample_goes_on_where_no_context_was_seen() -> None:
    drawn = fitted([0, 1, 2], 3).sample(50, 40, np.random.default_rng(0))
    assert set(drawn.flat) == {0, 1, 2, 3}  # 3 was never seen, yet has a share of what is saved


def test_a_repeated_text_is_repeated() -> None:
    model = fitted([0, 1, 2] * 200, 2)
    drawn = model.sample(20, 30, np.random.default_rng(0))
    assert ((drawn[:, 1:] - drawn[:, :-1]) % 3 == 1).mean() > 0.98


@pytest.mark.parametrize(
    "order, size, text, message",
    [
        (0, 4, [0], "at least 1, got 0 and 4"),
        (5, 10_000, [0], "do not fit in 64 bits: choose a smaller order"),
        (3, 4, [0, 1], "needs as many symbols, got 2"),
        (1, 4, [0, 4], "symbols are 0 to 3, got 0 to 4"),
    ],
)
def test_what_cannot_be_counted_is_refused(
    order: int, size: int, text: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(text, order, size)


def test_penn_treebank_has_the_published_perplexity(tmp_path: Path) -> None:
    if "UNROLL_DATA" not in os.environ:
        pytest.skip("UNROLL_DATA is not set: no local copies of the real data")
    data = TextStreams(
        name="ptb", folder="ptb", data_dir=os.environ["UNROLL_DATA"], cache_dir=str(tmp_path),
        seed=1, batch_size=1, text_column="sentence",
        tokenizer=TokenizerSettings(pre_tokenizer="whitespace"),
    )  # fmt: skip
    training, test = (data.splits[split].flat("ids") for split in ("train", "test"))
    size = data.spec.input_vocabulary.size
    model = NgramModel(order=3, vocabulary_size=size).fit(training)
    # 148.3 of SRILM's KN3 (Mikolov et al. 2011, Interspeech), which is of modified discounts
    assert np.exp(model.nats(test).mean()) == pytest.approx(148.3, rel=0.03)
