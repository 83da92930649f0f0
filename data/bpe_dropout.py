"""BPE dropout: a text in other pieces each time. Provilkov et al. 2020, arXiv 1910.13267."""

import json

import numpy as np
from tokenizers import Tokenizer

from data.arrays import Ragged
from data.specials import SPECIALS


class BPEDropout:
    """Takes the symbols of encoded texts apart into characters and merges them anew.

    At each step every merge that is possible is left out with probability `dropout`, and of the
    others the one that was learnt first is done; a word is finished when none is left. All words of
    a batch are merged side by side, from their symbols: the text is not read again. With `dropout`
    0 the symbols come back as they were. (The dropout of `tokenizers` cannot be seeded, and tries a
    merge that it left out again within a step: it leaves out fewer.)
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float) -> None:
        self.dropout = dropout
        table = tokenizer.get_vocab(with_added_tokens=True)
        names = sorted(table, key=table.__getitem__)
        characters = [
            [i] if i < len(SPECIALS) else [table[c] for c in name] for i, name in enumerate(names)
        ]
        self.parts = Ragged.of(characters)
        # a word begins at its ▁; special and unknown symbols stand for themselves
        self.begins = np.array(
            [i < len(SPECIALS) or name == "▁" for i, name in enumerate(names)], bool
        )
        self.size = len(names)
        merges = json.loads(tokenizer.to_str())["model"]["merges"]
        pairs = np.array([[table[a], table[b]] for a, b in merges], np.int64).reshape(-1, 2)
        keys = pairs[:, 0] * self.size + pairs[:, 1]
        order = np.argsort(keys)
        self.keys = np.append(keys[order], -1)  # never empty
        self.ranks = np.append(order, 0)
        merged = np.array([table[a + b] for a, b in merges], np.int32)
        self.merged = np.append(merged[order], 0).astype(np.int32)

    def __call__(self, ids: Ragged, random: np.random.Generator) -> Ragged:
        """Rows of symbols → the same texts in other symbols."""
        parts = _picked(self.parts, ids.values)
        row = np.repeat(np.repeat(np.arange(len(ids)), ids.lengths), self.parts.lengths[ids.values])
        first = np.concatenate([[True], row[1:] != row[:-1]])[: len(row)]
        special = parts < len(SPECIALS)
        after = np.concatenate([[False], special[:-1]])[: len(row)]
        word = np.cumsum(first | self.begins[parts] | after) - 1
        symbols, word_of = self._merge(parts, word, random)
        row_of_word = row[np.flatnonzero(np.diff(word, prepend=-1))]
        counts = np.bincount(row_of_word[word_of], minlength=len(ids))
        return Ragged(values=symbols, offsets=np.concatenate([[0], np.cumsum(counts)]))

    def _merge(
        self, symbols: np.ndarray, word: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Symbols (N,) and the word each is of → merged symbols (M,) and their words, in order."""
        never = len(self.keys)
        done: list[tuple[np.ndarray, np.ndarray]] = []
        while len(symbols):
            key = symbols[:-1].astype(np.int64) * self.size + symbols[1:]
            place = np.searchsorted(self.keys[:-1], key)
            possible = (self.keys[place] == key) & (word[:-1] == word[1:])
            if self.dropout > 0:
                possible &= random.random(len(key)) >= self.dropout
            ranks = np.append(np.where(possible, self.ranks[place], never), never)
            # of each word the merge of the lowest rank, the leftmost of equal ones
            starts = np.flatnonzero(np.diff(word, prepend=-1))
            best = np.minimum.reduceat(ranks * len(ranks) + np.arange(len(ranks)), starts)
            goes_on = best < never * len(ranks)
            lengths = np.diff(np.append(starts, len(word)))
            active = np.repeat(goes_on, lengths)
            done.append((symbols[~active], word[~active]))
            left = best[goes_on] % len(ranks)
            symbols = symbols.copy()
            symbols[left] = self.merged[place[left]]
            active[left + 1] = False  # it is part of its neighbour now
            symbols, word = symbols[active], word[active]
        if not done:
            return symbols, word
        everything = np.concatenate([w for _, w in done])
        order = np.argsort(everything, kind="stable")
        return np.concatenate([s for s, _ in done])[order], everything[order]


def _picked(rows: Ragged, numbers: np.ndarray) -> np.ndarray:
    """The values of the rows `numbers`, one after the other."""
    lengths = rows.lengths[numbers]
    ends = np.cumsum(lengths)
    within = np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    return rows.values[np.repeat(rows.offsets[numbers], lengths) + within].astype(np.int32)
