from itertools import chain
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from data.samplers import BucketBatchSampler, ResumableLoader

LENGTHS = np.random.default_rng(0).lognormal(3, 0.6, 1003).astype(int) + 1


def bucketed(**changes: Any) -> BucketBatchSampler:
    settings = {"batch_size": 16, "seed": 1, "shuffle": True} | changes
    return BucketBatchSampler(LENGTHS, **settings)


class Numbers:
    def __getitems__(self, indices: list[int]) -> torch.Tensor:
        return torch.tensor(indices)

    def __len__(self) -> int:
        return len(LENGTHS)


def test_every_example_comes_once_an_epoch() -> None:
    batches = list(bucketed())
    assert sorted(i for batch in batches for i in batch) == list(range(1003))
    assert len(batches) == len(bucketed()) == 63


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    first, second = bucketed(), bucketed()
    list(first), first.set_epoch(3), second.set_epoch(3)
    assert list(first) == list(second)
    second.set_epoch(4)
    assert list(first) != list(second)
    assert list(bucketed(seed=2)) != list(bucketed())


def test_padding_stays_under_a_tenth() -> None:
    assert bucketed().padding() < 0.1
    two_sides = np.stack([LENGTHS, np.random.default_rng(1).permutation(LENGTHS)], axis=1)
    related = np.stack([LENGTHS, LENGTHS + np.arange(1003) % 5], axis=1)
    for lengths, most in ((two_sides, 0.5), (related, 0.1)):
        sampler = BucketBatchSampler(lengths, batch_size=16, seed=1, shuffle=True)
        assert sampler.padding() < most


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_an_epoch_in_equal_parts(world: int) -> None:
    ranks = [list(bucketed(rank=rank, world_size=world)) for rank in range(world)]
    assert len({len(batches) for batches in ranks}) == 1
    seen = sorted(i for batches in ranks for batch in batches for i in batch)
    assert seen == list(range(1003))
    assert all(batch for batches in ranks for batch in batches)


@pytest.mark.parametrize("world", [2, 4])
def test_as_many_examples_a_step_are_the_same_steps_on_any_number_of_ranks(world: int) -> None:
    one = bucketed(batch_size=8 * world)
    ranks = [bucketed(batch_size=8, rank=rank, world_size=world) for rank in range(world)]
    for epoch in range(3):
        together = zip(*(sampler.batches(epoch) for sampler in ranks), strict=True)
        steps = [sorted(chain(*parts)) for parts in together]
        assert steps == [sorted(step) for step in one.batches(epoch)]


def test_fewer_examples_than_ranks_leave_no_rank_idle() -> None:
    for rank in range(4):
        sampler = BucketBatchSampler(
            np.ones(3), batch_size=2, seed=1, shuffle=True, rank=rank, world_size=4
        )
        assert len(sampler) == len(list(sampler)) == 1


def test_drop_last_leaves_full_batches_only() -> None:
    batches = list(bucketed(drop_last=True))
    assert {len(batch) for batch in batches} == {16} and len(batches) == len(
        bucketed(drop_last=True)
    )


def test_evaluation_sees_every_example_once_over_all_ranks() -> None:
    ranks = [bucketed(shuffle=False, rank=rank, world_size=3) for rank in range(3)]
    seen = sorted(i for sampler in ranks for batch in sampler for i in batch)
    assert seen == list(range(1003))
    longest_first = [LENGTHS[batch].max() for batch in ranks[0]]
    assert longest_first == sorted(longest_first, reverse=True)


def cells(lengths: np.ndarray, batch: list[int]) -> int:
    """What a padded batch holds: for each of the K sequences, examples times the longest."""
    return int(len(batch) * lengths.reshape(len(lengths), -1)[batch].max(axis=0).sum())


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 400), st.integers(1, 3), st.integers(1, 5), st.integers(1, 2),
    st.one_of(st.integers(1, 40).map(lambda n: {"batch_size": n}),
              st.integers(1, 700).map(lambda n: {"batch_tokens": n})),
    st.booleans(), st.integers(0, 3),
)  # fmt: skip
def test_every_rank_has_as_many_batches_and_every_example_comes_once(
    count: int, world: int, seed: int, sides: int, size: dict, shuffle: bool, epoch: int
) -> None:
    lengths = np.random.default_rng(seed).lognormal(2.5, 0.7, (count, sides)).astype(int) + 1
    ranks = []
    for rank in range(world):
        sampler = BucketBatchSampler(
            lengths, **{"batch_size": 7} | size, seed=seed, shuffle=shuffle, rank=rank,
            world_size=world,
        )  # fmt: skip
        sampler.set_epoch(epoch)
        ranks.append(list(sampler))
        assert len(ranks[-1]) == len(sampler)
    seen = sorted(i for batches in ranks for batch in batches for i in batch)
    if count >= world:
        assert seen == list(range(count))
        assert len({len(batches) for batches in ranks}) == 1
        assert all(batch for batches in ranks for batch in batches)
    else:
        assert set(seen) == set(range(count))
        assert not shuffle or [len(batches) for batches in ranks] == [1] * world
    over = 0
    for batches in ranks:
        for batch in batches:
            if "batch_size" in size:
                over += len(batch) > size["batch_size"]
            else:
                over += cells(lengths, batch) > size["batch_tokens"] and len(batch) > 1
    # the examples that are too few for a step of all ranks join one other step
    assert over <= (world - 1 if count % world else 0)
    if over:
        usual = np.percentile(lengths.sum(1), 75 if count > 50 else 100)
        assert size.get("batch_size") == 1 or size.get("batch_tokens", 0) < 2 * usual


def test_batches_by_tokens_hold_as_many_as_fit() -> None:
    sampler = bucketed(batch_tokens=2000)
    batches = list(sampler)
    held = [cells(LENGTHS, batch) for batch in batches]
    assert max(held) <= 2000 and np.mean(held) > 0.85 * 2000
    assert max(map(len, batches)) > 3 * min(map(len, batches))  # short texts, many a batch
    assert len(list(bucketed(batch_tokens=500))) > 3 * len(batches)
    alone = [batch for batch in bucketed(batch_tokens=1) if len(batch) == 1]
    assert len(alone) == 1003


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_every_epoch_by_tokens_has_as_many_batches(world: int, sides: int) -> None:
    lengths = np.stack([LENGTHS, LENGTHS + np.arange(1003) % 5], axis=1)[:, :sides]
    sampler = BucketBatchSampler(
        lengths, batch_size=1, batch_tokens=700, seed=3, shuffle=True, world_size=world
    )
    epochs = []
    for epoch in range(12):
        sampler.set_epoch(epoch)
        epochs.append(list(sampler))
        assert len(epochs[-1]) == len(sampler)
        assert sampler.padding(epoch) < 0.12
    assert len({str(batches) for batches in epochs}) == 12
    again = BucketBatchSampler(
        lengths, batch_size=1, batch_tokens=700, seed=3, shuffle=True, world_size=world
    )
    again.set_epoch(7)
    assert list(again) == epochs[7]


def test_the_padding_told_is_the_padding_there_is() -> None:
    for changes in ({}, {"batch_tokens": 900}, {"world_size": 3}, {"shuffle": False}):
        ranks = range(changes.get("world_size", 1))
        batches = [b for rank in ranks for b in bucketed(**changes, rank=rank)]
        real = sum(int(LENGTHS[batch].sum()) for batch in batches)
        held = sum(cells(LENGTHS, batch) for batch in batches)
        assert bucketed(**changes).padding() == pytest.approx(1 - real / held)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loader_goes_on_after_the_last_batch_it_handed_out(workers: int) -> None:
    whole = ResumableLoader(Numbers(), bucketed(), seed=1)
    whole.batch_sampler.set_epoch(2)
    batches = [batch.tolist() for batch in whole]

    stopped = ResumableLoader(Numbers(), bucketed(), seed=1)
    stopped.batch_sampler.set_epoch(2)
    iterator = iter(stopped)
    for _ in range(10):
        next(iterator)
    resumed = ResumableLoader(Numbers(), bucketed(), seed=1, num_workers=workers)
    resumed.load_state_dict(stopped.state_dict())
    iterator = iter(resumed)
    resumed.batch_sampler.set_epoch(2)  # as Lightning does: after `iter`, before the first batch
    assert [batch.tolist() for batch in iterator] == batches[10:]
    assert resumed.state_dict() == {"epoch": 2, "batches": 63}
    resumed.batch_sampler.set_epoch(3)
    assert len(list(resumed)) == 63


def test_making_batches_draws_nothing_from_the_global_generator() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(ResumableLoader(Numbers(), bucketed(), seed=1))
    assert torch.equal(torch.get_rng_state(), before)


class Recorder(LightningModule):
    def __init__(self, loader: ResumableLoader) -> None:
        super().__init__()
        self.loader, self.seen = loader, []
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def train_dataloader(self) -> ResumableLoader:
        return self.loader

    def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
        self.seen.append(batch.tolist())
        return self.weight

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


@pytest.mark.parametrize("size", [{"batch_size": 100}, {"batch_tokens": 2600}], ids=str)
def test_lightning_resumes_in_the_middle_of_an_epoch(tmp_path: Any, size: dict) -> None:
    def fit(steps: int, resume: Any = None, **callbacks: Any) -> list[list[int]]:
        model = Recorder(ResumableLoader(Numbers(), bucketed(**size), seed=1))
        Trainer(
            max_steps=steps, logger=False, accelerator="cpu", enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, default_root_dir=tmp_path,
            **callbacks,
        ).fit(model, ckpt_path=resume)  # fmt: skip
        return model.seen

    keep = ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", every_n_train_steps=5, save_top_k=-1
    )
    whole = fit(30, callbacks=[keep], enable_checkpointing=True)
    saved = {int(file.stem.split("=")[1]): file for file in tmp_path.glob("*.ckpt")}
    for step in (5, 15, 25):
        assert fit(30, saved[step], enable_checkpointing=False) == whole[step:]
