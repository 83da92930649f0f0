"""Where the rows of a batch lie in one long stream: contiguous parts, window after window.

An index stands for one row of a batch: where its first target is, whether the row starts anew, and
how many steps it has. So a worker process needs to know neither the epoch nor the rank.
"""

from collections.abc import Sequence

import numpy as np

from data.samplers import Batches, BatchSampler
from data.window_lengths import WindowLengths

STRIDE = 2**40  # between the indices of windows that differ in their length alone


class TrainingStreams(BatchSampler):
    """`batch_size` streams a rank over `total` tokens, taken as a circle.

    Each epoch begins at another place of the circle, so that the windows differ; the part of a
    window that is left over at a stream's end is dropped, at another place each epoch. A text
    shorter than one window a stream is read more than once an epoch. Where windows differ in their
    length, every epoch has as many, and leaves out or reads twice what that makes of its end.
    """

    def __init__(
        self,
        total: int,
        *,
        lengths: WindowLengths,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
    ) -> None:
        super().__init__()
        self.total, self.lengths, self.seed = total, lengths, seed
        self.stream = total // (batch_size * world_size)
        self.numbers = np.arange(rank * batch_size, (rank + 1) * batch_size)

    def __len__(self) -> int:
        return self.lengths.count(self.stream)

    def batches(self, epoch: int) -> Batches:
        random = np.random.default_rng((self.seed, epoch))  # the same lengths on every rank
        places = int(random.integers(self.total)) + self.numbers * self.stream
        for window in range(len(self)):
            steps = self.lengths.draw(random)
            yield _indices(places % self.total, start=window == 0, steps=steps)
            places = places + steps


class EvaluationStreams(BatchSampler):
    """This rank's share of a fixed number of streams; every token is a target exactly once.

    A stream that ends before the others, and a rank without a stream, gets rows of no target
    (position `total`), so that all ranks have equally many batches.
    """

    def __init__(self, total: int, *, steps: int, streams: int, rank: int, world_size: int) -> None:
        super().__init__()
        self.total, self.steps = total, steps
        bounds = stream_bounds(total, streams)
        self.longest = int(np.diff(bounds).max())
        mine = np.arange(streams)[rank::world_size]
        self.first, self.end = bounds[mine], bounds[mine + 1]
        if len(mine) == 0:
            self.first = self.end = np.array([total])

    def __len__(self) -> int:
        return -(-self.longest // self.steps)

    def batches(self, epoch: int) -> Batches:
        for window in range(len(self)):
            positions = self.first + window * self.steps
            positions = np.where(positions < self.end, positions, self.total)
            yield _indices(positions, start=window == 0, steps=self.steps)


def stream_bounds(total: int, streams: int) -> np.ndarray:
    """(streams + 1,): stream s holds tokens bounds[s] to bounds[s + 1]; sizes differ by one."""
    return np.arange(streams + 1) * total // streams


def unpacked(indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Indices (B,) → positions (B,) of the first targets, whether each row starts anew, steps."""
    picked = np.asarray(indices)
    return picked % STRIDE // 2, picked % 2 == 1, int(picked[0] // STRIDE)


def windows(
    positions: np.ndarray, total: int, *, steps: int, streams: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """The places (B, T) of a window's targets, and which of them count (a mask).

    Training (`streams` None) goes on at the beginning after the last token, and T is `steps`. In
    evaluation a row ends with its stream, and T is as short as the batch's longest row allows.
    """
    if streams is None:
        places = (positions[:, None] + np.arange(steps)) % total
        return places, np.ones(places.shape, bool)
    bounds = np.append(stream_bounds(total, streams), total)
    ends = bounds[np.searchsorted(bounds[:-1], positions, side="right").clip(max=streams + 1)]
    counts = np.minimum(ends - positions, steps)
    offsets = np.arange(max(1, counts.max()))
    mask = offsets < counts[:, None]
    return np.where(mask, positions[:, None] + offsets, 0), mask


def _indices(positions: np.ndarray, *, start: bool, steps: int) -> list[int]:
    return (positions * 2 + start + steps * STRIDE).tolist()
