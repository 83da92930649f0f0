"""Does a translator hold out over long sentences? BLEU by the length of the source."""

from bisect import bisect_right
from collections.abc import Callable, Sequence

from tasks.metrics import length_ratio
from tasks.rows import Row

STARTS = (1, 6, 11, 16, 21, 26, 31, 41, 51, 61, 81, 101, 151, 201, 301, 501)
LEAST = 20  # sentences a bucket: BLEU of fewer is noise


def buckets(
    lengths: Sequence[int], *, starts: Sequence[int] = STARTS, least: int = LEAST
) -> list[tuple[int, int, list[int]]]:
    """Lengths → (shortest, longest, which of them), each bucket with at least `least` members.

    Neighbours are joined until they are enough; what is left over at the end joins the last one.
    """
    groups: list[list[int]] = [[] for _ in starts]
    for i, length in enumerate(lengths):
        groups[max(0, bisect_right(starts, length) - 1)].append(i)
    found: list[list[int]] = []
    waiting: list[int] = []
    for group in groups:
        waiting += group
        if len(waiting) >= least:
            found.append(waiting)
            waiting = []
    if waiting and found:
        found[-1] += waiting
    elif waiting:
        found.append(waiting)
    return [
        (min(lengths[i] for i in group), max(lengths[i] for i in group), sorted(group))
        for group in found
    ]


def bleu_by_length(
    lengths: Sequence[int],
    hypotheses: Sequence[str],
    references: Sequence[list[str]],
    score: Callable[[list[str], list[list[str]]], float],
) -> list[Row]:
    """Corpus BLEU (`score`) and `length_ratio` of the sentences in each bucket of source lengths.

    As Koehn and Knowles 2017 (arXiv 1706.03872) show it: a translator that loses long sentences
    mostly gives too little of them, which the ratio tells. Corpus scores of parts do not average
    to the score of the whole.
    """
    rows = []
    for shortest, longest, members in buckets(lengths):
        own = [hypotheses[i] for i in members]
        theirs = [references[i] for i in members]
        rows.append(
            {"from": shortest, "to": longest, "count": len(members), "bleu": score(own, theirs),
             "length_ratio": length_ratio(own, theirs)}
        )  # fmt: skip
    return rows
