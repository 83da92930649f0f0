"""METEOR 1.5 of captions, without Java: its exact and stem stages.

Denkowski and Lavie 2014, aclanthology W14-3348, with the parameters for English. WordNet's synonyms
and the table of paraphrases are left out, so scores are somewhat lower than the original's:
docs/metrics.md says by how much.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tasks.captioning_metrics import tokenized
from tasks.metrics import check_corpus
from tasks.stems import stem

ALPHA, BETA, GAMMA, DELTA = 0.85, 0.2, 0.6, 0.75
EXACT, STEM = 1.0, 0.6  # what a match of each stage is worth
BEAM = 40  # alignments kept at a time

# Words that say little. The original takes those above a relative frequency; these are the closed
# classes: articles, pronouns, prepositions, conjunctions, auxiliaries and the halves they leave.
FUNCTION_WORDS = frozenset(
    """
    a an the this that these those some any each every all both no
    i me my you your he him his she her it its we us our they them their
    who whom whose which what there here
    of in on at by for with from to into onto over under up down out off through between near
    behind above below along across around against about as after before during while
    and or but nor so if than because when where
    be am is are was were been being has have had having do does did
    can could will would shall should may might must
    not 's 'm 're 've 'd 'll n't
    """.split()
)


class Statistics(NamedTuple):
    """What a score is made of: weights of words, and counts. They add up over a corpus."""

    hypothesis_matches: float
    hypothesis_length: float
    reference_matches: float
    reference_length: float
    matches: int
    chunks: int  # stretches of matches in the same order on both sides; 0 where all is the same


class _Path(NamedTuple):
    """An alignment of the hypothesis so far; the least is the best."""

    uncovered: float  # minus the matches, a stem's being half a match
    chunks: int
    distance: int
    links: tuple[tuple[int, int], ...]  # places in hypothesis and reference


def meteor(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """METEOR of a corpus, 0 to 1: the score of the summed statistics of all captions.

    Each caption counts with the reference that it scores best against.
    """
    check_corpus(hypotheses, references)
    best = [
        max((statistics(hypothesis, reference) for reference in several), key=score)
        for hypothesis, several in tokenized(hypotheses, references)
    ]
    return score(Statistics(*map(sum, zip(*best, strict=True))))


def score(found: Statistics) -> float:
    """The weighted harmonic mean of precision and recall, less a penalty for broken order."""
    if not found.matches:
        return 0.0
    precision = found.hypothesis_matches / found.hypothesis_length
    recall = found.reference_matches / found.reference_length
    mean = 1 / ((1 - ALPHA) / precision + ALPHA / recall)
    return mean * (1 - GAMMA * (found.chunks / found.matches) ** BETA)


def statistics(hypothesis: Sequence[str], reference: Sequence[str]) -> Statistics:
    """Tokens of a caption and of one reference → what they have in common."""
    links = align(hypothesis, reference)
    worth = [EXACT if hypothesis[i] == reference[j] else STEM for i, j in links]
    chunks = sum((i - 1, j - 1) not in links for i, j in links)
    same = chunks == 1 and len(links) == len(hypothesis) == len(reference)
    return Statistics(
        sum(w * _weight(hypothesis[i]) for w, (i, _) in zip(worth, links, strict=True)),
        sum(map(_weight, hypothesis)),
        sum(w * _weight(reference[j]) for w, (_, j) in zip(worth, links, strict=True)),
        sum(map(_weight, reference)),
        len(links),
        0 if same else chunks,
    )


def align(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Places (hypothesis, reference) of words that match, each used once, by hypothesis.

    Most matches first (a stem's is half a match), then fewest chunks, then the least distance.
    Of alignments that used the same words and end in the same place only the best goes on.
    """
    stems = list(map(stem, reference))
    options = [[j for j, own in enumerate(stems) if own == stem(word)] for word in hypothesis]
    wanted = [sum(j in several for several in options) for j in range(len(reference))]
    # words used (bits) and where the word before went (-2: nowhere) → the best path
    paths = {(0, -2): _Path(0.0, 0, 0, ())}
    for i, several in enumerate(options):
        certain = len(several) == 1 and wanted[several[0]] == 1
        following: dict[tuple[int, int], _Path] = {}
        for (used, last), path in paths.items():
            steps = [] if certain else [((used, -2), path)]
            for j in several:
                if used >> j & 1:
                    continue
                grown = _Path(
                    path.uncovered - (1.0 if hypothesis[i] == reference[j] else 0.5),
                    path.chunks + (j != last + 1),
                    path.distance + abs(i - j),
                    (*path.links, (i, j)),
                )
                steps.append(((used | 1 << j, j), grown))
            for state, grown in steps:
                if state not in following or grown < following[state]:
                    following[state] = grown
        paths = following
        if len(paths) > BEAM:
            paths = dict(sorted(paths.items(), key=lambda item: item[1])[:BEAM])
    return min(paths.values()).links


def _weight(word: str) -> float:
    return 1 - DELTA if word in FUNCTION_WORDS else DELTA
