"""What a language model wrote, held against what it learnt from and against held-out real text.

A figure of written text says little alone: real text has copied n-grams too. So every measure is
taken of real pieces of the same number and length as well.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import chain, pairwise
from typing import Any

from sacrebleu.metrics.bleu import BLEU

from tasks.copied import Copied

Figures = dict[str, float | int | None]  # None: there was nothing to count
Piece = Sequence[Hashable]  # words of a text, chords of a piece of music

ORDERS = range(1, 9)  # of the n-grams that may be copied
NOVEL = 4
BLEU_ORDER = 4
LEAST_WORDS = 4  # of a line; shorter ones (`else:`) are nobody's

_HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_HAN}]|[^\W{_HAN}]+|([^\w\s])\1*")


def words(text: str) -> list[str]:
    """Runs of letters and digits, or of one mark, and Chinese characters: for any tokenizer."""
    return [found[0] for found in _WORDS.finditer(text)]


def whole_lines(text: str) -> list[str]:
    """Lines of `LEAST_WORDS` words or more, without the first and the last, which may be cut."""
    return _full(text.split("\n")[1:-1])


def _full(lines: Iterable[str]) -> list[str]:
    return [line.strip() for line in lines if len(words(line)) >= LEAST_WORDS]


def ngrams(piece: Piece, order: int) -> list[tuple[Hashable, ...]]:
    """Every run of `order` words, in their order."""
    return [tuple(piece[i : i + order]) for i in range(len(piece) - order + 1)]


def copying(pieces: Sequence[Piece], runs: Sequence[Sequence[int]]) -> Figures:
    """Shares of n-grams that training has, given the runs that `Copied` finds of each piece.

    `copied_n` counts each n-gram as often as it is written, `novelty_n` each different one once.
    """
    found: Figures = {}
    for order in ORDERS:
        ends = list(chain.from_iterable(own[order - 1 :] for own in runs))
        found[f"copied_{order}"] = share(sum(run >= order for run in ends), len(ends))
    copied: dict[tuple[Hashable, ...], bool] = {}
    for piece, own in zip(pieces, runs, strict=True):
        stands = (run >= NOVEL for run in own[NOVEL - 1 :])
        copied.update(zip(ngrams(piece, NOVEL), stands, strict=True))
    found["longest_copied"] = max(chain.from_iterable(runs), default=0)
    found[f"novelty_{NOVEL}"] = share(len(copied) - sum(copied.values()), len(copied))
    return found


def longest_copied(pieces: Sequence[Piece], runs: Sequence[Sequence[int]]) -> Piece:
    """The longest run that training has; empty where it has nothing."""
    places = ((run, i, end) for i, own in enumerate(runs) for end, run in enumerate(own, 1))
    run, i, end = max(places, key=lambda place: place[0], default=(0, 0, 0))
    return pieces[i][end - run : end] if run else []


def copied_lines(lines: Sequence[str], seen: set[str]) -> Figures:
    """The share of lines that training has, and of the different ones those that it has not."""
    different = set(lines)
    return {
        "lines": len(lines),
        "lines_copied": share(sum(line in seen for line in lines), len(lines)),
        "novel_lines": share(len(different - seen), len(different)),
    }


def diversity(pieces: Sequence[Piece]) -> Figures:
    """Distinct n-grams over all (Li et al. 2016, arXiv 1510.03055), and self-BLEU."""
    found: Figures = {}
    for order in (1, 2, 3):
        every = list(chain.from_iterable(ngrams(piece, order) for piece in pieces))
        found[f"distinct_{order}"] = share(len(set(every)), len(every))
    return {**found, "self_bleu": self_bleu(pieces)}


def self_bleu(pieces: Sequence[Piece]) -> float | None:
    """The mean BLEU-4 of each piece, 0 to 100, with all others as its references: high where they
    are alike (Zhu et al. 2018, arXiv 1802.01886). None for less than two pieces of a word or more.

    sacreBLEU's sentence BLEU (exponential smoothing). Its effective order is on: a piece of less
    than four words is scored by the n-grams that it has, in place of a 0 for those it cannot have.
    """
    pieces = [piece for piece in pieces if len(piece)]
    if len(pieces) < 2:
        return None
    counts = [
        Counter(chain.from_iterable(ngrams(piece, n) for n in range(1, BLEU_ORDER + 1)))
        for piece in pieces
    ]
    # the most that a piece has of an n-gram, and the most that another has: no piece is compared
    # with each of the others, which would take the square of their number
    most: dict[tuple[Hashable, ...], tuple[int, int, int]] = defaultdict(lambda: (0, -1, 0))
    for i, own in enumerate(counts):
        for ngram, count in own.items():
            first, who, second = most[ngram]
            most[ngram] = (count, i, first) if count > first else (first, who, max(second, count))
    lengths = Counter(map(len, pieces))
    scores = []
    for i, own in enumerate(counts):
        correct, total = [0] * BLEU_ORDER, [0] * BLEU_ORDER
        for ngram, count in own.items():
            first, who, second = most[ngram]
            total[len(ngram) - 1] += count
            correct[len(ngram) - 1] += min(count, second if who == i else first)
        size = len(pieces[i])
        others = lengths - Counter([size])
        closest = min(others, key=lambda length: (abs(length - size), length))
        score = BLEU.compute_bleu(
            correct, total, sys_len=size, ref_len=closest, smooth_method="exp", effective_order=True
        )
        scores.append(score.score)
    return sum(scores) / len(scores)


def share(part: float, whole: float) -> float | None:
    """A part of a whole; None where there is nothing to divide by."""
    return part / whole if whole else None


def compare(
    sides: dict[str, Sequence[Piece]], training: Iterable[Piece]
) -> tuple[dict[str, Figures], dict[str, Piece]]:
    """Copying and diversity of the pieces of each side, and the longest run that each has copied.

    `training` comes in parts, which are read once.
    """
    copied = Copied(list(chain.from_iterable(sides.values())))
    for part in training:
        copied.read(part)
    runs = copied.runs()
    ends = [0]
    for pieces in sides.values():
        ends.append(ends[-1] + len(pieces))
    figures, longest = {}, {}
    for (name, pieces), (first, last) in zip(sides.items(), pairwise(ends), strict=True):
        own = runs[first:last]
        figures[name] = {**copying(pieces, own), **diversity(pieces)}
        longest[name] = longest_copied(pieces, own)
    return figures, longest


def audit_text(
    sides: dict[str, list[str]],
    training: Iterable[str],
    more: Callable[[list[str]], Figures] = lambda texts: {},
) -> dict[str, Any]:
    """Texts of each side (`written`, `real`) → their figures, and `longest_copied` as text.

    `training` comes in parts that cut no line. `more`: figures of this kind of text alone.
    """
    lines = {name: [*chain.from_iterable(map(whole_lines, own))] for name, own in sides.items()}
    wanted = set(chain.from_iterable(lines.values()))
    seen: set[str] = set()

    def read() -> Iterable[Piece]:
        for text in training:
            seen.update(wanted.intersection(map(str.strip, text.split("\n"))))
            yield words(text)

    pieces = {name: [words(text) for text in texts] for name, texts in sides.items()}
    figures, longest = compare(pieces, read())
    found: dict[str, Any] = {}
    for name, texts in sides.items():
        found[name] = {
            "words": sum(map(len, pieces[name])), **figures[name],
            **copied_lines(lines[name], seen), **more(texts),
        }  # fmt: skip
    return {**found, "longest_copied": {k: " ".join(map(str, run)) for k, run in longest.items()}}
