"""BLEU and ROUGE-L of captions, number for number as the coco-caption tool gives them.

CIDEr is in `cider`, METEOR in `meteor`. All take sentences as people write them and tokenise in the
manner of the Penn Treebank, in lower case and without punctuation: scores of differently tokenised
captions cannot be compared.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence

from tasks.metrics import check_corpus

Ngrams = Counter[tuple[str, ...]]
ORDERS = (1, 2, 3, 4)

_TOKEN = re.compile(
    r"""
      \.{2,} | --+                                # an ellipsis, a dash
    | (?:[a-z]\.){2,}                             # u.s.
    | (?:mr|mrs|ms|dr|st|jr|sr|prof|vs|etc|inc|co|corp|ave|mt)\.(?=\s*\S)
    | [a-z](?=\.\s+\S)\.(?!\S)                    # an initial inside a sentence
    | \d+(?:[.,:/]\d+)+                           # 3.5  1,000  10:30  1/2
    | \.\d+
    | '(?:s|m|d|ll|re|ve)\b                       # the second half of a contraction
    | n't\b
    | (?:(?!n't\b)\w)+ (?:(?:[-/*&]|'(?!(?:s|m|d|ll|re|ve)\b)(?=\w\w)) (?:(?!n't\b)\w)+)*
    | \S
    """,
    re.VERBOSE,
)
_PUNCTUATION = frozenset(["''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
_RESPELLED = {
    '"': "''", "“": "``", "”": "''", "‘": "`", "’": "'", "«": "``", "»": "''", "…": "...",
    "–": "--", "—": "--",
    # brackets stay, as in the tool: it removes `-LRB-`, but only after everything is lower-case
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
}  # fmt: skip
_SPLIT_WORDS = {
    "cannot": ("can", "not"), "gonna": ("gon", "na"), "gotta": ("got", "ta"),
    "wanna": ("wan", "na"), "lemme": ("lem", "me"), "gimme": ("gim", "me"),
}  # fmt: skip


def tokenize(sentence: str) -> list[str]:
    """A caption → lower-case Penn Treebank tokens without punctuation."""
    tokens: list[str] = []
    for word in _TOKEN.findall(sentence.lower().replace("’", "'")):
        word = "--" if word.startswith("--") else "..." if word.startswith("..") else word
        word = _RESPELLED.get(word, word)
        if word not in _PUNCTUATION:
            tokens.extend(_SPLIT_WORDS.get(word, (word.replace("/", r"\/").replace("*", r"\*"),)))
    return tokens


def bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Corpus BLEU-1 to BLEU-4, each 0 to 1. Papineni et al. 2002, aclanthology P02-1040.

    The brevity penalty takes for every caption the reference closest in length.
    """
    rows = bleu_statistics(hypotheses, references)
    return bleu_of([sum(column) for column in zip(*rows, strict=True)])


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[list[int]]:
    """Of each caption 10 numbers that add up over a corpus, for `bleu_of`.

    Its n-grams that a reference holds (n = 1 to 4), its n-grams, its length, the reference's.
    """
    check_corpus(hypotheses, references)
    rows = []
    for hypothesis, several in tokenized(hypotheses, references):
        hits, guesses = [], []
        for n in ORDERS:
            most: Ngrams = Counter()
            for reference in several:
                most |= ngrams(reference, n)
            counts = ngrams(hypothesis, n)
            hits.append((counts & most).total())
            guesses.append(counts.total())
        closest = min(map(len, several), key=lambda n: (abs(n - len(hypothesis)), n))
        rows.append([*hits, *guesses, len(hypothesis), closest])
    return rows


def bleu_of(sums: Sequence[float]) -> list[float]:
    """BLEU-1 to BLEU-4 of summed statistics."""
    hits, guesses, (length, reference_length) = sums[:4], sums[4:8], sums[8:]
    # the tool's own guards against a division by zero, kept so that its numbers come out
    tiny, small = 1e-15, 1e-9
    ratio = (length + tiny) / (reference_length + small)
    brevity = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    product, scores = 1.0, []
    for n, hit, guess in zip(ORDERS, hits, guesses, strict=True):
        product *= (hit + tiny) / (guess + small)
        scores.append(product ** (1 / n) * brevity)
    return scores


def rouge_l(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L, 0 to 1, the mean over captions. Lin 2004, aclanthology W04-1013.

    The longest common subsequence, its best precision and best recall over the references (each
    may come from another one, as in the tool), recall weighing 1.2² times as much.
    """
    check_corpus(hypotheses, references)
    scores = []
    for hypothesis, several in tokenized(hypotheses, references):
        common = [_common_subsequence(hypothesis, reference) for reference in several]
        if not any(common):
            scores.append(0.0)
            continue
        precision = max(common) / len(hypothesis)
        recall = max(n / max(1, len(r)) for n, r in zip(common, several, strict=True))
        scores.append((1 + 1.2**2) * precision * recall / (recall + 1.2**2 * precision))
    return sum(scores) / len(scores)


def _common_subsequence(first: list[str], second: list[str]) -> int:
    """The length of the longest common subsequence."""
    row = [0] * (len(second) + 1)
    for token in first:
        corner = 0
        for j, other in enumerate(second, start=1):
            above = row[j]
            row[j] = corner + 1 if token == other else max(above, row[j - 1])
            corner = above
    return row[-1]


def tokenized(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Each caption's tokens, and those of each of its references."""
    for hypothesis, several in zip(hypotheses, references, strict=True):
        yield tokenize(hypothesis), [tokenize(reference) for reference in several]


def ngrams(tokens: list[str], n: int) -> Ngrams:
    """How often each run of n tokens occurs."""
    return Counter(zip(*(tokens[i:] for i in range(n)), strict=False))
