"""Decoding, held to exhaustive search on models small enough for it."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from models.decoding import beam_search, greedy, sample

PAD, BOS, EOS, V, LONGEST = 0, 1, 2, 6, 4
B = 5
OPTIONS = {"bos_id": BOS, "eos_id": EOS, "max_length": LONGEST, "forbidden": (PAD, BOS)}
every_penalty = pytest.mark.parametrize("penalty", [0.0, 0.5, 1.0, 2.0])


class Tables(NamedTuple):
    """A context: what follows what, for each sentence."""

    log_probs: Tensor  # (N, 16, V, V): at a place, with what was read so far, after a symbol


def tables(batch: int = B, seed: int = 0, scale: float = 2.0) -> Tables:
    generator = torch.Generator().manual_seed(seed)
    return Tables((scale * torch.randn(batch, 16, V, V, generator=generator)).log_softmax(-1))


def which(place, read):
    """Two sequences take the same way through the tables only if they are the same."""
    return (place % 8) * 2 + read % 2


def step(symbols: Tensor, state, context: Tables):
    """The state, nested as a real one, counts the places and sums the symbols read."""
    places, (read,) = state
    rows = torch.arange(len(symbols))
    log_probs = context.log_probs[rows, which(places[:, 0], read[:, 0]), symbols]
    return log_probs, (places + 1, (read + symbols[:, None],))


def start(batch: int = B):
    return torch.zeros(batch, 1, dtype=torch.long), (torch.zeros(batch, 1, dtype=torch.long),)


def exhaustive(context: Tables, row: int, penalty: float, longest: int = LONGEST):
    """(has ended, score, symbols) of every sequence, best first: those that ended come first."""
    found = []
    for length in range(1, longest + 1):
        for symbols in itertools.product(range(2, V), repeat=length):
            ended = symbols[-1] == EOS
            if EOS in symbols[:-1] or (not ended and length < longest):
                continue
            total, read, before = 0.0, 0, BOS
            for place, symbol in enumerate(symbols):
                total += context.log_probs[row, which(place, read), before, symbol].item()
                read, before = read + before, symbol
            found.append((ended, total / length**penalty, symbols))
    return sorted(found, reverse=True)


def assert_same(one, other) -> None:
    longest = max(one.tokens.size(-1), other.tokens.size(-1))
    padded = [F.pad(found.tokens, (0, longest - found.tokens.size(-1))) for found in (one, other)]
    assert torch.equal(*padded)
    assert torch.equal(one.lengths, other.lengths)
    torch.testing.assert_close(one.scores, other.scores)


@every_penalty
@pytest.mark.parametrize("seed", range(4))
def test_a_large_beam_finds_what_exhaustive_search_finds(penalty, seed) -> None:
    """All hypotheses, in order, with their scores."""
    context = tables(seed=seed)
    expected = [exhaustive(context, row, penalty) for row in range(B)]
    beam = len(expected[0])
    found = beam_search(
        step, start(), context, beam_size=beam, n_best=beam, length_penalty=penalty, **OPTIONS
    )
    for row in range(B):
        for k, (_, score, symbols) in enumerate(expected[row]):
            length = int(found.lengths[row, k])
            assert tuple(found.tokens[row, k, :length].tolist()) == symbols
            assert found.scores[row, k].item() == pytest.approx(score, abs=1e-5)
            assert not found.tokens[row, k, length:].any()


@every_penalty
def test_stopping_early_changes_nothing(penalty) -> None:
    """n_best=1 may stop before the end; the first of all hypotheses is the same."""
    context = tables(seed=5)
    beam = len(exhaustive(context, 0, penalty))
    one, all_of_them = (
        beam_search(
            step, start(), context, beam_size=beam, n_best=n, length_penalty=penalty, **OPTIONS
        )
        for n in (1, beam)
    )
    torch.testing.assert_close(one.scores, all_of_them.scores[:, :1])
    assert torch.equal(one.lengths, all_of_them.lengths[:, :1])


@every_penalty
@pytest.mark.parametrize("seed", range(5))
def test_one_beam_is_greedy_search(penalty, seed) -> None:
    options = {**OPTIONS, "max_length": 12, "length_penalty": penalty}
    context = tables(batch=40, seed=seed)
    found = beam_search(step, start(40), context, beam_size=1, **options)
    assert_same(found, greedy(step, start(40), context, **options))


def test_a_wider_beam_never_scores_worse_on_average_and_never_repeats_itself() -> None:
    context = tables(batch=60, scale=1.0)
    scores = []
    for beam in (1, 3, 8):
        found = beam_search(
            step, start(60), context, beam_size=beam, n_best=beam, length_penalty=0.0, **OPTIONS
        )
        scores.append(found.scores[:, 0].mean().item())
        for tokens, kept in zip(found.tokens.tolist(), found.scores.tolist(), strict=True):
            cut = [EOS not in symbols for symbols in tokens]
            assert list(zip(cut, kept, strict=True)) == sorted(
                zip(cut, kept, strict=True), key=lambda pair: (pair[0], -pair[1])
            )
            assert len(set(map(tuple, tokens))) == beam
    assert scores == sorted(scores)


@pytest.mark.parametrize("beam", [1, 2, 3])
def test_a_row_does_not_depend_on_the_others(beam) -> None:
    context = tables(batch=20, seed=3)
    options = {**OPTIONS, "max_length": 15}
    together = beam_search(step, start(20), context, beam_size=beam, **options)
    for row in range(20):
        alone = beam_search(
            step, start(1), Tables(context.log_probs[row : row + 1]), beam_size=beam, **options
        )
        assert_same(alone, type(alone)(*(part[row : row + 1] for part in together)))


def test_sampled_rows_do_not_depend_on_when_others_finish() -> None:
    log_probs = tables(batch=8, scale=0.5).log_probs
    other = log_probs.clone()
    other[1:] = tables(batch=8, seed=9).log_probs[1:]
    prompt = torch.full((8, 1), BOS)
    found = [
        sample(
            step, start(8), Tables(each), prompt=prompt, max_new_tokens=10, eos_id=EOS,
            generator=torch.Generator().manual_seed(1),
        )
        for each in (log_probs, other)
    ]  # fmt: skip
    assert_same(*(type(h)(*(part[:1] for part in h)) for h in found))
    assert not torch.equal(found[0].lengths, found[1].lengths)


def test_forbidden_symbols_are_never_given_and_scores_are_the_models_own() -> None:
    log_probs = torch.full((1, 16, V, V), -20.0)
    log_probs[..., BOS], log_probs[..., PAD], log_probs[..., 4] = -0.1, -0.2, -3.0
    context = Tables(log_probs)
    prompt = torch.tensor([[BOS]])
    for found in (
        greedy(step, start(1), context, **OPTIONS),
        beam_search(step, start(1), context, beam_size=1, **OPTIONS),
        sample(
            step, start(1), context, prompt=prompt, max_new_tokens=LONGEST, forbidden=(PAD, BOS),
            generator=torch.Generator().manual_seed(0),
        ),
    ):  # fmt: skip
        assert found.tokens.tolist() == [[[4] * LONGEST]]
        torch.testing.assert_close(found.scores, torch.tensor([[-3.0]]))


def draw(count: int, log_probs: Tensor, **options) -> Tensor:
    """How often each symbol comes first."""

    def one_step(symbols, state, context):
        return log_probs.expand(len(symbols), -1), state

    found = sample(
        one_step,
        torch.zeros(count, 0),
        prompt=torch.zeros(count, 1, dtype=torch.long),
        max_new_tokens=1,
        generator=torch.Generator().manual_seed(7),
        **options,
    )
    return torch.bincount(found.tokens.flatten(), minlength=len(log_probs)) / count


PROBS = torch.tensor([0.0, 0.4, 0.05, 0.3, 0.05, 0.2, 0.0])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, PROBS),
        ({"temperature": 0.5}, PROBS**2),
        ({"temperature": 2.0}, PROBS**0.5),
        ({"temperature": 0.0}, PROBS.round(decimals=1) == 0.4),
        ({"top_k": 1}, PROBS == 0.4),
        ({"top_k": 3}, PROBS * (PROBS > 0.1)),
        ({"top_k": 100}, PROBS),
        ({"top_p": 0.69}, PROBS * (PROBS > 0.2)),
        ({"top_p": 0.71}, PROBS * (PROBS > 0.1)),
        ({"top_p": 1e-6}, PROBS == 0.4),
        ({"top_p": 1.0}, PROBS),
        ({"top_k": 3, "top_p": 0.4}, PROBS == 0.4),
        ({"top_k": 3, "top_p": 0.5}, PROBS * (PROBS > 0.2)),
        ({"forbidden": (1, 3)}, PROBS * torch.tensor([1, 0, 1, 0, 1, 1, 1])),
    ],
    ids=str,
)
def test_samples_follow_the_distribution_and_leave_its_support_never(options, expected) -> None:
    expected = expected.float() / expected.sum()
    count = 40_000
    found = draw(count, PROBS.log(), **options)
    assert not found[expected == 0].any()
    spread = (expected * (1 - expected) / count).sqrt()
    assert ((found - expected).abs() <= 5 * spread).all(), (found, expected)


def test_sampling_is_seeded_and_stops_at_the_end_symbol() -> None:
    context, prompt = tables(batch=30, scale=0.5), torch.full((30, 1), BOS)

    def run(seed: int):
        generator = torch.Generator().manual_seed(seed)
        return sample(
            step, start(30), context, prompt=prompt, max_new_tokens=9, eos_id=EOS,
            generator=generator,
        )  # fmt: skip

    assert_same(run(1), run(1))
    assert not torch.equal(run(1).tokens[..., :1], run(2).tokens[..., :1])
    found = run(1)
    assert found.tokens.shape[:2] == (30, 1)
    for row, length in enumerate(found.lengths[:, 0].tolist()):
        symbols = found.tokens[row, 0].tolist()
        assert EOS not in symbols[: length - 1]
        assert length == 9 or symbols[length - 1] == EOS
        assert not any(symbols[length:])


def test_a_prompt_is_read_before_anything_is_drawn() -> None:
    """Temperature 0 after a prompt is greedy search that began with it."""
    context, options = tables(seed=2), {**OPTIONS, "max_length": 6}
    begun = greedy(step, start(), context, **{**options, "eos_id": -1})
    prompt = torch.cat([torch.full((B, 1), BOS), begun.tokens[:, 0, :3]], dim=1)
    rest = sample(
        step, start(), context, prompt=prompt, max_new_tokens=3, temperature=0.0,
        forbidden=(PAD, BOS),
    )  # fmt: skip
    assert torch.equal(rest.tokens, begun.tokens[:, :, 3:])


def test_no_symbol_ends_a_sequence_without_an_end_symbol() -> None:
    found = sample(step, start(), tables(), prompt=torch.full((B, 1), BOS), max_new_tokens=7)
    assert found.lengths.tolist() == [[7]] * B


def test_what_was_cut_stands_behind_what_ended() -> None:
    log_probs = torch.full((1, 16, V, V), -30.0)
    log_probs[..., 3], log_probs[..., EOS] = -0.01, -6.0
    found = beam_search(step, start(1), Tables(log_probs), beam_size=3, n_best=2, **OPTIONS)
    assert found.tokens[0, 0, found.lengths[0, 0] - 1] == EOS
    only = beam_search(step, start(1), Tables(log_probs), beam_size=1, **OPTIONS)
    assert only.tokens.tolist() == [[[3] * LONGEST]]
    assert only.scores.item() == pytest.approx(-0.01)


def test_what_ends_leaves_its_place_to_another_prefix() -> None:
    """The end symbol comes first; the better of the prefixes to go on with stood third."""
    log_probs = torch.full((1, 16, V, V), -math.inf)
    log_probs[..., BOS, [EOS, 3, 4]] = torch.tensor([0.5, 0.3, 0.2]).log()
    log_probs[..., 3, [EOS, 3, 4, 5]] = torch.tensor([0.1, 0.3, 0.3, 0.3]).log()
    log_probs[..., 4, EOS] = 0.0
    found = beam_search(
        step, start(1), Tables(log_probs), beam_size=2, n_best=2, length_penalty=0.0, **OPTIONS
    )
    assert found.tokens.tolist() == [[[EOS, 0], [4, EOS]]]
    torch.testing.assert_close(found.scores.exp(), torch.tensor([[0.5, 0.2]]))


def test_where_there_are_fewer_hypotheses_than_asked_for_the_rest_is_empty() -> None:
    log_probs = torch.full((1, 16, V, V), -math.inf)
    log_probs[..., EOS] = 0.0
    found = beam_search(step, start(1), Tables(log_probs), beam_size=3, n_best=3, **OPTIONS)
    assert found.lengths.tolist() == [[1, 0, 0]]
    assert found.tokens.tolist() == [[[EOS], [0], [0]]]
    assert found.scores.tolist() == [[0.0, -math.inf, -math.inf]]


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.5}, {"max_new_tokens": 0}],
    ids=str,
)
def test_wrong_sampling_options_are_named(wrong) -> None:
    options = {"max_new_tokens": 2, "prompt": torch.full((B, 1), BOS), **wrong}
    with pytest.raises(ValueError, match=next(iter(wrong))):
        sample(step, start(), tables(), **options)
    with pytest.raises(ValueError, match="prompt"):
        sample(step, start(), tables(), prompt=torch.zeros(B, 0), max_new_tokens=2)


@pytest.mark.parametrize(
    "wrong",
    [{"beam_size": 0}, {"n_best": 3}, {"n_best": 0}, {"length_penalty": -1.0}, {"max_length": 0}],
    ids=str,
)
def test_wrong_search_options_are_named(wrong) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        beam_search(step, start(), tables(), **{**OPTIONS, "beam_size": 2, **wrong})
