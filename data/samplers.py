"""Which examples make a batch, in an order that depends on (seed, epoch) alone.

That makes a run resumable bit for bit: the loader saves (epoch, batches handed out) and nothing
else, and no generator's state has to be kept.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

Batches = Iterable[list[int]]  # made one after the other where they are many


class BatchSampler(Sampler[list[int]]):
    """Lists of indices for an epoch. Override `batches` and `__len__`.

    It is its own `sampler` because Lightning looks for `set_epoch` only there.
    """

    def __init__(self) -> None:
        self.sampler = self
        self.epoch = 0
        self.start = 0  # batches to leave out at the next `__iter__` (they were handed out before)

    def batches(self, epoch: int) -> Batches:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        # not a generator function: `start` must be read now, before the loader sets it back
        start, self.start = self.start, 0
        return islice(self.batches(self.epoch), start, None)


class BucketBatchSampler(BatchSampler):
    """Batches of examples of like length.

    Training (`shuffle`): examples are shuffled, sorted by length within pools, cut into batches,
    and the batches shuffled. The pools are as small (as random) as `max_padding` allows. Every
    rank gets equally many batches. Evaluation: every example once over all ranks, the longest
    first, so that a batch that does not fit in memory fails at once.

    lengths: (N,), or (N, K) where an example has K sequences to pad (source and target).
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        max_padding: float = 0.05,
    ) -> None:
        super().__init__()
        self.lengths = np.asarray(lengths).reshape(len(lengths), -1)
        self.batch_size, self.seed, self.shuffle = batch_size, seed, shuffle
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        if not shuffle:
            mine = _by_length(self.lengths, np.arange(len(lengths)))[::-1][rank::world_size]
            self._fixed = _cut(mine, batch_size)
            return
        most = max(1, -(-len(lengths) // (batch_size * world_size)))
        self.pool = min(8, most)  # in batches of all ranks together
        while self.pool < most and self.padding() > max_padding:
            self.pool = min(2 * self.pool, most)

    def __len__(self) -> int:
        if not self.shuffle:
            return len(self._fixed)
        full, rest = divmod(len(self.lengths), self.batch_size * self.world_size)
        return full + int(self._keeps(rest, full))

    def batches(self, epoch: int) -> Batches:
        if not self.shuffle:
            return (batch.tolist() for batch in self._fixed)
        together = self._together(epoch)
        return (batch[self.rank :: self.world_size].tolist() for batch in together)

    def padding(self, epoch: int = 0) -> float:
        """Share of the padded batches' cells that hold nothing."""
        batches = self._together(epoch) if self.shuffle else self._fixed
        cells = sum(len(batch) * self.lengths[batch].max(axis=0).sum() for batch in batches)
        real = sum(self.lengths[batch].sum() for batch in batches)
        return 1.0 - float(real) / max(1.0, float(cells))

    def _together(self, epoch: int) -> list[np.ndarray]:
        """The batches of all ranks together, (batch_size * world_size,) indices each."""
        random = np.random.default_rng((self.seed, epoch))
        order = random.permutation(len(self.lengths))
        size = self.batch_size * self.world_size
        batches: list[np.ndarray] = []
        for pool in _cut(order, size * self.pool):
            batches += _cut(_by_length(self.lengths, pool), size)
        rest = len(batches[-1]) if batches else 0
        if 0 < rest < size and not self._keeps(rest, full=len(batches) - 1):
            batches.pop()
        elif 0 < rest < self.world_size:  # the only batch: no rank may be idle
            batches[-1] = np.resize(batches[-1], self.world_size)
        return [batches[place] for place in random.permutation(len(batches))]

    def _keeps(self, rest: int, full: int) -> bool:
        """Whether the last, smaller batch is used: each rank must get an example of it."""
        if full == 0:
            return rest > 0
        return rest >= self.world_size and not self.drop_last


class ResumableLoader(DataLoader):  # type: ignore[type-arg]
    """A DataLoader that goes on where its saved state stopped, without loading what came before."""

    batch_sampler: BatchSampler  # type: ignore[assignment]

    def __init__(
        self, dataset: Any, sampler: BatchSampler, *, seed: int, num_workers: int = 0
    ) -> None:
        # an own generator: making an iterator must not draw from the global one
        super().__init__(
            dataset,
            batch_sampler=sampler,
            collate_fn=_as_it_is,
            num_workers=num_workers,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator().manual_seed(seed),
        )
        self.seed = seed
        self._handed_out = (0, 0)  # epoch, batches
        self._resume: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        # a generator function: nothing below runs before the first batch is asked for, and by
        # then Lightning has told the sampler its epoch
        epoch = self.batch_sampler.epoch
        resume, self._resume = self._resume, None
        done = resume[1] if resume is not None and resume[0] == epoch else 0
        self._handed_out = (epoch, done)
        assert self.generator is not None
        self.generator.manual_seed(self.seed * 1_000_003 + epoch)
        self.batch_sampler.start = done
        for batch in super().__iter__():
            done += 1
            self._handed_out = (epoch, done)
            yield batch

    def state_dict(self) -> dict[str, int]:
        epoch, done = self._handed_out
        return {"epoch": epoch, "batches": done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._resume = self._handed_out = (state["epoch"], state["batches"])


def _by_length(lengths: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Indices in order of length; equal ones stay in the (random) order they came in."""
    return indices[np.lexsort(lengths[indices].T[::-1])]


def _cut(indices: np.ndarray, size: int) -> list[np.ndarray]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def _as_it_is(batch: Any) -> Any:
    return batch
