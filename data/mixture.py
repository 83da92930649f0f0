"""How often each part of a mixture comes, and in which order: a matter of (seed, epoch) alone.

Positions are counted, not drawn, so that every epoch holds each part exactly as often as it should,
and a part's own batches come as they would if it were trained alone.
"""

import math
from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np

from data.samplers import Batches, BatchSampler, Indices


class PartIndices(Indices):
    """The examples of a batch, their part, and the epoch of that part."""

    part = ""


def shares(sizes: Mapping[str, int], temperature: float) -> dict[str, float]:
    """Each part's share, proportional to size ^ (1 / temperature).

    1 is proportional, inf gives all parts the same; what lies between favours small ones
    (Arivazhagan et al. 2019, arXiv 1907.05019, with 5).
    """
    if not temperature > 0.0:
        raise ValueError(f"data.temperature is above 0 (1: by size; inf: alike), got {temperature}")
    # of logarithms, so that a small temperature does not overflow
    logs = {name: math.log(size) / temperature for name, size in sizes.items()}
    most = max(logs.values())
    weights = {name: math.exp(value - most) for name, value in logs.items()}
    return {name: weight / sum(weights.values()) for name, weight in weights.items()}


def counts(share: Mapping[str, float], steps: int) -> dict[str, int]:
    """Shares → whole steps that add up to `steps`, each less than one step from its share.

    ValueError where a part would never come.
    """
    exact = {name: part * steps for name, part in share.items()}
    found = {name: math.floor(value) for name, value in exact.items()}
    nearest = sorted(found, key=lambda name: found[name] - exact[name])  # largest remainder first
    for name in nearest[: steps - sum(found.values())]:
        found[name] += 1
    for name, count in found.items():
        if count == 0:
            raise ValueError(
                f"{name} has a share of {share[name]:.3g}, which is none of {steps} steps: set "
                "data.epoch_steps higher, or another data.proportions or data.temperature"
            )
    return found


class MixtureSampler(BatchSampler):
    """`steps` of each part an epoch in a random order, the same on all ranks.

    A step is `group` batches, all of one part: those that are accumulated. Each part reads on where
    it stopped in the epoch before; when it is through it begins an epoch of its own. The samplers
    are those with which each part trains alone, and give as many batches on every rank.
    """

    def __init__(
        self,
        samplers: Mapping[str, BatchSampler],
        *,
        steps: Mapping[str, int],
        group: int = 1,
        seed: int,
    ) -> None:
        super().__init__()
        self.samplers, self.steps, self.group, self.seed = dict(samplers), steps, group, seed

    def __len__(self) -> int:
        return self.group * sum(self.steps.values())

    def order(self, epoch: int) -> list[str]:
        """The part of each step of an epoch."""
        names = np.repeat(list(self.steps), list(self.steps.values()))
        return [str(name) for name in np.random.default_rng((self.seed, epoch)).permutation(names)]

    def batches(self, epoch: int) -> Batches:
        done = {name: epoch * self.group * count for name, count in self.steps.items()}
        readers = {name: self._from(name, place) for name, place in done.items()}
        for name in self.order(epoch):
            yield from islice(readers[name], self.group)

    def __iter__(self) -> Iterator[list[int]]:
        # as the base class has it, but each batch knows the epoch of its part already
        start, epoch = self.start, self.epoch
        return iter(islice(self.batches(epoch), start, None))

    def _from(self, name: str, place: int) -> Iterator[PartIndices]:
        """A part's batches from a place on, epoch after epoch of its own."""
        sampler = self.samplers[name]
        epoch, done = divmod(place, len(sampler))
        while True:
            for batch in islice(sampler.batches(epoch), done, None):
                indices = PartIndices.of(batch, epoch)
                assert isinstance(indices, PartIndices)
                indices.part = name
                yield indices
            epoch, done = epoch + 1, 0
