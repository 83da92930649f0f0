"""Teacher forcing against free running, by position: what exposure bias costs in decoded text."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from lightning import Trainer
from torch import Tensor

from tasks.metrics import total
from tasks.rows import Row, mean

STARTS = (1, 2, 4, 6, 9, 13, 19, 27, 41, 61, 101)  # the first position of each bucket
CURVES = ("forced_accuracy", "free_aligned", "free_accuracy")


class Exposure:
    """Counts of right symbols of the reference y, by their position t, measured in three ways.

    - `forced_accuracy`: after y_1..y_{t-1}, y_t is the likeliest symbol (teacher forcing).
    - `free_accuracy`: the decoded text has y_t at position t.
    - `free_aligned`: y_t is part of the longest common subsequence of y and the decoded text.

    A word too many at the beginning makes all that follows wrong for `free_accuracy`, and nothing
    for `free_aligned`, which finds some symbols by chance: what a reader would call right lies
    between the two. One wrong symbol costs each of the three one symbol, so that forced - aligned
    is a careful measure of the gap between training and use, which Bengio et al. 2015 (arXiv
    1506.03099) and Ranzato et al. 2016 (arXiv 1511.06732) train against. It is not exposure bias
    alone: right prefixes also tell which of several right answers is wanted. So compare runs on
    the same data, and look whether the gap grows with the position. The first symbol knows no
    prefix: there greedy decoding and teacher forcing agree.

    eos is no symbol here, since every text that ends has it. A bucket holds only the references
    that are long enough, and all three curves are of the same symbols.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(len(CURVES) + 1, len(STARTS), dtype=torch.int64)

    def add(
        self, said: Tensor, right: Tensor, mask: Tensor, written: Tensor, *, ends: tuple[int, ...]
    ) -> None:
        """Likeliest symbols and references (B, T) with mask, decoded texts (B, L).

        `ends` are the symbols that are no text: eos and pads.
        """
        said, right, written = said.cpu(), right.cpu(), written.cpu()  # a few numbers, waited for
        barred = torch.tensor(ends)
        mask = mask.cpu() & ~torch.isin(right, barred)
        # nothing of the one is equal to what is not there in the other
        right = right.masked_fill(~mask, -1)
        written = written.masked_fill(torch.isin(written, barred), -2)
        width = max(0, right.size(1) - written.size(1))
        placed = torch.nn.functional.pad(written, (0, width), value=-2)[:, : right.size(1)]
        aligned = torch.from_numpy(common(right.numpy(), written.numpy()))
        hits = torch.stack([said == right, aligned, placed == right, mask]).sum(1)  # (4, T)
        positions = torch.arange(1, right.size(1) + 1)
        bucket = torch.bucketize(positions, torch.tensor(STARTS), right=True) - 1
        self.counts.index_add_(1, bucket, hits)

    def rows(self, trainer: Trainer | None = None) -> list[Row]:
        """A row a bucket that has symbols, over all ranks; all ranks must call it."""
        *hits, counts = total(self.counts, trainer).tolist()
        ends = [following - 1 for _, following in pairwise(STARTS)] + [None]
        return [
            {"from": start, "to": end, "count": int(count)}
            | {name: hit[i] / count for name, hit in zip(CURVES, hits, strict=True)}
            for i, (start, end, count) in enumerate(zip(STARTS, ends, counts, strict=True))
            if count
        ]

    def reset(self) -> None:
        self.counts = torch.zeros_like(self.counts)


def common(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """(B, T) and (B, L) → (B, T) True on a longest common subsequence of each two rows.

    Of several one that begins as the rows do: a text that stops too early is wrong at its end.
    """
    ours, theirs = ours[:, ::-1], theirs[:, ::-1]  # the way back goes from the beginning, then
    batch, steps = ours.shape
    equal = ours[:, :, None] == theirs[:, None, :]
    best = np.zeros((batch, steps + 1, theirs.shape[1] + 1), np.int32)  # of prefixes of both
    for t in range(steps):
        more = np.maximum(best[:, t, 1:], best[:, t, :-1] + equal[:, t])
        best[:, t + 1, 1:] = np.maximum.accumulate(more, axis=1)
    found = np.zeros(ours.shape, bool)
    rows = np.arange(batch)
    t, other = np.full(batch, steps), np.full(batch, theirs.shape[1])
    while len(left := rows[(t > 0) & (other > 0)]):
        i, j = t[left], other[left]
        hit = equal[left, i - 1, j - 1]
        up = ~hit & (best[left, i - 1, j] >= best[left, i, j - 1])
        found[left[hit], i[hit] - 1] = True
        t[left] -= hit | up
        other[left] -= ~up
    return found[:, ::-1].copy()


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Free running and teacher forcing over all positions, and how far they are apart."""
    if not rows:
        return {}
    means = {name: mean(rows, name) for name in CURVES}
    return means | {"exposure_gap": means["forced_accuracy"] - means["free_aligned"]}
