"""A count model of symbols: what a network must be better than, and can be compared with."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


class Level(NamedTuple):
    """What followed each context of one length. An n-gram's code is its symbols' in base V."""

    codes: Integers  # (G,) n-grams, ascending, so that those of one context lie together
    heights: Floats  # (G + 1,) their discounted counts, added up from the first
    contexts: Integers  # (C,) ascending: the n-grams without their last symbol
    starts: Integers  # (C + 1,) where each context's n-grams begin
    totals: Floats  # (C,) counts of each context before they were discounted

    @classmethod
    def of(cls, codes: Integers, counts: Floats, vocabulary_size: int) -> "Level":
        contexts, first = np.unique(codes // vocabulary_size, return_index=True)
        once, twice = (counts == 1).sum(), (counts == 2).sum()
        # Ney et al. 1994; text without rare n-grams, such as characters, does not tell it
        discount = once / (once + 2 * twice) if once and twice else 0.5
        return cls(
            codes=codes,
            heights=np.concatenate([[0.0], np.cumsum(counts - discount)]),
            contexts=contexts,
            starts=np.append(first, len(codes)),
            totals=np.add.reduceat(counts, first),
        )

    def find(self, contexts: Integers) -> tuple[Integers, NDArray[np.bool_]]:
        """Codes of contexts (N,) → their rows, and whether they were ever seen."""
        return _find(self.contexts, contexts)

    def kept(self, rows: Integers) -> tuple[Floats, Floats]:
        """Rows (N,) → where their n-grams begin in `heights`, and what they hold there."""
        start, end = self.heights[self.starts[rows]], self.heights[self.starts[rows + 1]]
        return start, end - start


class NgramModel:
    """Interpolated Kneser-Ney: counts less a discount, and what that saves goes to a shorter
    context, at last to every symbol alike, so that it can always go on.

    A shorter context counts the different symbols before it rather than how often it occurs (Kneser
    and Ney 1995; Chen and Goodman 1998). Of order 1 it is the frequencies of the symbols.
    """

    def __init__(self, *, order: int, vocabulary_size: int) -> None:
        """`order` 3: a symbol depends on the two before it."""
        if order < 1 or vocabulary_size < 1:
            raise ValueError(
                f"order and vocabulary_size must be at least 1, got {order} and {vocabulary_size}"
            )
        if vocabulary_size**order >= 2**63:
            raise ValueError(
                f"{vocabulary_size} symbols to the power of order {order} do not fit in 64 bits: "
                "choose a smaller order"
            )
        self.order, self.vocabulary_size = order, vocabulary_size
        self.levels: list[Level] = []  # of contexts of 0, 1, ... order - 1 symbols

    def fit(self, ids: ArrayLike) -> "NgramModel":
        """Count a text (N,). ValueError where it is too short, or has symbols of V and above."""
        text = self._text(ids)
        if len(text) < self.order:
            raise ValueError(f"an order of {self.order} needs as many symbols, got {len(text)}")
        codes, counts = np.unique(self._codes(text, self.order), return_counts=True)
        self.levels = []
        for length in range(self.order, 0, -1):
            self.levels.insert(0, Level.of(codes, counts.astype(float), self.vocabulary_size))
            shorter = codes % self.vocabulary_size ** (length - 1)  # without the first symbol
            codes, counts = np.unique(shorter, return_counts=True)
        return self

    def probabilities(self, context: ArrayLike) -> Floats:
        """The distribution (V,) of what follows a context of any length."""
        before = self._text(context)[max(0, len(np.atleast_1d(context)) - self.order + 1) :]
        every = np.arange(self.vocabulary_size)
        found = np.full(self.vocabulary_size, 1.0 / self.vocabulary_size)
        for length in range(len(before) + 1):
            code = self._codes(before[len(before) - length :], length)
            found = self._interpolated(length, np.repeat(code, len(every)), every, found)
        return found

    def nats(self, ids: ArrayLike) -> Floats:
        """−log p of each symbol of a text (N,), or of texts (P, N), given those before it."""
        text = self._text(ids)
        found = np.full(text.shape, 1.0 / self.vocabulary_size)
        for length in range(min(self.order, text.shape[-1])):
            contexts = self._codes(text[..., :-1], length)[..., : text.shape[-1] - length]
            after = text[..., length:]
            found[..., length:] = self._interpolated(length, contexts, after, found[..., length:])
        return -np.log(found)

    def sample(self, pieces: int, length: int, generator: np.random.Generator) -> Integers:
        """Running text (pieces, length); each piece goes on from a context of the counted text."""
        longest = self.levels[-1]
        chosen = generator.random(pieces) * longest.totals.sum()
        history = longest.contexts[np.searchsorted(longest.totals.cumsum(), chosen, side="right")]
        drawn = np.empty((pieces, length), np.int64)
        for place in range(length):
            drawn[:, place] = self._draw(history, generator)
            history = history * self.vocabulary_size + drawn[:, place]
            history %= self.vocabulary_size ** (self.order - 1)
        return drawn

    def _draw(self, history: Integers, generator: np.random.Generator) -> Integers:
        """A symbol after each context (P,) of `order` - 1 symbols."""
        drawn = generator.integers(self.vocabulary_size, size=len(history))
        waiting = np.arange(len(history))
        for length in range(self.order - 1, -1, -1):
            level = self.levels[length]
            rows, known = level.find(history[waiting] % self.vocabulary_size**length)
            start, kept = level.kept(rows)
            share = generator.random(len(waiting)) * level.totals[rows]
            hit = known & (share < kept)  # the rest draws from a shorter context
            grams = np.searchsorted(level.heights, (start + share)[hit], side="right") - 1
            # rounding may lift a sum to the next context
            grams = np.clip(grams, level.starts[rows[hit]], level.starts[rows[hit] + 1] - 1)
            drawn[waiting[hit]] = level.codes[grams] % self.vocabulary_size
            waiting = waiting[~hit]
        return drawn

    def _interpolated(
        self, length: int, contexts: Integers, symbols: Integers, shorter: Floats
    ) -> Floats:
        """p of symbols (N,) after contexts (N,) of a length, from p after the shorter ones."""
        level = self.levels[length]
        rows, known = level.find(contexts)
        grams, seen = _find(level.codes, contexts * self.vocabulary_size + symbols)
        counts = np.where(seen, level.heights[grams + 1] - level.heights[grams], 0.0)
        totals = level.totals[rows]
        saved = totals - level.kept(rows)[1]
        return np.where(known, (counts + saved * shorter) / totals, shorter)

    def _codes(self, text: Integers, length: int) -> Integers:
        """The n-grams of texts (..., N), each as one number: (..., N - length + 1)."""
        count = text.shape[-1] - length + 1
        codes = np.zeros((*text.shape[:-1], count), np.int64)
        for place in range(length):
            codes = codes * self.vocabulary_size + text[..., place : place + count]
        return codes

    def _text(self, ids: ArrayLike) -> Integers:
        text = np.asarray(ids, np.int64)
        if text.size and not 0 <= text.min() <= text.max() < self.vocabulary_size:
            raise ValueError(
                f"symbols are 0 to {self.vocabulary_size - 1}, got {text.min()} to {text.max()}"
            )
        return text


def _find(sorted_codes: Integers, wanted: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    places = np.searchsorted(sorted_codes, wanted).clip(max=len(sorted_codes) - 1)
    return places, sorted_codes[places] == wanted
