"""What may come next: a constraint maps log-probabilities, given the prefixes, to fewer of them.

Each is a small object, and they are applied one after the other. None keeps anything between steps,
so that prefixes may be reordered and dropped at will.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# log-probs (N, V), what was written so far (N, L), the sentences it belongs to (N,) → (N, V)
Constraint = Callable[[Tensor, Tensor, Tensor], Tensor]
Words = Sequence[Sequence[int]]  # each a sequence of symbols


def constrain(
    constraints: Sequence[Constraint], log_probs: Tensor, prefixes: Tensor, rows: Tensor
) -> Tensor:
    """All constraints, in their order."""
    for constraint in constraints:
        log_probs = constraint(log_probs, prefixes, rows)
    return log_probs


class Forbidden:
    """Symbols that never come, such as pads."""

    def __init__(self, symbols: Sequence[int]) -> None:
        self.symbols = torch.tensor(tuple(symbols), dtype=torch.long)

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        return log_probs.index_fill(1, self.symbols.to(log_probs.device), -torch.inf)


class MinLength:
    """The end comes after at least so many symbols."""

    def __init__(self, least: int, eos_id: int) -> None:
        self.least, self.eos_id = least, torch.tensor([eos_id])

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        if prefixes.size(1) >= self.least:
            return log_probs
        return log_probs.index_fill(1, self.eos_id.to(log_probs.device), -torch.inf)


class Prefix:
    """Each sentence begins with symbols of its own (B, P), -1 where it may go on freely."""

    def __init__(self, symbols: Tensor) -> None:
        self.symbols = symbols

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        place = prefixes.size(1)
        if place >= self.symbols.size(1):
            return log_probs
        forced = self.symbols.to(rows.device)[rows, place][:, None]
        symbols = torch.arange(log_probs.size(1), device=rows.device)
        return log_probs.masked_fill((forced >= 0) & (symbols != forced), -torch.inf)


class BlockedNgrams:
    """No n symbols in a row come twice (Paulus et al. 2017, arXiv 1705.04304).

    `history` (B, H) is what stood before the first symbol, such as a prompt; -1, at its left where
    rows differ in length, is nothing.
    """

    def __init__(self, size: int, history: Tensor | None = None) -> None:
        self.size, self.history = size, history

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        seen = with_history(prefixes, self.history, rows)
        before = self.size - 1
        if seen.size(1) <= before:
            return log_probs
        ngrams = seen.unfold(1, self.size, 1)  # (N, windows, size)
        last = seen[:, seen.size(1) - before :]
        again = (ngrams[:, :, :-1] == last[:, None]).all(-1) & (ngrams >= 0).all(-1)
        return _without(log_probs, ngrams[:, :, -1], again)


class Banned:
    """Words, or any sequences of symbols, that are never written."""

    def __init__(self, words: Words, history: Tensor | None = None) -> None:
        self.words = [torch.tensor(tuple(word)) for word in words if len(word)]
        self.history = history

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        seen = with_history(prefixes, self.history, rows)
        shut = torch.zeros_like(log_probs, dtype=torch.bool)
        for word in self.words:
            before = len(word) - 1
            if seen.size(1) >= before:
                begun = word[:-1].to(seen.device)
                shut[:, word[-1]] |= (seen[:, seen.size(1) - before :] == begun).all(1)
        return log_probs.masked_fill(shut, -torch.inf)


class RepetitionPenalty:
    """What was written before is less likely: its log-probability is multiplied by `penalty`.

    Keskar et al. 2019, arXiv 1909.05858, on log-probabilities, which are never positive.
    """

    def __init__(self, penalty: float, history: Tensor | None = None) -> None:
        self.penalty, self.history = penalty, history

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        seen = with_history(prefixes, self.history, rows)
        if seen.size(1) == 0:
            return log_probs
        # nothing (-1) is put into a column of its own, which is cut off again
        written = log_probs.new_zeros(len(seen), log_probs.size(1) + 1, dtype=torch.bool)
        written = written.scatter(1, seen % written.size(1), True)[:, :-1]
        return torch.where(written, log_probs * self.penalty, log_probs)


class Required:
    """The end comes after every word of the sentence's own list, each a sequence of symbols.

    A search that follows the likeliest prefixes alone seldom gets there: see `WithRequired`.
    """

    def __init__(self, words: Sequence[Words], eos_id: int) -> None:
        """`words`: a list for each sentence."""
        flat = [tuple(word) for some in words for word in some]
        if not all(flat):
            raise ValueError("a required word has at least one symbol, got an empty one")
        self.eos_id = eos_id
        self.longest = max(map(len, flat), default=0)
        self.sentences = torch.tensor([b for b, some in enumerate(words) for _ in some])
        rows = [[*word, *[-1] * (self.longest - len(word))] for word in flat]
        self.symbols = torch.tensor(rows, dtype=torch.long).view(len(flat), self.longest)

    def __call__(self, log_probs: Tensor, prefixes: Tensor, rows: Tensor) -> Tensor:
        _, following = self.progress(prefixes, rows)
        shut = torch.zeros_like(log_probs, dtype=torch.bool)
        shut[:, self.eos_id] = (following >= 0).any(1)
        return log_probs.masked_fill(shut, -torch.inf)

    def progress(self, prefixes: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Prefixes (N, L) → symbols that are met (N,), the next one of each word (N, W).

        -1 is next where a word is done, or another sentence's. Of a word that is not done, the
        symbols count that the prefix ends with.
        """
        symbols = self.symbols.to(prefixes.device)
        lengths = (symbols >= 0).sum(1)
        own = self.sentences.to(prefixes.device) == rows[:, None]  # (N, W)
        done, begun = ~own, torch.zeros_like(own, dtype=torch.long)
        for size in range(1, min(self.longest, prefixes.size(1)) + 1):
            windows = prefixes.unfold(1, size, 1)[:, :, None]  # (N, windows, 1, size)
            same = (windows == symbols[:, :size]).all(-1)  # (N, windows, W)
            done = done | (same.any(1) & (lengths == size))
            begun = torch.where(same[:, -1] & (lengths > size), size, begun)
        met = torch.where(done, lengths, begun)
        places = begun.clamp(max=max(0, self.longest - 1))
        following = symbols.expand(len(rows), -1, -1).gather(2, places[:, :, None]).squeeze(2)
        return (met * own).sum(1), following.masked_fill(done, -1)


def with_history(prefixes: Tensor, history: Tensor | None, rows: Tensor) -> Tensor:
    """What stood before and what was written: (N, H + L)."""
    if history is None:
        return prefixes
    return torch.cat([history.to(rows.device)[rows], prefixes], dim=1)


def _without(log_probs: Tensor, symbols: Tensor, where: Tensor) -> Tensor:
    """-inf at symbols (N, M) where `where` (N, M)."""
    symbols = torch.where(where, symbols, log_probs.size(1))  # a column that is cut off again
    shut = log_probs.new_zeros(len(log_probs), log_probs.size(1) + 1, dtype=torch.bool)
    return log_probs.masked_fill(shut.scatter(1, symbols, True)[:, :-1], -torch.inf)
