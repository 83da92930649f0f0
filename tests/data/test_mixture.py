"""How often each part of a mixture comes, in which order, and that it reads as it does alone."""

import math
from collections import Counter
from collections.abc import Mapping
from functools import partial
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import pytest

from data.mixed import Mixed
from data.mixture import MixtureSampler, counts, shares
from data.samplers import BucketBatchSampler

SIZES = {"large": 900, "middle": 90, "small": 9}


def samplers(examples: Mapping[str, int], *, rank: int = 0, world: int = 1) -> dict[str, Any]:
    """Those of parts of so many examples, four in a batch."""
    return {
        name: BucketBatchSampler(
            np.arange(1, count + 1), batch_size=4, seed=7, shuffle=True, rank=rank, world_size=world
        )
        for name, count in examples.items()
    }


def mixture(
    steps: Mapping[str, int], *, group: int = 1, rank: int = 0, world: int = 1
) -> MixtureSampler:
    parts = samplers({"long": 40, "short": 12}, rank=rank, world=world)
    return MixtureSampler(parts, steps=steps, group=group, seed=3)


def epoch(sampler: MixtureSampler, number: int) -> list[Any]:
    sampler.set_epoch(number)
    return list(sampler)


def test_temperature_1_is_proportional_and_infinity_is_uniform() -> None:
    assert shares(SIZES, 1.0) == pytest.approx(
        {"large": 900 / 999, "middle": 90 / 999, "small": 9 / 999}
    )
    assert shares(SIZES, math.inf) == pytest.approx(dict.fromkeys(SIZES, 1 / 3))
    five = shares(SIZES, 5.0)
    assert five["large"] / five["middle"] == pytest.approx(10 ** (1 / 5))
    assert shares(SIZES, 0.01)["large"] == pytest.approx(1.0)


@pytest.mark.parametrize("temperature", [1.0, 5.0, math.inf])
def test_an_epoch_holds_each_part_as_often_as_its_share_says(temperature: float) -> None:
    share = shares(SIZES, temperature)
    for steps in (333, 1000, 999):
        found = counts(share, steps)
        assert sum(found.values()) == steps
        assert all(abs(found[name] - share[name] * steps) < 1 for name in SIZES)
    if temperature == 1.0:
        assert counts(share, 999) == SIZES


def test_a_share_of_no_step_and_a_temperature_of_0_are_refused() -> None:
    with pytest.raises(ValueError, match=r"small has a share of 0\.009.*none of 10 steps"):
        counts(shares(SIZES, 1.0), 10)
    with pytest.raises(ValueError, match=r"data\.temperature is above 0.*got 0"):
        shares(SIZES, 0)


def test_the_order_depends_on_seed_and_epoch_alone_and_is_random() -> None:
    steps = {"long": 200, "short": 200}
    sampler = mixture(steps)
    order = sampler.order(0)
    assert order == mixture(steps).order(0) != sampler.order(1)
    assert Counter(order) == steps
    # runs of one part in a random order: mean 1 + 2·200·200/400, deviation below 10.1
    runs = 1 + sum(a != b for a, b in pairwise(order))
    assert abs(runs - 201) < 4 * 10.1


def test_an_epoch_at_temperature_1_reads_every_example_once() -> None:
    sampler = mixture({"long": 10, "short": 3})
    for number in range(3):
        read = epoch(sampler, number)
        for part, count in (("long", 40), ("short", 12)):
            seen = sorted(chain(*(batch for batch in read if batch.part == part)))
            assert seen == list(range(count))


def test_a_part_reads_the_batches_that_it_reads_alone_epoch_after_epoch() -> None:
    sampler = mixture({"long": 4, "short": 9})  # long: less than an epoch, short: three of them
    read = [epoch(sampler, number) for number in range(5)]
    for part, alone in samplers({"long": 40, "short": 12}).items():
        wanted = chain.from_iterable(
            [(number, batch) for batch in alone.batches(number)] for number in range(20)
        )
        found = [(b.epoch, list(b)) for batches in read for b in batches if b.part == part]
        assert found == list(islice(wanted, len(found)))


def test_it_goes_on_in_the_middle_of_an_epoch() -> None:
    sampler = mixture({"long": 4, "short": 9})
    whole = epoch(sampler, 2)
    sampler.start = 5
    rest = iter(sampler)
    sampler.start = 0  # as the loader does before the first batch is asked for
    assert [(b.part, list(b)) for b in rest] == [(b.part, list(b)) for b in whole[5:]]


def test_all_ranks_take_the_same_part_at_a_step_and_share_its_examples() -> None:
    both = [epoch(mixture({"long": 5, "short": 2}, rank=rank, world=2), 1) for rank in (0, 1)]
    for one, other in zip(*both, strict=True):
        assert one.part == other.part
        assert not set(one) & set(other)


def test_batches_that_are_accumulated_are_of_one_part() -> None:
    sampler = mixture({"long": 5, "short": 2}, group=3)
    read = [batch.part for batch in epoch(sampler, 0)]
    assert len(read) == len(sampler) == 21
    assert all(len(set(read[place : place + 3])) == 1 for place in range(0, 21, 3))


class Part:
    """Of a mixture: what it is asked for its order."""

    def __init__(self, examples: int, **given: Any) -> None:
        self.examples, self.given, self.streaming = examples, given, False

    def sampler(self, split: str) -> Any:
        return samplers({"only": self.examples})["only"]


def mixed(**settings: Any) -> Mixed:
    """Ten batches of one part and three of another."""
    own: dict[str, Any] = {"parts": {"long": partial(Part, 40), "short": partial(Part, 12)}}
    given = {"name": "mixed", "cache_dir": "", "seed": 3, "batch_size": 4, **own, **settings}
    return Mixed(**given)


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({}, {"long": 10, "short": 3}),
        ({"temperature": math.inf, "epoch_steps": 6}, {"long": 3, "short": 3}),
        ({"temperature": 2.0}, {"long": 8, "short": 5}),  # √10 : √3 = 8.40 : 4.60
        ({"proportions": {"short": 30, "long": 10}, "epoch_steps": 8}, {"long": 2, "short": 6}),
    ],
)
def test_a_mixture_is_by_size_and_temperature_or_by_proportions(
    settings: dict[str, Any], steps: dict[str, int]
) -> None:
    data = mixed(**settings)
    assert data.sampler().steps == steps
    assert Counter(batch.part for batch in data.sampler()) == steps
    given = {"data_dir": None, "cache_dir": "", "seed": 3, "batch_size": 4, "num_workers": 0}
    assert all(part.given == given for part in data.modules.values())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"proportions": {"long": 1}}, "must give a share above 0 to each of long, short"),
        ({"proportions": {"long": 1, "short": 0}}, "must give a share above 0"),
        ({"proportions": {"long": 1, "short": 1}, "temperature": 2.0}, "leave out one of them"),
        ({"epoch_steps": 0}, "data.epoch_steps must be at least 1, got 0"),
        ({"batch_size": 0}, "data.batch_size must be at least 1, got 0"),
    ],
)
def test_a_mixture_that_cannot_be_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        mixed(**settings)
