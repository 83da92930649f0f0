"""BLEU of texts that are lists of tokens already, as torchtext computed it."""

import math
from collections import Counter
from collections.abc import Sequence

Tokens = Sequence[str]


def ngrams(tokens: Tokens, most: int) -> list[str]:
    """Every run of 1 to `most` tokens, joined by spaces: shorter runs first, from left to right."""
    return [
        " ".join(tokens[start : start + size])
        for size in range(1, most + 1)
        for start in range(len(tokens) - size + 1)
    ]


def token_bleu(
    candidates: Sequence[Tokens],
    references: Sequence[Sequence[Tokens]],
    *,
    max_n: int = 4,
    weights: Sequence[float] | None = None,
) -> float:
    """Corpus BLEU, 0 to 1, without smoothing. Papineni et al. 2002, aclanthology P02-1040.

    `references`: one or more for each candidate; of two equally near in length the first counts
    for the brevity penalty (sacreBLEU takes the shorter one). `weights` of the orders 1 to `max_n`:
    None weighs them alike. ValueError where the numbers of candidates, references or weights do
    not fit each other.
    """
    weights = [1 / max_n] * max_n if weights is None else weights
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates, but {len(references)} lists of references")
    if len(weights) != max_n:
        raise ValueError(f"max_n={max_n} needs as many weights, got {len(weights)}")
    if not all(references):
        raise ValueError("every candidate needs at least one reference")
    hits, totals = [0] * max_n, [0] * max_n
    own = theirs = 0
    for candidate, several in zip(candidates, references, strict=True):
        length = len(candidate)
        own += length
        theirs += min(map(len, several), key=lambda other: abs(other - length))
        for size in range(1, max_n + 1):
            allowed: Counter[tuple[str, ...]] = Counter()
            for reference in several:
                allowed |= _counts(reference, size)
            hits[size - 1] += (_counts(candidate, size) & allowed).total()
            totals[size - 1] += max(0, length - size + 1)
    if min(hits) == 0:
        return 0.0
    mean = sum(w * math.log(h / t) for w, h, t in zip(weights, hits, totals, strict=True))
    return math.exp(mean + min(0.0, 1 - theirs / own))


def _counts(tokens: Tokens, size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))
