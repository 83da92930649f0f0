"""Where the rows of a batch lie in one long stream: contiguous parts, window after window.

An index stands for one row of a batch: twice the position of its first target, plus one where the
row starts anew. So a worker process needs to know neither the epoch nor the rank.
"""

from collections.abc import Sequence

import numpy as np

from data.samplers import Batches, BatchSampler


class TrainingStreams(BatchSampler):
    """`batch_size` streams a rank over `total` tokens, taken as a circle.

    Each epoch begins at another place of the circle, so that the windows differ; the part of a
    window that is left over at a stream's end is dropped, at another place each epoch. A text
    shorter than one window a stream is read more than once an epoch.
    """

    def __init__(
        self, total: int, *, steps: int, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        super().__init__()
        self.total, self.steps, self.seed = total, steps, seed
        self.stream = total // (batch_size * world_size)
        self.numbers = np.arange(rank * batch_size, (rank + 1) * batch_size)

    def __len__(self) -> int:
        return max(1, self.stream // self.steps)

    def batches(self, epoch: int) -> Batches:
        offset = int(np.random.default_rng((self.seed, epoch)).integers(self.total))
        first = offset + self.numbers * self.stream
        for window in range(len(self)):
            yield _indices((first + window * self.steps) % self.total, start=window == 0)


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
            yield _indices(positions, start=window == 0)


def stream_bounds(total: int, streams: int) -> np.ndarray:
    """(streams + 1,): stream s holds tokens bounds[s] to bounds[s + 1]; sizes differ by one."""
    return np.arange(streams + 1) * total // streams


def position_and_start(indices: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Indices (B,) → positions (B,) of the first targets, and whether each row starts anew."""
    picked = np.asarray(indices)
    return picked // 2, picked % 2 == 1


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


def _indices(positions: np.ndarray, *, start: bool) -> list[int]:
    return (positions * 2 + start).tolist()
