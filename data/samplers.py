"""Which examples make a batch, in an order that depends on (seed, epoch) alone.

That makes a run resumable bit for bit: the loader saves (epoch, batches handed out) and nothing
else, and no generator's state has to be kept.
"""

import math
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from data.packing import by_number, by_tokens

Batches = Iterable[list[int]]  # made one after the other where they are many


class Indices(list[int]):
    """The examples of a batch, and the epoch that it belongs to, for what is drawn anew in each."""

    epoch = 0

    @classmethod
    def of(cls, batch: list[int], epoch: int) -> "Indices":
        made = cls(batch)
        made.epoch = epoch
        return made


class BatchSampler(Sampler[list[int]]):
    """Lists of indices for an epoch. Override `batches` and `__len__`.

    It is its own `sampler` because Lightning looks for `set_epoch` only there.
    """

    def __init__(self) -> None:
        self.sampler = self
        self.epoch = 0
        self.start = 0  # batches that `__iter__` leaves out (they were handed out before)

    def batches(self, epoch: int) -> Batches:
        raise NotImplementedError

    def __len__(self) -> int:
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        # not a generator function: `start` must be read now, before the loader sets it back
        start, epoch = self.start, self.epoch
        left = islice(self.batches(epoch), start, None)
        return (Indices.of(batch, epoch) for batch in left)


class BucketBatchSampler(BatchSampler):
    """Batches of examples of like length: `batch_size` examples a rank, or `batch_tokens`.

    `batch_tokens` counts what a padded batch holds: its examples times the longest of each of
    their K sequences, added up (source and target). An example that is longer by itself makes a
    batch alone.

    Training (`shuffle`): examples are shuffled, sorted by length within pools, cut into steps
    (data/packing.py), and the steps shuffled. The pools are as small (as random) as `max_padding`
    allows. Every rank gets equally many batches, in every epoch as many, and every example comes
    once an epoch; only where there are fewer examples than ranks do some come twice. Evaluation:
    every example once over all ranks, the longest first, so that a batch that does not fit in
    memory fails at once.

    lengths: (N,), or (N, K) where an example has K sequences to pad (source and target).
    """

    def __init__(
        self,
        lengths: np.ndarray,
        *,
        batch_size: int,
        batch_tokens: int | None = None,
        seed: int,
        shuffle: bool,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        max_padding: float = 0.05,
    ) -> None:
        super().__init__()
        self.lengths = np.asarray(lengths).reshape(len(lengths), -1)
        self.batch_tokens, self.seed, self.shuffle = batch_tokens, seed, shuffle
        self.rank, self.world_size, self.drop_last = rank, world_size, drop_last
        # examples of a batch: with batch_tokens about so many
        mean = max(1.0, float(self.lengths.sum(axis=1).mean()))
        self.batch_size = batch_size if batch_tokens is None else max(1, int(batch_tokens / mean))
        self.steps: int | None = None
        if not shuffle:
            longest_first = _by_length(self.lengths, np.arange(len(lengths)))[::-1]
            self._fixed = self._cut(longest_first)
            return
        self.most = max(1, -(-len(lengths) // (self.batch_size * world_size)))
        self.pool = min(8, self.most)  # in steps of all ranks together
        # of whole steps, so that the order is one for as many examples a step on fewer ranks
        while self.pool < self.most and self._padding(parts=1) > max_padding:
            self.pool = min(2 * self.pool, self.most)
        if batch_tokens is not None:
            # the same for every epoch, as Lightning asks once: some more than the first epoch
            # takes, and no fewer than all examples in one pool, to which an epoch falls back
            order = self._random(0).permutation(len(self.lengths))
            some, least = (len(self._pooled(order, pool)) for pool in (self.pool, self.most))
            most = max(1, len(self.lengths) // world_size)
            self.steps = min(most, max(math.ceil(1.005 * some), least))

    def __len__(self) -> int:
        if not self.shuffle:
            return sum(len(batch) > self.rank for batch in self._fixed)
        if self.steps is not None:
            return self.steps
        return len(self._by_number(max(len(self.lengths), self.world_size))) - 1

    def batches(self, epoch: int) -> Batches:
        together = self._together(epoch) if self.shuffle else self._fixed
        mine = (batch[self.rank :: self.world_size].tolist() for batch in together)
        return (batch for batch in mine if batch)  # without any: fewer examples than ranks

    def padding(self, epoch: int = 0) -> float:
        """Share of the padded batches' cells that hold nothing, over all ranks."""
        return self._padding(epoch, parts=self.world_size)

    def _padding(self, epoch: int = 0, *, parts: int) -> float:
        """The same where each step is padded in so many parts."""
        together = self._together(epoch) if self.shuffle else self._fixed
        batches = [step[part::parts] for step in together for part in range(parts)]
        cells = sum(len(b) * self.lengths[b].max(axis=0).sum() for b in batches if len(b))
        real = sum(self.lengths[batch].sum() for batch in together)
        return 1.0 - float(real) / max(1.0, float(cells))

    def _random(self, epoch: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, epoch))

    def _together(self, epoch: int) -> list[np.ndarray]:
        """The batches of all ranks together; every `world_size`-th index is of one rank."""
        random, pool = self._random(epoch), self.pool
        order = random.permutation(len(self.lengths))
        steps = self._pooled(order, pool)
        while self.steps is not None and len(steps) > self.steps and pool < self.most:
            pool = min(2 * pool, self.most)
            steps = self._pooled(order, pool)
        return [steps[place] for place in random.permutation(len(steps))]

    def _pooled(self, order: np.ndarray, pool: int) -> list[np.ndarray]:
        """Examples in random order → steps, sorted by length within pools of so many steps."""
        size = self.batch_size * self.world_size * pool
        cuts: Any = range(size, len(order), size)
        if self.batch_tokens is not None:
            cuts = max(1, len(order) // size)  # of equal sizes: none has but a few long examples
        pools = [_by_length(self.lengths, pool) for pool in np.array_split(order, cuts)]
        if self.batch_tokens is not None:
            # up and down in turn, so that a step may span two pools; the shortest come last
            pools[-1::-2] = [up[::-1] for up in pools[-1::-2]]
        order = np.concatenate(pools)
        # no rank may be idle: fewer examples than ranks come more than once
        return self._cut(np.resize(order, max(len(order), self.world_size)))

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        if self.batch_tokens is None:
            bounds = self._by_number(len(order))
        else:
            bounds = by_tokens(
                self.lengths[order],
                tokens=self.batch_tokens,
                world_size=self.world_size,
                steps=self.steps,
            )
        return [order[start:end] for start, end in pairwise(bounds)]

    def _by_number(self, count: int) -> list[int]:
        size, world, drop = self.batch_size, self.world_size, self.drop_last
        return by_number(count, size=size, world_size=world, drop_last=drop)


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
        batches = (
            super().__iter__()
        )  # with workers it asks the sampler twice, and the second counts
        self.batch_sampler.start = 0
        for batch in batches:
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


def _as_it_is(batch: Any) -> Any:
    return batch
