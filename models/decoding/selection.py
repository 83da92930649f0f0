"""Which prefixes a beam search follows: the likeliest, diverse ones, those with required words."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.decoding.constraints import Required
from models.decoding.hypotheses import pick

BLOCK = 64


class Candidates(NamedTuple):
    """C ways to go on for each of A sentences, in the order in which they are wanted."""

    sums: Tensor  # (A, C) of log-probabilities; -inf: there is none
    parents: Tensor  # (A, C) which of the W prefixes
    symbols: Tensor  # (A, C) what comes after it

    def take(self, order: Tensor) -> "Candidates":
        return Candidates(*(part.gather(1, order) for part in self))


class Selection(Protocol):
    def __call__(
        self, log_probs: Tensor, sums: Tensor, prefixes: Tensor, rows: Tensor, count: int
    ) -> Candidates:
        """(A, W, V), (A, W), (A, W, L), the sentences' numbers (A,) → `count` or fewer."""


def likeliest(
    log_probs: Tensor, sums: Tensor, prefixes: Tensor, rows: Tensor, count: int
) -> Candidates:
    """The greatest sums. No prefix has more than `count` among them: they are found first."""
    values, symbols = top(log_probs.flatten(0, 1), count)
    width = sums.size(1)
    totals = (sums[:, :, None] + values.view(*sums.shape, -1)).flatten(1)
    best, index = totals.topk(min(count, totals.size(1)), dim=1)
    symbols = symbols.view(len(sums), -1).gather(1, index)
    return Candidates(best, index // (totals.size(1) // width), symbols)


def top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """`values.topk(count)` of (N, V), found in the blocks that have the greatest maxima."""
    rows, size = values.shape
    blocks = size // BLOCK
    count = min(count, size)
    if count * 8 > blocks:
        return values.topk(count)
    whole = values[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    chosen = whole.amax(2).topk(count).indices  # the greatest `count` lie in these
    index = (chosen[:, :, None] * BLOCK + torch.arange(BLOCK, device=values.device)).flatten(1)
    rest = torch.arange(blocks * BLOCK, size, device=values.device).expand(rows, -1)
    index = torch.cat([index, rest], dim=1)
    found, place = values.gather(1, index).topk(count)
    return found, index.gather(1, place)


class Diverse:
    """Groups take turns, and what earlier ones chose at this place is worth less to later ones.

    Vijayakumar et al. 2016, arXiv 1610.02424, with the Hamming distance. Row r is group
    r % groups of sentence r // groups. Sums stay the model's own.
    """

    def __init__(self, groups: int, strength: float) -> None:
        self.groups, self.strength = groups, strength

    def __call__(
        self, log_probs: Tensor, sums: Tensor, prefixes: Tensor, rows: Tensor, count: int
    ) -> Candidates:
        rows = rows.to(sums.device)
        sentences = rows // self.groups
        chosen = log_probs.new_zeros(int(sentences.max()) + 1, log_probs.size(2))
        found: Candidates | None = None
        for group in range(self.groups):
            turn = (rows % self.groups == group).nonzero().squeeze(1)
            if len(turn) == 0:
                continue
            worth = log_probs[turn] - self.strength * chosen[sentences[turn]][:, None]
            some = likeliest(worth, sums[turn], prefixes[turn], rows[turn], count)
            # what the earlier groups took off is given back
            places = some.parents * log_probs.size(2) + some.symbols
            own = log_probs[turn].flatten(1).gather(1, places)
            kept = some._replace(sums=sums[turn].gather(1, some.parents) + own)
            taken = some.symbols[:, : max(1, count // 2)]
            real = some.sums[:, : taken.size(1)] > -torch.inf
            chosen.index_put_(
                (sentences[turn][:, None].expand_as(taken), taken),
                real.to(chosen.dtype),
                accumulate=True,
            )
            if found is None:
                found = Candidates(*(part.new_zeros(len(rows), part.size(1)) for part in kept))
            for whole, part in zip(found, kept, strict=True):
                whole[turn] = part
        assert found is not None
        return found


class WithRequired:
    """Required words: the places are shared among prefixes by how much of the words they hold.

    Candidates are the likeliest, each prefix's own likeliest, and each prefix with the next symbol
    of each word that it lacks (Hokamp and Liu 2017, arXiv 1704.07138); in turn the best of each
    number of symbols that are met is taken, the greatest number first (Post and Vilar 2018, arXiv
    1804.06609).
    """

    def __init__(self, required: Required) -> None:
        self.required = required

    def __call__(
        self, log_probs: Tensor, sums: Tensor, prefixes: Tensor, rows: Tensor, count: int
    ) -> Candidates:
        (batch, width), size = sums.shape, log_probs.size(2)
        flat = prefixes.flatten(0, 1)
        each = rows.repeat_interleave(width)
        _, following = self.required.progress(flat, each)
        forced = torch.where(following >= 0, following, size)  # (N, W words)
        values, symbols = top(log_probs.flatten(0, 1), count)
        # a symbol that is among the likeliest already would be there twice
        double = (forced[:, :, None] == symbols[:, None]).any(2)
        double |= (forced[:, :, None] == forced[:, None]).tril(-1).any(2)
        extra = log_probs.flatten(0, 1).gather(1, forced.clamp(max=size - 1))
        extra = extra.masked_fill(double | (forced == size), -torch.inf)
        symbols = torch.cat([symbols, forced.clamp(max=size - 1)], dim=1)
        values = torch.cat([values, extra], dim=1)
        totals = (sums.flatten()[:, None] + values).view(batch, -1)
        parents = torch.arange(width, device=sums.device).repeat_interleave(values.size(1))
        pool = Candidates(totals, parents.expand_as(totals), symbols.view(batch, -1))
        pool = pool.take(pool.sums.argsort(dim=1, descending=True, stable=True))
        after = torch.cat([pick(prefixes, pool.parents), pool.symbols[:, :, None]], dim=2)
        met, _ = self.required.progress(
            after.flatten(0, 1), rows.repeat_interleave(pool.sums.size(1))
        )
        met = met.view(batch, -1).masked_fill(pool.sums == -torch.inf, -1)
        # how many of the same number stand before it: the turn in which it is taken
        turn = (met[:, :, None] == met[:, None]).tril(-1).sum(2)
        most = int(met.max()) + 2
        place = (turn * most - met).masked_fill(met < 0, torch.iinfo(torch.long).max)
        return pool.take(place.argsort(dim=1, stable=True)[:, :count])
