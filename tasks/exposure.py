"""Teacher forcing against free running, by position: what exposure bias costs in decoded text."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from lightning import Trainer
from torch import Tensor

from tasks.metrics import total
from tasks.rows import Row

STARTS = (1, 6, 11, 21, 41)  # the first position of each bucket; eos has a position too
CURVES = ("forced_accuracy", "free_bigrams", "free_accuracy")


class Exposure:
    """Counts of right symbols of the reference y, by their position t, measured in three ways.

    - `forced_accuracy`: given y_1..y_{t-1}, y_t is the likeliest symbol (teacher forcing).
    - `free_bigrams`: the decoded text holds the pair (y_{t-1}, y_t) somewhere. Begin and end of
      the text are symbols of pairs too; a pair that stands in y for the k-th time needs k of them.
    - `free_accuracy`: the decoded text has y_t at position t.

    The first two are a pair: each asks whether y_t follows once y_{t-1} stands there, the one where
    the reference put it there and the other where the model did, and a word too many at the
    beginning does not make all that follows wrong, as it does for `free_accuracy`. Their difference
    is the gap between training and use that Bengio et al. 2015 (arXiv 1506.03099) and Ranzato et
    al. 2016 (arXiv 1511.06732) train against. It is not exposure bias alone: right prefixes also
    tell which of several right answers is wanted. So compare runs on the same data, and look
    whether the gap grows with the position. A bucket holds only the texts that are long enough;
    all three curves are of the same symbols.
    """

    def __init__(self) -> None:
        self.counts = torch.zeros(len(CURVES) + 1, len(STARTS), dtype=torch.int64)

    def add(
        self, said: Tensor, right: Tensor, mask: Tensor, written: Tensor, lengths: Tensor, bos: int
    ) -> None:
        """Likeliest symbols and references (B, T) with mask, decoded texts (B, L) with lengths.

        References and decoded texts begin after bos and end with eos, which counts.
        """
        steps = torch.arange(written.size(1), device=written.device)
        # nothing of the reference is negative, so what is not there never equals it
        written = written.masked_fill(steps >= lengths[:, None], -1)
        placed = torch.full_like(right, -1)
        width = min(right.size(1), written.size(1))
        placed[:, :width] = written[:, :width]
        hits = (said == right, _pairs_found(right, written, bos), placed == right, mask)
        by_position = torch.stack([(hit & mask).sum(0) for hit in hits])  # (4, T)
        positions = torch.arange(1, right.size(1) + 1, device=right.device)
        starts = torch.tensor([*STARTS, 1 << 62], device=right.device)
        inside = (positions[:, None] >= starts[:-1]) & (positions[:, None] < starts[1:])
        new = (by_position[:, :, None] * inside).sum(1)
        self.counts = self.counts.to(new.device) + new

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


def _pairs_found(right: Tensor, written: Tensor, bos: int) -> Tensor:
    """(B, T) True where the pair that ends at this position of `right` is in `written` (B, L)."""
    theirs, own = (torch.nn.functional.pad(rows, (1, 0), value=bos) for rows in (right, written))

    def same(one: Tensor, other: Tensor) -> Tensor:  # (B, T, T')
        equal = one[:, :, None] == other[:, None, :]
        return equal[:, :-1, :-1] & equal[:, 1:, 1:]

    needed = same(theirs, theirs).tril().sum(2)  # how often it has stood there so far
    return same(theirs, own).sum(2) >= needed


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Free running over all positions, and how far it falls behind teacher forcing."""
    count = sum(row["count"] for row in rows)
    if not count:
        return {}
    mean = {name: sum(row[name] * row["count"] for row in rows) / count for name in CURVES}
    return {
        "free_accuracy": mean["free_accuracy"],
        "free_bigrams": mean["free_bigrams"],
        "exposure_gap": mean["forced_accuracy"] - mean["free_bigrams"],
    }
