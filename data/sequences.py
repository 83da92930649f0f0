"""Sequences of real vectors, all of one length and each of a class, that are in memory already."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from data.arrays import Split
from data.batches import IGNORE, SequenceBatch
from data.codec import Codec
from data.samplers import BucketBatchSampler, ResumableLoader
from data.spec import DataSpec


@dataclass(kw_only=True)
class SequencesCodec(Codec, kind="sequences"):
    """Vectors as they are."""

    def batch(self, raw: Sequence[Any]) -> SequenceBatch:
        rows = torch.as_tensor(np.asarray(raw, np.float32))
        return _batch(rows, torch.full((len(rows),), IGNORE), torch.arange(len(rows)))


class Sequences(LightningDataModule):
    """What a classifier of arrays reads: no files, no cache; training is shuffled in each epoch."""

    def __init__(
        self,
        splits: Mapping[str, Mapping[str, np.ndarray]],
        *,
        batch_size: int,
        seed: int,
    ) -> None:
        """`splits`: of train and validation the vectors (N, T, F) of each class, by name."""
        super().__init__()
        labels = tuple(splits["train"])
        self.batch_size, self.seed = batch_size, seed
        self.splits: dict[str, Split] = {}
        for split, classes in splits.items():
            inputs = np.concatenate([classes[label] for label in labels]).astype(np.float32)
            sizes = [len(classes[label]) for label in labels]
            targets = np.repeat(np.arange(len(labels)), sizes)
            self.splits[split] = Split(arrays={"inputs": inputs, "targets": targets})
        features = self.splits["train"].flat("inputs").shape[-1]
        self.spec = DataSpec(input_features=features, labels=labels)
        self.codec = SequencesCodec(labels=labels)

    def train_dataloader(self) -> Any:
        return self.loader("train")

    def val_dataloader(self) -> Any:
        return self.loader("validation")

    def loader(self, split: str) -> Any:
        rows = _Rows(self.splits[split])
        sampler = BucketBatchSampler(
            np.ones(len(rows), np.int64),
            batch_size=self.batch_size,
            seed=self.seed,
            shuffle=split == "train",
        )
        return ResumableLoader(rows, sampler, seed=self.seed)


class _Rows:
    """A batch of indices → a batch of tensors."""

    def __init__(self, split: Split) -> None:
        self.inputs, self.targets = split.flat("inputs"), split.flat("targets")

    def __len__(self) -> int:
        return len(self.targets)

    def __getitems__(self, indices: list[int]) -> SequenceBatch:
        inputs, targets = (torch.from_numpy(a[indices]) for a in (self.inputs, self.targets))
        return _batch(inputs, targets, torch.tensor(indices))


def _batch(inputs: Tensor, targets: Tensor, index: Tensor) -> SequenceBatch:
    lengths = torch.full((len(inputs),), inputs.size(1))
    return SequenceBatch(inputs, lengths, targets, index)
