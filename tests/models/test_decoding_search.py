"""Diverse groups, required words, dead ends, what a search costs, and which options go together."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.decoding import DecodingOptions, beam_search, greedy, sample, search
from models.decoding.beam import diverse_beam_search
from models.decoding.constraints import BlockedNgrams, Prefix, RepetitionPenalty, Required
from models.decoding.penalties import coverage_penalty, covering, uncovered
from models.decoding.selection import WithRequired, top

BOS, EOS, V, B = 1, 2, 8, 10
FORBIDDEN = (0, BOS)
TABLES = torch.randn(B, 10, V, V, generator=torch.Generator().manual_seed(6)).log_softmax(-1)
ATTENTION = torch.randn(B, V, 3, generator=torch.Generator().manual_seed(7)).softmax(-1)
SHARED: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "forbidden": FORBIDDEN}


class Counted:
    """A step that knows how many rows each call had."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def __call__(self, symbols: Tensor, state: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.append(len(symbols))
        return TABLES[rows, state[:, 0], symbols], state + 1


step = Counted()


def start(rows=range(B)) -> tuple[Tensor, Tensor]:
    return torch.zeros(len(rows), 1, dtype=torch.long), torch.tensor(list(rows))


def listed(found, row: int) -> list[tuple[int, ...]]:
    pairs = zip(found.tokens[row].tolist(), found.lengths[row].tolist(), strict=True)
    return [tuple(tokens[:length]) for tokens, length in pairs if length]


def assert_same(one, other) -> None:
    for part, of_other in zip(one, other, strict=True):
        torch.testing.assert_close(part, of_other)


def plain_diverse(row: int, groups: int, width: int, diversity: float, longest: int):
    """Diverse beam search as one would write it for one sentence."""
    live: list[list[tuple[float, tuple[int, ...]]]] = [[(0.0, ())] for _ in range(groups)]
    ended: list[list[tuple[float, tuple[int, ...]]]] = [[] for _ in range(groups)]
    for place in range(longest):
        chosen = [0] * V
        for group in range(groups):
            if len(ended[group]) >= width:
                continue
            pool = []
            for total, prefix in live[group]:
                logs = TABLES[row, place, prefix[-1] if prefix else BOS].tolist()
                for s in range(2, V):
                    worth = total + logs[s] - diversity * chosen[s]
                    pool.append((worth, total + logs[s], (*prefix, s)))
            pool.sort(reverse=True)
            ended[group] += [(t / (place + 1), p) for _, t, p in pool[:width] if p[-1] == EOS]
            live[group] = [(t, p) for _, t, p in pool if p[-1] != EOS][:width]
            for _, _, prefix in pool[:width]:
                chosen[prefix[-1]] += 1
    ranked = []
    for group in range(groups):
        best = sorted(ended[group], reverse=True)
        if len(best) < width:
            best += sorted(((t / longest, p) for t, p in live[group]), reverse=True)
        for rank, (value, symbols) in enumerate(best[:width]):
            ranked.append((symbols[-1] != EOS, rank, -value, symbols))
    return list(dict.fromkeys(symbols for *_, symbols in sorted(ranked)))


@pytest.mark.parametrize("diversity", [0.0, 0.4, 2.0])
@pytest.mark.parametrize(("groups", "width"), [(1, 3), (2, 2), (3, 1), (3, 2)])
def test_diverse_groups_find_what_plain_ones_find_each_once(groups, width, diversity) -> None:
    found = diverse_beam_search(
        step, *start(), beam_size=groups * width, groups=groups, diversity=diversity,
        n_best=groups * width, max_length=6, **SHARED,
    )  # fmt: skip
    for row in range(B):
        expected = plain_diverse(row, groups, width, diversity, 6)
        got = listed(found, row)
        assert got == expected
        assert len(set(got)) == len(got)
        empty = found.lengths[row] == 0
        assert (found.scores[row][empty] == -math.inf).all() and not found.tokens[row][empty].any()
    if groups > 1 and diversity == 0.0:
        assert (found.lengths > 0).sum(1).tolist() == [width] * B


def test_one_group_is_beam_search_and_more_find_something_else() -> None:
    found = {}
    for groups in (1, 2):
        options = DecodingOptions(beam_size=4, n_best=4, groups=groups, diversity=1.0)
        found[groups] = search(step, *start(), options=options, max_length=6, **SHARED)
    plain = beam_search(step, *start(), beam_size=4, n_best=4, max_length=6, **SHARED)
    one = diverse_beam_search(
        step, *start(), beam_size=4, n_best=4, groups=1, diversity=1.0, max_length=6, **SHARED
    )
    assert_same(found[1], plain)
    assert_same(one, plain)
    assert not torch.equal(found[2].tokens[:, 1], plain.tokens[:, 1])


def test_groups_keep_the_constraints_of_their_sentence() -> None:
    forced = torch.arange(B)[:, None] % 5 + 3
    options = DecodingOptions(beam_size=4, n_best=4, groups=2, block_ngrams=1)
    found = search(
        step, *start(), options=options, max_length=5, constraints=[Prefix(forced)],
        history=torch.full((B, 1), 4), **SHARED,
    )  # fmt: skip
    for row in range(B):
        got = listed(found, row)
        if forced[row] == 4:  # which the history shuts out
            assert got == []
            continue
        assert got and all(symbols[0] == forced[row] for symbols in got)
        assert all(4 not in symbols and len(set(symbols)) == len(symbols) for symbols in got)


@pytest.mark.parametrize("beam", [1, 3, 6])
def test_required_words_are_found_where_a_beam_of_the_likeliest_loses_them(beam) -> None:
    least = TABLES[:, 0, BOS, 3:].argsort(dim=1) + 3  # the unlikeliest to begin with come first
    words = [[[int(row[0]), int(row[1])], [int(row[2])]] for row in least]
    required = Required(words, EOS)
    options = DecodingOptions(beam_size=beam)
    found = search(step, *start(), options=options, required=required, max_length=9, **SHARED)
    plain = beam_search(
        step, *start(), beam_size=beam, max_length=9, constraints=[required], **SHARED
    )

    def whole(result) -> int:
        count = 0
        for row, ((a, b), (c,)) in enumerate(words):
            (symbols,) = listed(result, row)
            count += (a, b) in itertools.pairwise(symbols) and c in symbols
        return count

    assert whole(found) == B
    assert whole(plain) < B


def test_required_words_that_are_no_word_change_nothing() -> None:
    options = DecodingOptions(beam_size=3, n_best=3)
    none = Required([[] for _ in range(B)], EOS)
    assert_same(
        search(step, *start(), options=options, required=none, max_length=6, **SHARED),
        search(step, *start(), options=options, max_length=6, **SHARED),
    )
    with pytest.raises(ValueError, match="at least one symbol"):
        Required([[[]]], EOS)


def test_words_that_begin_alike_do_not_double_a_hypothesis() -> None:
    words = [[[int(s), 3], [int(s), 4]] for s in TABLES[:, 0, BOS, 3:].argmin(dim=1) + 3]
    options = DecodingOptions(beam_size=6, n_best=6)
    required = Required(words, EOS)
    found = search(step, *start(), options=options, required=required, max_length=8, **SHARED)
    assert all(len(set(listed(found, row))) == len(listed(found, row)) == 6 for row in range(B))


def test_nothing_in_the_history_makes_no_symbol_less_likely() -> None:
    log_probs, none = torch.full((1, V), -2.0), torch.zeros(1, 0, dtype=torch.long)
    penalised = RepetitionPenalty(2.0, torch.tensor([[-1, 3]]))
    after = penalised(log_probs, none, torch.tensor([0]))
    assert after.tolist() == [[-4.0 if symbol == 3 else -2.0 for symbol in range(V)]]


def attend(symbols: Tensor, state: Any, context: Any):
    rows, mask = context
    log_probs, after = step(symbols, state, rows)
    attention = torch.cat([ATTENTION[rows, symbols], torch.zeros(len(rows), 2)], dim=1)
    return log_probs, attention[:, : mask.size(1)], after


def test_pads_of_the_input_cost_no_coverage() -> None:
    def covered(size: int):
        mask = (torch.arange(size) < 3).expand(B, -1)
        state, rows = start()
        return beam_search(
            covering(attend), (state, uncovered(mask)), (rows, mask), beam_size=3, n_best=2,
            max_length=6, penalty=coverage_penalty(0.5), **SHARED,
        )  # fmt: skip

    assert_same(covered(3), covered(5))


def test_where_nothing_may_follow_what_was_written_stands_with_its_own_score() -> None:
    """No symbol twice, and no end: after every symbol was written once nothing is left."""
    state, rows = start()
    mask = torch.ones(B, 3, dtype=torch.bool)
    never = {**SHARED, "forbidden": (*FORBIDDEN, EOS, 6, 7), "max_length": 8}
    found = beam_search(
        covering(attend), (state, uncovered(mask)), (rows, mask), beam_size=6, n_best=6,
        penalty=coverage_penalty(0.5), constraints=[BlockedNgrams(1)], **never,
    )  # fmt: skip
    for row in range(B):
        assert len(set(listed(found, row))) == 6 and set(found.lengths[row].tolist()) == {3}
        for symbols, value in zip(listed(found, row), found.scores[row].tolist(), strict=True):
            read = (BOS, *symbols[:-1])
            pairs = enumerate(zip(read, symbols, strict=True))
            total = sum(TABLES[row, place, a, b].item() for place, (a, b) in pairs)
            seen = ATTENTION[row, list(read)].sum(0).clamp(max=1).log().sum().item()
            assert value == pytest.approx(total / 3 + 0.5 * seen, abs=1e-5)
    alone = [BlockedNgrams(1)]
    for one in (
        greedy(step, *start(), constraints=alone, **never),
        sample(
            step, *start(), prompt=torch.full((B, 1), BOS), max_new_tokens=8, constraints=alone,
            forbidden=never["forbidden"], seeds=range(B),
        ),
    ):  # fmt: skip
        assert all(sorted(one.tokens[row, 0].tolist()) == [3, 4, 5] for row in range(B))


EVERYTHING: list[dict[str, Any]] = [
    {"beam_size": 1}, {"beam_size": 3, "n_best": 3},
    {"beam_size": 4, "n_best": 4, "groups": 2},
    {"beam_size": 3, "block_ngrams": 2, "repetition_penalty": 1.5, "min_length": 2},
    {"beam_size": 3, "patience": 2.0, "length_norm": "gnmt"},
]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [(options, False) for options in EVERYTHING]
    + [(options, True) for options in EVERYTHING if "groups" not in options],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else f"words={value}",
)
def test_a_row_is_found_the_same_in_any_company_and_costs_the_same(options, words) -> None:
    """Alone or in another order; the steps taken together are those taken alone."""
    caps = torch.tensor([3, 9, 5, 7, 9, 2, 6, 9, 9, 4])
    history = torch.arange(2 * B).view(B, 2) % 5 + 3

    def found(rows: list[int]):
        step.calls.clear()
        result = search(
            step, *start(rows), options=DecodingOptions(**options), max_length=caps[rows],
            history=history[rows],
            required=Required([[[3 + row % 5]] for row in rows], EOS) if words else None, **SHARED,
        )  # fmt: skip
        scores = [[value for value in row if value > -math.inf] for row in result.scores.tolist()]
        return [listed(result, i) for i in range(len(rows))], scores, sum(step.calls)

    together, scores, cost = found(list(range(B)))
    backwards, _, other_cost = found(list(range(B))[::-1])
    alone = [found([row]) for row in range(B)]
    assert backwards[::-1] == together and other_cost == cost
    assert [sequences for (sequences,), _, _ in alone] == together
    assert sum(part[2] for part in alone) == cost
    for (_, (own,), _), with_others in zip(alone, scores, strict=True):
        assert own == pytest.approx(with_others, abs=1e-6)


def test_finished_rows_cost_nothing() -> None:
    step.calls.clear()
    found = greedy(step, *start(), max_length=9, **SHARED)
    assert sum(step.calls) == found.lengths.sum()
    step.calls.clear()
    found = sample(
        step, *start(), prompt=torch.full((B, 1), BOS), max_new_tokens=9, eos_id=EOS,
        seeds=range(B), count=3,
    )  # fmt: skip
    assert sum(step.calls) == found.lengths.sum()
    assert step.calls[0] == 3 * B > step.calls[-1]


@given(
    seed=st.integers(0, 2**16),
    rows=st.integers(1, 3),
    size=st.integers(1, 3000),
    count=st.integers(1, 12),
    tied=st.booleans(),
    shut=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_top_is_topk(seed, rows, size, count, tied, shut) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, size, generator=generator)
    if tied:
        values = values.round()
    if shut:
        values[:, torch.rand(size, generator=generator) < 0.9] = -math.inf
    expected = values.topk(min(count, size))
    found, index = top(values, count)
    assert torch.equal(found, expected.values)
    assert torch.equal(values.gather(1, index), found)
    assert all(len(set(row)) == len(row) for row in index.tolist())
    if not tied and not shut:
        assert torch.equal(index, expected.indices)


def test_the_greatest_of_a_large_vocabulary_may_lie_anywhere() -> None:
    values = torch.full((2, 64 * 200 + 9), -1.0)
    values[0, -1], values[0, 0], values[0, 1] = 3.0, 2.0, 1.0  # in the rest, and in one block
    values[1, 64 * 200 - 1], values[1, 64 * 100], values[1, 64 * 200] = 3.0, 2.0, 1.0
    found, index = top(values, 3)
    assert found.tolist() == [[3.0, 2.0, 1.0]] * 2
    assert index.tolist() == [[64 * 200 + 8, 0, 1], [64 * 200 - 1, 64 * 100, 64 * 200]]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"method": "best"}, "method"),
        ({"beam_size": 1, "groups": 2}, "groups=2 must divide beam_size=1"),
        ({"n_best": 6}, "n_best=6"),
        ({"patience": 0.0}, "patience"),
        ({"repetition_penalty": 0.5}, "repetition_penalty"),
        ({"length_norm": "mean"}, "length_norm"),
        ({"block_ngrams": -1}, "block_ngrams"),
        ({"method": "distinct", "temperature": 0.0}, "temperature=0"),
        ({"method": "sample", "min_p": 2.0}, "min_p"),
        ({"temperature": 0.5}, "method=beam has no temperature"),
        ({"top_k": 3}, "method=beam has no top_k"),
        ({"method": "distinct", "top_p": 0.5}, "method=distinct has no top_p"),
        ({"method": "sample", "groups": 5}, "method=sample has no groups"),
        ({"method": "sample", "patience": 2.0}, "method=sample has no patience"),
        ({"method": "distinct", "coverage_penalty": 0.2}, "no coverage_penalty"),
    ],
    ids=str,
)
def test_options_that_are_wrong_or_would_be_ignored_are_named(options, named) -> None:
    with pytest.raises(ValueError, match=named):
        DecodingOptions(**options)


@pytest.mark.parametrize(
    ("options", "more", "named"),
    [
        ({"method": "sample"}, {"required": Required([[]] * B, EOS)}, "method=beam"),
        ({"method": "distinct"}, {"required": Required([[]] * B, EOS)}, "method=beam"),
        ({"beam_size": 4, "groups": 2}, {"required": Required([[]] * B, EOS)}, "groups=2"),
        ({"coverage_penalty": 0.3}, {}, "coverage_penalty=0.3"),
    ],
    ids=["sample", "distinct", "groups", "coverage"],
)
def test_what_does_not_go_together_is_refused(options, more, named) -> None:
    with pytest.raises(ValueError, match=named):
        search(
            step, *start(), options=DecodingOptions(**options), seeds=range(B), max_length=3,
            **more, **SHARED,
        )  # fmt: skip


def test_a_prompt_counts_as_written_for_every_method() -> None:
    """Symbols of the history do not come again where none may come twice."""
    history = torch.tensor([[-1, 3 + row % 5] for row in range(B)])
    for method in ("beam", "sample", "distinct"):
        options = DecodingOptions(method=method, block_ngrams=1, n_best=5)
        shared: dict[str, Any] = {"seeds": range(B), "max_length": 4, **SHARED}
        with_it = search(step, *start(), options=options, history=history, **shared)
        without = search(step, *start(), options=options, **shared)
        hits = [
            sum(int(history[row, 1]) in symbols for row in range(B) for symbols in listed(h, row))
            for h in (with_it, without)
        ]
        assert hits[0] == 0 < hits[1]


def test_required_words_take_their_places_from_a_large_vocabulary() -> None:
    """The word is far from the likeliest, which are looked for in blocks."""
    size = 64 * 200
    log_probs = torch.randn(1, size, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    word = [int(log_probs[0, 3:].argmin()) + 3, 5]

    def one(symbols: Tensor, state: Tensor, context: None) -> tuple[Tensor, Tensor]:
        return log_probs.expand(len(symbols), -1), state

    required = Required([[word]], EOS)
    found = beam_search(
        one, torch.zeros(1, 1), beam_size=2, max_length=4, selection=WithRequired(required),
        constraints=[required], length_penalty=0.0, **SHARED,
    )  # fmt: skip
    text = found.tokens[0, 0].tolist()
    # where it stands is a tie: rounding decides whether the likeliest symbol comes before or after
    assert word in [text[place : place + 2] for place in range(3)]
