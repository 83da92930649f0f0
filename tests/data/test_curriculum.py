"""A curriculum changes the order of the first epochs, and nothing else."""

from itertools import chain, pairwise
from typing import Any

import numpy as np
import pytest

from data.codec import TokenizerSettings
from data.curriculum import ShortestFirst
from data.samplers import BucketBatchSampler
from data.synthetic.recipes import Recipes

LENGTHS = np.random.default_rng(0).lognormal(3, 0.6, 203).astype(int) + 1
PAIRS = np.stack([LENGTHS, LENGTHS + np.arange(203) % 5], axis=1)
SIZES = [{"batch_size": 8}, {"batch_size": 1, "batch_tokens": 300}]
SAMPLED = pytest.mark.parametrize("lengths", [LENGTHS, PAIRS], ids=["one", "two"])
SIZED = pytest.mark.parametrize("size", SIZES, ids=["number", "tokens"])


def epoch(number: int, lengths: np.ndarray = LENGTHS, epochs: int = 2, **changes: Any) -> Any:
    settings = {"batch_size": 8, "seed": 1} | changes
    sampler = ShortestFirst(lengths, epochs=epochs, **settings)
    sampler.set_epoch(number)
    return sampler, list(sampler)


@SAMPLED
@SIZED
@pytest.mark.parametrize("world", [1, 3])
def test_first_epochs_grow_and_all_have_every_example_once(
    lengths: np.ndarray, size: dict[str, int], world: int
) -> None:
    counts = set()
    for number in range(4):
        ranks = [epoch(number, lengths, rank=r, world_size=world, **size) for r in range(world)]
        assert all(len(sampler) == len(batches) for sampler, batches in ranks)
        counts |= {len(batches) for _, batches in ranks}
        seen = sorted(i for _, batches in ranks for batch in batches for i in batch)
        assert seen == list(range(203))
        steps = [[*chain(*parts)] for parts in zip(*(b for _, b in ranks), strict=True)]
        first = lengths.reshape(203, -1)[:, 0]
        grows = all(first[a].max() <= first[b].min() for a, b in pairwise(steps))
        assert grows == (number < 2)
    assert len(counts) == 1


@SIZED
def test_later_epochs_are_those_without_a_curriculum(size: dict[str, int]) -> None:
    plain = BucketBatchSampler(LENGTHS, **{"batch_size": 8} | size, seed=1, shuffle=True)
    plain.set_epoch(2)
    sampler, batches = epoch(2, **size)
    assert batches == list(plain) and len(sampler) == len(plain)


def test_seed_and_epoch_alone_decide() -> None:
    assert epoch(1)[1] == epoch(1)[1]
    assert epoch(1)[1] != epoch(0)[1]  # examples of one length change their places
    assert epoch(0)[1] != epoch(0, seed=2)[1]


def test_a_resumed_epoch_gets_the_batches_that_were_due() -> None:
    whole = epoch(0)[1]
    sampler, _ = epoch(0)
    sampler.start = 5
    assert list(sampler) == whole[5:]


def test_data_says_how_many_epochs(tmp_path: Any) -> None:
    def recipes(**changes: Any) -> Recipes:
        return Recipes(
            name="recipes", cache_dir=str(tmp_path), seed=1, batch_size=4, train_size=40,
            validation_size=8, test_size=8, tokenizer=TokenizerSettings(), **changes,
        )  # fmt: skip

    data, plain = recipes(curriculum_epochs=1), recipes()
    data.setup(), plain.setup()
    assert data.fingerprint == plain.fingerprint
    assert data._cache_folder() == plain._cache_folder()
    longest = [int(batch.lengths.max()) for batch in data.train_dataloader()]
    assert longest == sorted(longest) and longest[0] < longest[-1]
    assert type(plain.sampler("train")) is BucketBatchSampler
    assert type(data.sampler("validation")) is BucketBatchSampler
    with pytest.raises(ValueError, match=r"data\.curriculum_epochs must be at least 0, got -1"):
        recipes(curriculum_epochs=-1)
