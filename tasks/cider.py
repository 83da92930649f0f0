"""CIDEr of captions: n-grams count by how rare they are among the references.

Vedantam et al. 2015, arXiv 1411.5726. What the coco-caption tool calls CIDEr, and papers report, is
the variant CIDEr-D of its section 5.4: that is `cider`. Section 3's own is `cider_plain`.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

from tasks.captioning_metrics import ORDERS, Ngrams, ngrams, tokenized
from tasks.metrics import check_corpus
from tasks.stems import stem

Weights = list[dict[tuple[str, ...], float]]  # of each order, by n-gram


def cider(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """The mean over pictures of `cider_by_picture`."""
    scores = cider_by_picture(hypotheses, references)
    return sum(scores) / len(scores)


def cider_by_picture(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """CIDEr-D of each picture, 0 to 10, number for number as the tool's `Cider`.

    Words repeated beyond the reference do not pay (counts are clipped), and a difference in length
    costs exp(−d² / 72). One picture alone scores 0: nothing is rare.
    """
    check_corpus(hypotheses, references)
    pairs = list(tokenized(hypotheses, references))
    scorer = CiderD([several for _, several in pairs])
    return [scorer.scores([hypothesis], several)[0] for hypothesis, several in pairs]


class CiderD:
    """CIDEr-D of tokenised captions; n-grams are as rare as in all these references."""

    def __init__(self, references: Iterable[Sequence[list[str]]]) -> None:
        self.rarity = _Rarity(list(references))

    def scores(
        self, hypotheses: Sequence[list[str]], references: Sequence[list[str]]
    ) -> list[float]:
        """Of several captions of one picture against its references, 0 to 10 each."""
        theirs = [self.rarity.weigh(reference) for reference in references]
        scores = []
        for hypothesis in hypotheses:
            ours = self.rarity.weigh(hypothesis)
            score = 0.0
            for reference, weights in zip(references, theirs, strict=True):
                # lengths are counted in bigrams, as the tool does
                distance = max(len(hypothesis) - 1, 0) - max(len(reference) - 1, 0)
                likeness = _likeness(ours, weights, clipped=True)
                score += likeness * math.exp(-(distance**2) / 72)
            scores.append(10 * score / len(references))
        return scores


def cider_plain(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr as section 3 has it, times 10: the cosine alone, of stems rather than words."""
    check_corpus(hypotheses, references)
    pairs = [
        (list(map(stem, hypothesis)), [list(map(stem, reference)) for reference in several])
        for hypothesis, several in tokenized(hypotheses, references)
    ]
    rarity = _Rarity([several for _, several in pairs])
    total = 0.0
    for hypothesis, several in pairs:
        ours = rarity.weigh(hypothesis)
        likeness = [_likeness(ours, rarity.weigh(r), clipped=False) for r in several]
        total += sum(likeness) / len(several)
    return 10 * total / len(pairs)


class _Rarity:
    """In how many pictures' references an n-gram occurs."""

    def __init__(self, references: Sequence[Sequence[list[str]]]) -> None:
        self.pictures: list[Ngrams] = [Counter() for _ in ORDERS]
        for several in references:
            for n, counter in zip(ORDERS, self.pictures, strict=True):
                counter.update({ngram for reference in several for ngram in ngrams(reference, n)})
        self.log_pictures = math.log(len(references))

    def weigh(self, tokens: list[str]) -> Weights:
        return [
            {
                ngram: count * (self.log_pictures - math.log(max(1, counter[ngram])))
                for ngram, count in ngrams(tokens, n).items()
            }
            for n, counter in zip(ORDERS, self.pictures, strict=True)
        ]


def _likeness(hypothesis: Weights, reference: Weights, *, clipped: bool) -> float:
    """The mean over orders of the cosine of the weights."""
    total = 0.0
    for ours, theirs in zip(hypothesis, reference, strict=True):
        product = sum(
            (min(weight, theirs[ngram]) if clipped else weight) * theirs[ngram]
            for ngram, weight in ours.items()
            if ngram in theirs
        )
        norm = math.hypot(*ours.values()) * math.hypot(*theirs.values())
        total += product / norm if norm else product
    return total / len(ORDERS)
