"""A beam as wide as the space finds what plain enumeration finds, under every option."""

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from models.decoding import DecodingOptions, beam_search, ensemble, greedy, score, search
from models.decoding.constraints import Banned, Prefix, Required
from models.decoding.penalties import coverage_penalty, covering, uncovered

BOS, EOS, V, LONGEST, B = 1, 2, 6, 4, 3
FORBIDDEN = (0, BOS)
CAPS = torch.tensor([2, 4, 3])
HISTORY = torch.tensor([[-1, 3], [4, 5], [5, 5]])
FORCED = torch.tensor([[3, -1], [4, 5], [-1, -1]])
BANNED = [[3, 4], [5]]
WORDS = [[[3, 4], [5]], [[4]], []]
MASK = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
TABLES = (2 * torch.randn(B, 8, V, V, generator=torch.Generator().manual_seed(3))).log_softmax(-1)
ATTENTION = torch.randn(B, V, 3, generator=torch.Generator().manual_seed(4))
ATTENTION = ATTENTION.masked_fill(~MASK[:, None], -math.inf).softmax(-1)


def step(symbols: Tensor, state: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The context is which sentence it is, the state how many symbols were read."""
    return TABLES[rows, state[:, 0], symbols], state + 1


def attend(symbols: Tensor, state: Any, rows: Tensor):
    log_probs, after = step(symbols, state, rows)
    return log_probs, ATTENTION[rows, symbols], after


def start(batch: int = B) -> tuple[Tensor, Tensor]:
    return torch.zeros(batch, 1, dtype=torch.long), torch.arange(batch)


def ngrams(symbols: tuple[int, ...], size: int) -> list[tuple[int, ...]]:
    return [symbols[i : i + size] for i in range(len(symbols) - size + 1)]


def contains(symbols: tuple[int, ...], word) -> bool:
    return tuple(word) in ngrams(symbols, len(word))


def enumerate_all(
    row: int, options: DecodingOptions, *, longest: int = LONGEST, history=(), **more
) -> list[tuple[bool, float, tuple[int, ...]]]:
    """(has ended, score, symbols) of every sequence that the options allow, best first.

    Of those that are cut, the ones that might have ended come before the others.
    """
    found = []
    may_end: dict[tuple[int, ...], bool] = {}
    for length in range(1, longest + 1):
        for symbols in itertools.product(range(2, V), repeat=length):
            ended = symbols[-1] == EOS
            if EOS in symbols[:-1] or (not ended and length < longest):
                continue
            if ended and length - 1 < options.min_length:
                continue
            whole = (*history, *symbols)
            size = options.block_ngrams
            # what the history repeats within itself is not for the search to mend
            if size and any(
                whole[i : i + size] in ngrams(whole[: i + size - 1], size)
                for i in range(max(0, len(history) - size + 1), len(whole) - size + 1)
            ):
                continue
            if any(contains(symbols, word) for word in more.get("banned", ())):
                continue
            forced = more.get("forced", ())
            if any(f >= 0 and s != f for f, s in zip(forced, symbols, strict=False)):
                continue
            holds = all(contains(symbols, word) for word in more.get("words", ()))
            if ended and not holds:
                continue
            may_end[symbols] = holds and length >= options.min_length
            total, seen, before = 0.0, 1.0 - MASK[row].double(), BOS
            for place, symbol in enumerate(symbols):
                gained = TABLES[row, place, before, symbol].item()
                again = symbol in (*history, *symbols[:place])
                total += gained * (options.repetition_penalty if again else 1.0)
                seen, before = seen + ATTENTION[row, before].double(), symbol
            power = options.length_norm == "power"
            norm = (length if power else (5 + length) / 6) ** options.length_penalty
            covered = sum(math.log(min(max(value, 1e-6), 1.0)) for value in seen.tolist())
            result = total / norm + options.coverage_penalty * covered
            found.append((ended, result, symbols))
    return sorted(found, key=lambda one: (one[0], may_end[one[2]], one[1]), reverse=True)


def run(options: DecodingOptions, **more: Any):
    state, rows = start()
    arguments: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_length": LONGEST, **more}
    if not options.coverage_penalty:
        return search(step, state, rows, options=options, forbidden=FORBIDDEN, **arguments)
    return search(
        covering(attend), (state, uncovered(MASK)), rows, options=options, forbidden=FORBIDDEN,
        penalty=coverage_penalty(options.coverage_penalty), **arguments,
    )  # fmt: skip


def listed(found, row: int) -> list[tuple[tuple[int, ...], float]]:
    return [
        (tuple(tokens[:length]), value)
        for tokens, length, value in zip(
            found.tokens[row].tolist(), found.lengths[row].tolist(), found.scores[row].tolist(),
            strict=True,
        )
        if length
    ]  # fmt: skip


CASES: list[tuple[dict, dict, dict]] = [  # options; what `search` is given; what a row enumerates
    ({"length_penalty": 0.0}, {}, {}),
    ({"length_penalty": 2.0}, {}, {}),
    ({"length_norm": "gnmt", "length_penalty": 0.3}, {}, {}),
    ({"length_norm": "gnmt", "length_penalty": 5.0}, {}, {}),
    ({"coverage_penalty": 0.7}, {}, {}),
    ({"coverage_penalty": 3.0, "length_penalty": 0.0}, {}, {}),
    ({"min_length": 2}, {}, {}),
    ({"patience": 3.0}, {}, {}),
    ({"block_ngrams": 1}, {}, {}),
    ({"block_ngrams": 2}, {}, {}),
    ({"block_ngrams": 1}, {"history": HISTORY}, {"history": HISTORY}),
    ({"block_ngrams": 2}, {"history": HISTORY}, {"history": HISTORY}),
    ({"repetition_penalty": 2.5}, {}, {}),
    ({"repetition_penalty": 2.5}, {"history": HISTORY}, {"history": HISTORY}),
    ({}, {"max_length": CAPS}, {"longest": CAPS}),
    ({"coverage_penalty": 0.7}, {"max_length": CAPS}, {"longest": CAPS}),
    ({}, {"constraints": [Prefix(FORCED)]}, {"forced": FORCED}),
    ({}, {"constraints": [Banned(BANNED)]}, {"banned": BANNED}),
    ({}, {"required": Required(WORDS, EOS)}, {"words": WORDS}),
    (
        {"min_length": 3, "block_ngrams": 2, "repetition_penalty": 1.5, "coverage_penalty": 0.5},
        {"required": Required(WORDS, EOS), "max_length": CAPS + 1},
        {"words": WORDS, "longest": CAPS + 1},
    ),
]


def case_name(values: dict) -> str:
    return "+".join(values) or "none"


@pytest.mark.parametrize(("options", "given", "each"), CASES, ids=case_name)
def test_every_option_is_what_enumeration_makes_of_it(options, given, each) -> None:
    """All hypotheses in their order, and the first alone; and the option changes something."""

    def of(row: int) -> dict[str, Any]:
        own = {name: values[row] for name, values in each.items() if name != "banned"}
        own = {name: v.tolist() if isinstance(v, Tensor) else v for name, v in own.items()}
        if "history" in own:
            own["history"] = tuple(symbol for symbol in own["history"] if symbol >= 0)
        return {**own, **{name: each[name] for name in each if name == "banned"}}

    chosen = DecodingOptions(**options, beam_size=400, n_best=400)
    expected = [enumerate_all(row, chosen, **of(row)) for row in range(B)]
    found, first = run(chosen, **given), run(replace(chosen, n_best=1), **given)
    for row, sequences in enumerate(expected):
        got = listed(found, row)
        assert [symbols for symbols, _ in got] == [symbols for _, _, symbols in sequences]
        assert [v for _, v in got] == pytest.approx([v for _, v, _ in sequences], abs=1e-5)
        ((best, value),) = listed(first, row)
        assert (best, value) == (got[0][0], pytest.approx(got[0][1], abs=1e-6))
    if "patience" not in options:  # a beam this wide leaves nothing to wait for
        plain = DecodingOptions(beam_size=400, n_best=400)
        assert expected != [enumerate_all(row, plain) for row in range(B)]


def test_banned_words_that_began_before_the_first_symbol_are_not_finished() -> None:
    history, banned = torch.tensor([[3], [4], [5]]), [[3, 4], [4, 5], [5, EOS]]
    found = run(DecodingOptions(beam_size=400, n_best=400), constraints=[Banned(banned, history)])
    for row in range(B):
        every = enumerate_all(row, DecodingOptions())
        begun = (history[row].item(),)
        assert {symbols for symbols, _ in listed(found, row)} == {
            s for _, _, s in every if not any(contains((*begun, *s), word) for word in banned)
        }


def plain_beam(row: int, beam: int, patience: float, n_best: int, longest: int):
    """Beam search as one would write it for one sentence, without stopping early by bounds."""
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    ended: list[tuple[float, tuple[int, ...]]] = []
    for length in range(1, longest + 1):
        pool = []
        for total, prefix in live:
            before = prefix[-1] if prefix else BOS
            pool += [
                (total + TABLES[row, length - 1, before, s].item(), (*prefix, s))
                for s in range(2, V)
            ]
        pool.sort(reverse=True)
        ended += [(t / length, p) for t, p in pool[:beam] if p[-1] == EOS]
        live = [(t, p) for t, p in pool if p[-1] != EOS][:beam]
        if len(ended) >= max(n_best, patience * beam):
            return sorted(ended, reverse=True)[:n_best]
    cut = [(t / longest, p) for t, p in live]
    return (sorted(ended, reverse=True) + cut)[:n_best]


@pytest.mark.parametrize("n_best", [1, 2])
@pytest.mark.parametrize("patience", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("beam", [2, 3])
def test_a_narrow_beam_follows_what_a_plain_one_follows(beam, patience, n_best) -> None:
    options = DecodingOptions(beam_size=beam, n_best=n_best, patience=patience)
    found = run(options, max_length=7)
    for row in range(B):
        expected = plain_beam(row, beam, patience, n_best, 7)
        got = listed(found, row)
        assert [symbols for symbols, _ in got] == [symbols for _, symbols in expected]
        assert [value for _, value in got] == pytest.approx([v for v, _ in expected], abs=1e-5)


def test_patience_goes_on_to_better_hypotheses() -> None:
    log_probs = torch.full((V, V), -math.inf)
    log_probs[BOS, [EOS, 3]] = torch.tensor([0.6, 0.4]).log()
    log_probs[3, 3], log_probs[3, EOS] = math.log(0.99), math.log(0.01)

    def one(symbols: Tensor, state: Tensor, context: None) -> tuple[Tensor, Tensor]:
        then = torch.where(state >= 2, torch.tensor([[-9.0] * 2 + [0.0] + [-9.0] * 3]), -1.0)
        return torch.where(state >= 2, then, log_probs[symbols]), state + 1

    state = torch.zeros(1, 1)
    lengths = [
        search(
            one, state, options=DecodingOptions(beam_size=1, patience=patience), bos_id=BOS,
            eos_id=EOS, max_length=6, forbidden=FORBIDDEN,
        ).lengths.item()
        for patience in (1.0, 2.0)
    ]  # fmt: skip
    assert lengths == [1, 3]


@pytest.mark.parametrize(
    ("options", "given"),
    [
        ({}, {}),
        ({"min_length": 2, "block_ngrams": 2}, {"history": HISTORY}),
        ({"repetition_penalty": 3.0}, {"max_length": CAPS}),
        ({"block_ngrams": 1}, {"max_length": 8}),
        ({}, {"constraints": [Prefix(torch.tensor([[3, 4], [0, 0], [4, 0]]))]}),
    ],
    ids=case_name,
)
def test_one_beam_is_greedy_under_constraints(options, given) -> None:
    """Also where a row comes to where nothing may follow, at once or later."""
    given = {"max_length": LONGEST, **given}
    chosen = DecodingOptions(beam_size=1, **options)
    shared: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_length": given["max_length"]}
    shared["constraints"] = [
        *chosen.constraints(EOS, given.get("history")), *given.get("constraints", ()),
    ]  # fmt: skip
    one = beam_search(step, *start(), beam_size=1, forbidden=FORBIDDEN, **shared)
    other = greedy(step, *start(), forbidden=FORBIDDEN, **shared)
    through = run(chosen, **given)
    for found in (one, through):
        assert torch.equal(found.tokens, other.tokens)
        assert torch.equal(found.lengths, other.lengths)
        torch.testing.assert_close(found.scores, other.scores)


def test_an_ensemble_is_the_mean_of_its_members_probabilities() -> None:
    """Two that differ, and one twice: scores, and the order of all sequences."""
    state, rows = start(1)
    shared: dict[str, Any] = {
        "bos_id": BOS, "eos_id": EOS, "max_length": LONGEST, "beam_size": 200, "n_best": 121,
        "length_penalty": 0.0, "forbidden": FORBIDDEN,
    }  # fmt: skip
    other = torch.tensor([1])
    both = beam_search(ensemble([step, step]), (state, state), (rows, other), **shared)
    means = ((TABLES[0].double().exp() + TABLES[1].double().exp()) / 2).log()
    for symbols, value in listed(both, 0):
        pairs = enumerate(zip((BOS, *symbols), symbols, strict=False))
        total = sum(means[place, before, symbol].item() for place, (before, symbol) in pairs)
        assert value == pytest.approx(total, abs=1e-5)
    assert len(listed(both, 0)) == 121
    alone = beam_search(step, state, rows, **shared)
    twice = beam_search(ensemble([step, step]), (state, state), (rows, rows), **shared)
    assert torch.equal(alone.tokens, twice.tokens)
    torch.testing.assert_close(alone.scores, twice.scores)
    assert not torch.equal(alone.tokens, both.tokens)
    with pytest.raises(ValueError, match="at least one member"):
        ensemble([])


def test_a_score_is_the_sum_along_the_table_and_pads_do_not_matter() -> None:
    found = run(DecodingOptions(beam_size=400, n_best=40, length_penalty=0.0))
    calls = []

    def counted(symbols, state, rows):
        calls.append(len(symbols))
        return step(symbols, state, rows)

    for k in range(40):
        lengths = found.lengths[:, k]
        for pad in (0, 5):
            targets = torch.full((B, LONGEST + 2), pad)
            for row, length in enumerate(lengths):
                targets[row, :length] = found.tokens[row, k, :length]
            calls.clear()
            given = score(counted, *start(), bos_id=BOS, targets=targets, lengths=lengths)
            torch.testing.assert_close(given.total, found.scores[:, k])
            places = torch.arange(targets.size(1)) < lengths[:, None]
            assert torch.equal(given.each != 0, places)
            assert sum(calls) == lengths.sum()
    empty = score(
        step, *start(), bos_id=BOS, targets=torch.zeros(B, 2, dtype=torch.long),
        lengths=torch.tensor([0, 1, 0]),
    )  # fmt: skip
    assert empty.total[[0, 2]].tolist() == [0.0, 0.0] and empty.total[1] < 0
