"""METEOR's arithmetic worked out by hand, and the alignment it rests on."""

import random
from itertools import combinations, permutations

import pytest

from tasks import meteor
from tasks.stems import stem


def fmean(precision: float, recall: float) -> float:
    return precision * recall / (0.85 * precision + 0.15 * recall)


def test_the_same_words_score_1_and_others_0():
    assert meteor.meteor(["A dog runs."], [["a dog runs"]]) == 1
    assert meteor.meteor(["cat"], [["dog"]]) == 0
    assert meteor.meteor(["", "..."], [["dog"], [""]]) == 0


def test_function_words_weigh_a_third_of_content_words():
    # "the" 0.25, the others 0.75; "dog" alone matches: one chunk of one match
    score = meteor.meteor(["the dog"], [["dog barks"]])
    assert score == pytest.approx(fmean(0.75 / 1, 0.75 / 1.5) * (1 - 0.6))


def test_a_stem_is_worth_0_6():
    # "dog" exact, "runs" ~ "running" by stem; one chunk of two matches
    score = meteor.meteor(["dog runs"], [["dog running"]])
    assert score == pytest.approx(1.6 / 2)  # one chunk covers both wholly: no penalty
    score = meteor.meteor(["dog runs fast"], [["dog running"]])
    assert score == pytest.approx(fmean(1.6 / 3, 1.6 / 2) * (1 - 0.6 * (1 / 2) ** 0.2))


def test_broken_order_costs():
    # all matches, in three chunks: "red dog", "eats", "meat"
    score = meteor.meteor(["meat eats red dog"], [["red dog eats meat"]])
    assert score == pytest.approx(1 - 0.6 * (3 / 4) ** 0.2)


def test_the_best_reference_counts():
    several = ["cat sleeps", "dog runs", "dog"]
    assert meteor.meteor(["dog runs"], [several]) == 1


def test_a_corpus_is_scored_from_its_sums_not_by_its_mean():
    # P: 3 of 5 content words, R: 3 of 6; the perfect first caption has no chunk, the other one
    hypotheses, references = ["dog runs", "cat eats fish"], [["dog runs"], ["bird sings cat flies"]]
    score = meteor.meteor(hypotheses, references)
    assert score == pytest.approx(fmean(3 / 5, 3 / 6) * (1 - 0.6 * (1 / 3) ** 0.2))


def test_repeated_words_match_where_chunks_are_fewest():
    links = meteor.align("a man on a horse".split(), "the horse and a man on a hill".split())
    assert links == ((0, 3), (1, 4), (2, 5), (3, 6), (4, 1))


def test_between_equal_chunks_the_nearest_match_wins():
    assert meteor.align(["x", "x", "dog"], ["dog", "y", "dog", "z"]) == ((2, 2),)


def test_an_exact_match_is_preferred_to_a_nearer_stem():
    assert meteor.align(["dogs"], ["dog", "near", "dogs"]) == ((0, 2),)


def cost(links: tuple, hypothesis: list[str], reference: list[str]) -> tuple:
    matches = sum(1 if hypothesis[i] == reference[j] else 0.5 for i, j in links)
    chunks = sum((i - 1, j - 1) not in links for i, j in links)
    return -matches, chunks, sum(abs(i - j) for i, j in links)


def test_no_other_alignment_is_better():
    draw = random.Random(1)
    for _ in range(60):
        one, other = (draw.choices(["a", "b", "dog", "dogs"], k=draw.randint(1, 5)) for _ in "ab")
        best = min(
            cost(links, one, other)
            for size in range(min(len(one), len(other)) + 1)
            for places in combinations(range(len(one)), size)
            for matched in permutations(range(len(other)), size)
            for links in [tuple(zip(places, matched, strict=True))]
            if all(stem(one[i]) == stem(other[j]) for i, j in links)
        )
        assert cost(meteor.align(one, other), one, other) == best


def test_repeated_words_cost_no_more_than_the_beam_allows(monkeypatch):
    # without the beam, paths over 16 of the same word are as many as its subsets: 65,536
    made, path = [], meteor._Path

    def counted(*values):
        made.append(values)
        return path(*values)

    monkeypatch.setattr(meteor, "_Path", counted)
    words = ["a"] * 16
    assert len(meteor.align(words, words)) == 16
    assert len(made) <= 1 + meteor.BEAM * len(words) * len(words)
    within = len(made)
    monkeypatch.setattr(meteor, "BEAM", 10 * meteor.BEAM)
    meteor.align(words, words)
    assert len(made) - within > 2 * within
