"""What every data module shares: prepare once, open memory-mapped, hand out batches."""

import copy
import shutil
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from data.arrays import Ragged, Split, cut
from data.codec import Codec, TextCodec
from data.curriculum import ShortestFirst
from data.names import check_data_name
from data.prepared import Prepared, Report, cache_key, make_once
from data.samplers import BatchSampler, BucketBatchSampler, Indices, ResumableLoader
from data.sources import Loaded, Source, load
from data.spec import DataSpec

C = TypeVar("C", bound=Codec)
MOST_WORKERS = 256


class Example(NamedTuple):
    """One raw example: what goes in (text, a picture, numbers) and the right answers as text."""

    input: Any
    references: list[str]


@dataclass(kw_only=True, eq=False)
class DataModule(LightningDataModule):
    """Rows of `path`, of `data_dir/folder` or of the Hub, prepared once and cached.

    A kind of data says which columns it needs (`columns`), what becomes of the rows (`prepare`),
    how a batch is made (`collate`) and what an example is in raw form (`example`). Generated data
    overrides `load` and `source_key` as well; streams override `sampler`.
    """

    name: str
    cache_dir: str
    seed: int
    batch_size: int
    batch_tokens: int | None = None  # a training batch holds at most so many symbols, its padding
    # and both texts of a pair counted; batch_size is then not used
    curriculum_epochs: int = 0  # so many epochs read the shortest examples first
    eval_batch_size: int | None = None  # None: as in training
    num_workers: int = 0  # a batch costs microseconds: workers rarely pay
    max_length: int | None = None  # symbols an input may have; None: any number
    limit: int | None = None  # only so many rows of each split, for a quick look
    split_seed: int = 0  # carves out missing splits; apart from `seed`, so that runs of
    # different seeds are tested on the same rows
    path: str | None = None  # a folder or file of the user's own
    folder: str | None = None  # below data_dir
    data_dir: str | None = None
    hub_id: str | None = None
    hub_config: str | None = None
    revision: str | None = None

    in_order: ClassVar[bool] = False  # rows go on from one another: splits are taken in order

    # fields that change no prepared array; where rows lie is told by `source_key`
    not_prepared: ClassVar[frozenset[str]] = frozenset(
        {"name", "cache_dir", "batch_size", "batch_tokens", "eval_batch_size", "num_workers"}
        | {"curriculum_epochs"}
        | {"path", "folder", "data_dir", "hub_id", "hub_config", "revision"}
    )

    def __post_init__(self) -> None:
        super().__init__()
        for name, least in [("batch_size", 1), ("batch_tokens", 1), ("eval_batch_size", 1),
                            ("curriculum_epochs", 0), ("num_workers", 0), ("max_length", 1),
                            ("limit", 1), ("seed", 0), ("split_seed", 0)]:  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"data.{name} must be at least {least}, got {value}")
        check_data_name(self.name)
        if self.num_workers > MOST_WORKERS:
            raise ValueError(
                f"data.num_workers={self.num_workers} is a number of processes: {MOST_WORKERS} at "
                "most, and rarely more than the cores of a rank"
            )
        kind = type(self)
        stream = kind.sampler is not DataModule.sampler
        alike = stream or kind.lengths is DataModule.lengths
        what = "windows of a stream" if stream else "examples of one length"
        if self.curriculum_epochs and alike:
            raise ValueError(
                f"data.curriculum_epochs={self.curriculum_epochs} begins with the shortest "
                f"examples, but data {self.name!r} has {what}: set it to 0"
            )
        if self.batch_tokens is not None and alike:
            raise ValueError(
                f"data.batch_tokens={self.batch_tokens} cuts batches of texts of unequal length, "
                f"but data {self.name!r} has {what}: unset it and set data.batch_size"
            )
        self._prepared: Prepared | None = None
        self.fingerprint = ""
        self.scratch: Path | None = None  # while data is prepared: files that do not stay
        # of a trained model: set before the data is prepared, it is used in place of a new one
        self.given_codec: Codec | None = None

    # What a kind of data overrides

    @abstractmethod
    def columns(self) -> list[str] | None:
        """The columns that must exist in every split; None: whatever there is."""

    @abstractmethod
    def prepare(self, rows: dict[str, Any]) -> Prepared:
        """Rows of each split (a `datasets.Dataset`) → arrays, codec, spec and report."""

    @abstractmethod
    def collate(self, split: str, indices: list[int]) -> NamedTuple:
        """Examples of a split → one batch (data/batches.py)."""

    @abstractmethod
    def example(self, split: str, index: int) -> Example:
        """Example `index` of a split in raw form, for samples and corpus metrics."""

    def read(
        self,
        split: str,
        name: str,
        codec: TextCodec,
        indices: list[int],
        *,
        rows: list[int] | None = None,
        most: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encoded texts of a batch (`rows`, None: its indices) → ids (B, T) padded, lengths (B,).

        While training, BPE with dropout cuts them into other pieces in each epoch, which depend on
        the seed, the epoch and the batch alone.
        """
        ids = self.splits[split].ragged(name)
        rows = indices if rows is None else rows
        if split != "train" or not codec.settings.dropout:
            return ids.pad(rows)
        epoch = indices.epoch if isinstance(indices, Indices) else 0
        seed = [self.seed, epoch, indices[0], *name.encode()]
        again = codec.resegmented(
            Ragged.of([ids[row] for row in rows]), np.random.default_rng(seed)
        )
        return cut(again, most).pad(range(len(rows)))

    def lengths(self, split: str) -> np.ndarray:
        """Steps of each example, (N,) or (N, K) where K sequences are padded; all alike: ones."""
        return np.ones(len(self.splits[split]), np.int64)

    def sampler(self, split: str) -> BatchSampler:
        training = split == "train"
        rank, world = self.place()
        by_number = not training and self.eval_batch_size is not None
        kind: Callable[..., BatchSampler] = partial(BucketBatchSampler, shuffle=training)
        if training and self.curriculum_epochs:
            kind = partial(ShortestFirst, epochs=self.curriculum_epochs)
        return kind(
            self.lengths(split),
            batch_size=self.batch_size if training else self.eval_batch_size or self.batch_size,
            batch_tokens=None if by_number else self.batch_tokens,
            seed=self.seed,
            rank=rank,
            world_size=world,
        )

    def source(self) -> Source:
        """Where the rows lie: the user's path, the local copy, or the Hub."""
        return Source.choose(
            path=self.path, folder=self.folder, data_dir=self.data_dir, hub_id=self.hub_id,
            hub_config=self.hub_config, revision=self.revision, name=self.name,
        )  # fmt: skip

    def source_key(self) -> Any:
        """Plain data that changes when the rows may have changed."""
        return self.source().key()

    def load(self) -> Loaded:
        """Raw rows of train, validation and test."""
        return load(
            self.source(), columns=self.columns(), seed=self.split_seed,
            together=self.together(), in_order=self.in_order, scratch=self.scratch,
        )  # fmt: skip

    def kept(self, prepared: Prepared) -> Prepared:
        """What is written of that which was prepared."""
        return prepared

    def together(self) -> str | None:
        """The column whose equal rows belong in one split; None: found by looking."""
        return None

    # What Lightning, the tasks and the scripts use

    @property
    def splits(self) -> dict[str, Split]:
        return self._ready().splits

    @property
    def spec(self) -> DataSpec:
        return self._ready().spec

    @property
    def codec(self) -> Codec:
        return self._ready().codec

    def given(self, kind: type[C]) -> C | None:
        """The trained model's codec, if there is one. ValueError where it is of another kind."""
        if self.given_codec is not None and not isinstance(self.given_codec, kind):
            raise ValueError(
                f"the model was trained on data of kind {self.given_codec.kind}, but data "
                f"{self.name!r} is of kind {kind.kind}: choose data of the model's kind"
            )
        return self.given_codec

    def report(self) -> Report:
        """Sizes, padding, what was cut, left out or unknown: what the log should say."""
        padding = {}
        sampler = self.sampler("train")
        if isinstance(sampler, BucketBatchSampler):
            padding["padding"] = round(sampler.padding(), 4)
        return {**self._ready().report, **padding}

    def prepare_data(self) -> None:
        """Make the cache if there is none; every process may call it, one of them works."""
        make_once(self._cache_folder(), self._make)

    def _make(self, folder: Path) -> None:
        """Read, prepare and write all that `setup` opens."""
        self.scratch = folder / "scratch"
        try:
            loaded = self.load()
            rows = {split: self._limited(part) for split, part in loaded.splits.items()}
            prepared = self.kept(self.prepare(rows))
            sizes: Report = {split: len(part) for split, part in prepared.splits.items()}
            prepared.report = {**sizes, **loaded.notes, **prepared.report}
            prepared.save(folder)
            shutil.rmtree(self.scratch, ignore_errors=True)
        finally:
            self.scratch = None

    def setup(self, stage: str | None = None) -> None:
        self._open()
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if stage is not None and distributed:  # Lightning calls, on every rank
            self._check_ranks()

    def _check_ranks(self) -> None:
        """ValueError where ranks read other bytes: a machine may have an older copy of the data."""
        own = [""] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(own, self.fingerprint)
        if len(set(own)) > 1:
            told = ", ".join(f"rank {rank} {each}" for rank, each in enumerate(own))
            raise ValueError(
                f"ranks read different data {self.name!r} (fingerprints: {told}): give every "
                "machine the same files, or paths.data_dir and paths.cache_dir on a shared disk"
            )

    def _open(self) -> None:
        if self._prepared is not None:
            return
        self.prepare_data()
        self._prepared = Prepared.open(self._cache_folder())
        self.fingerprint = self._prepared.fingerprint

    def train_dataloader(self) -> Any:
        return self.loader("train")

    def val_dataloader(self) -> Any:
        return self.loader("validation")

    def test_dataloader(self) -> Any:
        return self.loader("test")

    def loader(self, split: str) -> Any:
        workers = self.num_workers
        return ResumableLoader(
            _Batches(self, split), self.sampler(split), seed=self.seed, num_workers=workers
        )

    def place(self) -> tuple[int, int]:
        """This process among those that train together: (rank, world size)."""
        if self.trainer is not None:
            return self.trainer.global_rank, self.trainer.world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _limited(self, rows: Any) -> Any:
        if self.limit is None or self.limit >= len(rows):
            return rows
        if self.in_order:
            return rows.select(range(self.limit))
        # not the first ones: files are often sorted by label
        order = np.random.default_rng(self.split_seed).permutation(len(rows))
        return rows.select(sorted(order[: self.limit].tolist()))

    def _ready(self) -> Prepared:
        if self._prepared is None:
            self._open()
        assert self._prepared is not None
        return self._prepared

    def _cache_folder(self) -> Path:
        names = {f.name for f in fields(self)} - self.not_prepared
        if type(self).source_key is DataModule.source_key:
            names.discard("seed")  # rows of files are the same for every seed
        settings = {name: getattr(self, name) for name in names}
        given = None if self.given_codec is None else self.given_codec.to_plain()
        key = cache_key(type(self).__name__, self.source_key(), settings, given)
        return Path(self.cache_dir).expanduser() / f"{self.name}-{key}"


class _Batches:
    """What the loader (and its workers) read: a batch of indices → a batch of tensors."""

    def __init__(self, data: DataModule, split: str) -> None:
        self.data = copy.copy(data)
        self.data.trainer = None  # a worker that is spawned must not pickle the trainer
        self.split = split

    def __len__(self) -> int:
        return len(self.data.splits[self.split])

    def __getitems__(self, indices: list[int]) -> NamedTuple:
        return self.data.collate(self.split, indices)
