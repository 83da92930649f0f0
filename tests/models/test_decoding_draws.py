"""Drawn sequences, held to the exact distribution over all of them."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from models.decoding import DecodingOptions, sample, search, stochastic_beam_search
from models.decoding.constraints import BlockedNgrams
from models.decoding.stochastic import gumbel

BOS, EOS, V, LONGEST, COUNT = 1, 2, 6, 2, 20_000
FORBIDDEN = (0, BOS)
TABLE = (torch.randn(LONGEST, V, V, generator=torch.Generator().manual_seed(8))).log_softmax(-1)


def step(symbols: Tensor, state: Tensor, context: None) -> tuple[Tensor, Tensor]:
    return TABLE[state[:, 0], symbols], state + 1


def start(count: int) -> Tensor:
    return torch.zeros(count, 1, dtype=torch.long)


def filtered(logs: list[float], options: dict[str, Any]) -> list[float]:
    """The probabilities that the options leave, as one would compute them by hand."""
    weights = [math.exp(log / options.get("temperature", 1.0)) for log in logs]

    def keep(symbols) -> None:
        for symbol in set(range(len(weights))) - set(symbols):
            weights[symbol] = 0.0
        total = sum(weights)
        weights[:] = [weight / total for weight in weights]

    def until(share: float, order: list[int]) -> list[int]:
        total, kept = 0.0, []
        for symbol in order:
            if total < share:
                kept.append(symbol)
            total += weights[symbol]
        return kept

    keep(range(len(weights)))
    falling = sorted(range(len(weights)), key=lambda s: -weights[s])
    if "top_k" in options:
        keep(falling[: options["top_k"]])
    if "top_p" in options:
        keep(until(options["top_p"], falling))
    if "min_p" in options:
        keep([s for s in falling if weights[s] >= options["min_p"] * max(weights)])
    if "typical" in options:
        some = [s for s in falling if weights[s] > 0]
        entropy = -sum(weights[s] * math.log(weights[s]) for s in some)
        some.sort(key=lambda s: abs(-math.log(weights[s]) - entropy))
        keep(until(options["typical"], some))
    return weights


def exact(options: dict[str, Any], *, unrepeated: bool = False) -> dict[tuple[int, ...], float]:
    """The probability of every sequence that may be drawn."""
    found: dict[tuple[int, ...], float] = {}

    def go_on(prefix: tuple[int, ...], probability: float) -> None:
        if len(prefix) == LONGEST or prefix[-1:] == (EOS,):
            found[prefix] = probability
            return
        logs = TABLE[len(prefix), prefix[-1] if prefix else BOS].tolist()
        shut = {*FORBIDDEN, *(prefix if unrepeated else ())}
        logs = [-math.inf if s in shut else log for s, log in enumerate(logs)]
        for symbol, weight in enumerate(filtered(logs, options)):
            if weight > 0:
                go_on((*prefix, symbol), probability * weight)

    go_on((), 1.0)
    return found


def counted(tokens: Tensor, lengths: Tensor) -> dict[tuple[int, ...], int]:
    counts: dict[tuple[int, ...], int] = {}
    for symbols, length in zip(tokens.tolist(), lengths.tolist(), strict=True):
        key = tuple(symbols[:length])
        counts[key] = counts.get(key, 0) + 1
    return counts


def critical(freedom: int) -> float:
    """What chi-square exceeds once in 1000 (Wilson and Hilferty's approximation)."""
    part = 2 / (9 * freedom)
    return freedom * (1 - part + 3.0902 * math.sqrt(part)) ** 3


def assert_drawn_from(expected: dict[tuple[int, ...], float], counts: dict) -> None:
    assert set(counts) <= set(expected)
    total = sum(counts.values())
    assert min(expected.values()) * total >= 5  # else chi-square is not what it is held to
    apart = sum((counts.get(s, 0) - total * p) ** 2 / (total * p) for s, p in expected.items())
    assert apart < critical(max(1, len(expected) - 1)), apart


FILTERS: list[dict[str, Any]] = [
    {}, {"temperature": 0.6}, {"temperature": 1.7}, {"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.6},
    {"typical": 0.3}, {"temperature": 1.5, "top_k": 3, "min_p": 0.4},
]  # fmt: skip


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_samples_follow_the_exact_distribution(options) -> None:
    expected = exact(options)
    found = sample(
        step, start(COUNT), prompt=torch.full((COUNT, 1), BOS), max_new_tokens=LONGEST,
        eos_id=EOS, forbidden=FORBIDDEN, generator=torch.Generator().manual_seed(5), **options,
    )  # fmt: skip
    assert_drawn_from(expected, counted(found.tokens[:, 0], found.lengths[:, 0]))
    if options:
        apart = [abs(expected.get(s, 0.0) - p) for s, p in exact({}).items()]
        assert max(apart) > 0.02


def test_samples_under_a_constraint_follow_what_it_leaves_also_from_seeds_in_a_row() -> None:
    found = search(
        step, start(COUNT // 2), bos_id=BOS, eos_id=EOS, max_length=LONGEST, forbidden=FORBIDDEN,
        options=DecodingOptions(method="sample", n_best=2, block_ngrams=1),
        seeds=range(COUNT // 2),
    )  # fmt: skip
    expected = exact({}, unrepeated=True)
    assert_drawn_from(expected, counted(found.tokens.flatten(0, 1), found.lengths.flatten()))
    assert (3, 3) in exact({}) and (3, 3) not in expected


def without_replacement(weights: list[float], draws: int) -> list[float]:
    """How probably each is among so many draws."""
    included = [0.0] * len(weights)
    for order in itertools.permutations(range(len(weights)), draws):
        probability, left = 1.0, 1.0
        for one in order:
            probability *= weights[one] / left
            left -= weights[one]
        for one in order:
            included[one] += probability
    return included


@pytest.mark.parametrize("unrepeated", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_distinct_samples_are_drawn_without_replacement(temperature, unrepeated) -> None:
    """What comes first is one draw; what comes at all, as often as it should."""
    count, beam = 5000, 3
    expected = exact({"temperature": temperature}, unrepeated=unrepeated)
    found = stochastic_beam_search(
        step, start(count), bos_id=BOS, eos_id=EOS, beam_size=beam, max_length=LONGEST,
        seeds=range(count), temperature=temperature, forbidden=FORBIDDEN,
        constraints=[BlockedNgrams(1)] if unrepeated else [],
    )  # fmt: skip
    drawn = [
        [tuple(s[:n]) for s, n in zip(*row, strict=True)]
        for row in zip(found.tokens.tolist(), found.lengths.tolist(), strict=True)
    ]
    assert all(len(set(row)) == beam for row in drawn)
    assert (found.disturbed.diff(dim=1) <= 0).all()
    for row, scores in zip(drawn[:200], found.scores.tolist()[:200], strict=True):
        assert scores == pytest.approx([math.log(expected[s]) for s in row], abs=1e-5)
    first: dict[tuple[int, ...], int] = {}
    for row in drawn:
        first[row[0]] = first.get(row[0], 0) + 1
    for sequence, probability in expected.items():
        spread = math.sqrt(count * probability * (1 - probability))
        assert abs(first.get(sequence, 0) - count * probability) < 5 * spread
    included = without_replacement(list(expected.values()), beam)
    for sequence, probability in zip(expected, included, strict=True):
        seen = sum(sequence in row for row in drawn)
        spread = math.sqrt(count * probability * (1 - probability))
        assert abs(seen - count * probability) < 5 * spread


def test_more_distinct_samples_than_sequences_are_all_of_them() -> None:
    expected = exact({})
    found = stochastic_beam_search(
        step, start(2), bos_id=BOS, eos_id=EOS, beam_size=20, max_length=torch.tensor([2, 1]),
        seeds=[0, 1], forbidden=FORBIDDEN,
    )  # fmt: skip
    assert (found.lengths > 0).sum(1).tolist() == [len(expected), V - 2]
    assert set(counted(found.tokens[0], found.lengths[0])) - {()} == set(expected)
    assert found.scores[0, : len(expected)].exp().sum().item() == pytest.approx(1, abs=1e-5)
    assert (found.scores[found.lengths == 0] == -math.inf).all()


def test_what_is_all_but_impossible_is_not_drawn_without_replacement() -> None:
    """Of this seed's numbers one is 0 as a float of 32 bits, whose noise outweighs anything."""
    size = 2**20
    numbers = torch.rand(1, size, generator=torch.Generator().manual_seed(12))
    assert not numbers.all() and gumbel(numbers).isfinite().all()

    def certain(symbols: Tensor, state: Tensor, context: None) -> tuple[Tensor, Tensor]:
        return torch.full((1, size), -60.0).index_fill(1, torch.tensor([7]), 0.0), state

    found = stochastic_beam_search(
        certain, start(1), bos_id=BOS, eos_id=None, beam_size=1, max_length=1, seeds=[12]
    )
    assert found.tokens.item() == 7


@pytest.mark.parametrize("method", ["sample", "distinct"])
def test_a_row_is_drawn_the_same_in_any_company(method) -> None:
    """Alone, in another order, and beside rows that may become longer."""
    options = DecodingOptions(method=method, n_best=3)
    shared: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "forbidden": FORBIDDEN}
    seeds, caps = [11, 4, 9, 4], torch.tensor([8, 3, 8, 3])

    def long(symbols: Tensor, state: Tensor, context: None) -> tuple[Tensor, Tensor]:
        return TABLE[state[:, 0] % LONGEST, symbols], state + 1

    def drawn(rows: list[int]) -> list[tuple]:
        found = search(
            long, start(len(rows)), options=options, seeds=[seeds[row] for row in rows],
            max_length=caps[rows], **shared,
        )  # fmt: skip
        return [
            tuple(tuple(s[:n]) for s, n in zip(found.tokens[i].tolist(), lengths, strict=True))
            for i, lengths in enumerate(found.lengths.tolist())
        ]

    together = drawn([0, 1, 2, 3])
    assert drawn([3, 2, 1, 0]) == together[::-1]
    assert [drawn([row])[0] for row in range(4)] == together
    assert together[1] == together[3]
    assert len({together[0], together[1], together[2]}) == 3


@pytest.mark.parametrize("method", ["sample", "distinct"])
def test_seeds_are_one_a_row(method) -> None:
    shared: dict[str, Any] = {"bos_id": BOS, "eos_id": EOS, "max_length": 2}
    options = DecodingOptions(method=method)
    with pytest.raises(ValueError, match="2 rows, 3 seeds"):
        search(step, start(2), options=options, seeds=[1, 2, 3], **shared)
    if method == "distinct":
        with pytest.raises(ValueError, match="needs seeds"):
            search(step, start(2), options=options, **shared)
