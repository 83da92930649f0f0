"""Short examples before long ones, in the first epochs."""

from typing import Any

import numpy as np

from data.samplers import BucketBatchSampler


class ShortestFirst(BucketBatchSampler):
    """In the first `epochs` epochs batches come in the order of their length, the shortest first.

    A curriculum by length (Bengio et al. 2009; Zaremba and Sutskever 2014, arXiv 1410.4615; sorted
    batches in the first epoch: Amodei et al. 2015, arXiv 1512.02595). Every example still comes
    once an epoch, and every rank has as many batches: all examples are sorted, equal ones in an
    order of (seed, epoch), and cut as ever. Of examples with K sequences the first one's length
    decides, then the next one's. Later epochs are those of `BucketBatchSampler`.
    """

    def __init__(self, lengths: np.ndarray, *, epochs: int, **settings: Any) -> None:
        self.epochs = 0  # pools are chosen for the epochs after
        super().__init__(lengths, shuffle=True, **settings)
        self.epochs = epochs

    def _together(self, epoch: int) -> list[np.ndarray]:
        if epoch >= self.epochs:
            return super()._together(epoch)
        order = self._random(epoch).permutation(len(self.lengths))
        steps = self._pooled(order, self.most)
        return sorted(steps, key=lambda step: self.lengths[step].max(axis=0).tolist())
