"""Training on a stream of rows: what does not fit on the disk, or is not worth preparing."""

import copy
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, islice
from typing import Any, ClassVar, NamedTuple

import torch
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data.base import DataModule
from data.prepared import Prepared, Report
from data.row_streams import Row, RowStream, table
from data.samplers import BucketBatchSampler, Indices
from data.sources import Loaded

NO_END = (
    "data.streaming=true reads on without end: say how long to train with trainer.max_steps=10000, "
    "or give an epoch a length with trainer.limit_train_batches=1000"
)
POOL = 32  # batches: as many examples are sorted by length before they are cut into batches


@dataclass(kw_only=True, eq=False)
class Streamed(DataModule):
    """Mixed into kinds of data whose training rows may be a stream (`streaming`).

    The tokenizer, the classes and the scale of real labels are learnt from the first
    `tokenizer_rows` rows of training, validation and test are prepared as ever, and batches are
    made of rows as they are read. Training has no end: after the last row comes the first one of
    the next pass, in another order. How many batches an epoch of the trainer has is
    `trainer.limit_train_batches`, else `trainer.max_steps` times those accumulated.

    Rows pass through a buffer of `shuffle_buffer` rows, from which they are drawn by
    (seed, pass). Each worker process of each rank reads a share: whole files where the number of
    files is a multiple of the readers', else every n-th row of n readers.
    """

    streaming: bool = False
    shuffle_buffer: int = 10_000
    tokenizer_rows: int = 100_000
    held_out: int = 1000  # rows from the beginning for each split that is missing

    joins_workers: ClassVar[bool] = False  # a batch's rows are shared out among the workers
    not_prepared: ClassVar[frozenset[str]] = DataModule.not_prepared | {"shuffle_buffer"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shuffle_buffer", "tokenizer_rows", "held_out"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if not self.streaming:
            return
        if type(self).source_key is not DataModule.source_key:
            raise ValueError(
                f"data={self.name} is generated: there are no files to stream, leave out "
                "data.streaming"
            )
        if self.curriculum_epochs:
            raise ValueError(
                f"data.curriculum_epochs={self.curriculum_epochs} sorts all training rows, and a "
                "stream is never whole: leave it out"
            )
        if self.limit is not None:
            raise ValueError(
                f"data.limit={self.limit} takes so many rows of each split, and a stream is read "
                "as long as it is trained on: leave it out, trainer.max_steps says how long"
            )

    def load(self) -> Loaded:
        return self.row_stream().load(self.tokenizer_rows) if self.streaming else super().load()

    def row_stream(self) -> RowStream:
        columns = tuple(self.columns() or ())
        return RowStream(source=self.source(), columns=columns, held_out=self.held_out)

    def kept(self, prepared: Prepared) -> Prepared:
        if self.streaming:
            del prepared.splits["train"]  # what was learnt from is not what is trained on
            told = prepared.report.items()
            prepared.report = {k: v for k, v in told if not k.endswith("_train")}
        return prepared

    def report(self) -> Report:
        return self._ready().report if self.streaming else super().report()

    def loader(self, split: str) -> Any:
        if self.streaming and split == "train":
            return StreamLoader(self)
        return super().loader(split)

    def passes(self, *, reader: int, readers: int) -> Iterator[Row]:
        """One reader's share of the training rows, again and again, in another order each time."""
        rows = self.row_stream().rows(passages=self.joins_rows())
        for number in count():
            order, some = self.seed * 1_000_003 + number, rows
            if self.shuffle_buffer > 1:
                some = rows.shuffle(
                    seed=order % 2**32,
                    buffer_size=self.shuffle_buffer,
                    # files are read side by side, each by a thread: one alone needs none
                    max_buffer_input_shards=min(10, rows.num_shards),
                )
            share = split_dataset_by_node(some, rank=reader, world_size=readers)
            found = False
            # not its iterator: in a worker process that would take a share of the share
            for batch in share.iter(256):
                found = True
                for values in zip(*batch.values(), strict=True):
                    yield dict(zip(batch, values, strict=True))
            if not found:
                raise ValueError(
                    f"data {self.name!r} has too few training rows for {readers} readers "
                    "(ranks times data.num_workers): leave data.streaming out"
                )

    def joins_rows(self) -> bool:
        """Whether rows go on from one another, so that some are joined before they are shuffled."""
        return False

    def stream_batches(
        self, rows: Iterator[Row], *, worker: int, workers: int
    ) -> Iterator[NamedTuple]:
        """Rows without end → batches; pools of them are prepared as small data sets are."""
        features = self.row_stream().rows().features
        size = self.batch_size
        for number in count():
            pool = copy.copy(self)
            pool.given_codec, pool.streaming = self.codec, False
            pool.place = lambda: (0, 1)  # type: ignore[method-assign]
            part = table(list(islice(rows, POOL * size)), features)
            try:
                pool._prepared = pool.prepare({"train": part})
            except ValueError as error:
                raise ValueError(
                    f"{error} (the classes of a stream are those of its first "
                    f"data.tokenizer_rows={self.tokenizer_rows} rows)"
                ) from error
            sampler = pool.sampler("train")
            assert isinstance(sampler, BucketBatchSampler)
            size = sampler.batch_size  # with batch_tokens what a batch held of this pool
            for indices in sampler.batches(number):
                yield pool.collate("train", Indices.of(indices, number))


class StreamLoader:
    """Batches of a stream, without end; where it stopped is a number of batches.

    One that goes on from a saved state reads again what was read before, without training on it:
    that alone gives the same rows from the same shuffle buffers.
    """

    def __init__(self, data: Streamed) -> None:
        self.data = data
        self.handed_out = 0
        self._batches: Iterator[Any] | None = None

    def __len__(self) -> int:
        """Batches of one epoch of the trainer: it asks for so many, and may validate then."""
        trainer = self.data.trainer
        if trainer is None:
            raise TypeError("a stream of rows has no length of its own")
        limit = trainer.limit_train_batches
        if isinstance(limit, int) and not isinstance(limit, bool):
            return limit
        if trainer.max_steps < 1:
            raise ValueError(NO_END)
        return int(trainer.max_steps * trainer.accumulate_grad_batches)

    def __iter__(self) -> Iterator[Any]:
        if self._batches is None:
            self._batches = _batches(self.data, self.handed_out)
        while True:  # the next epoch of the trainer goes on where this one stops
            batch = next(self._batches)
            self.handed_out += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"batches": self.handed_out}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.handed_out, self._batches = state["batches"], None


def _batches(data: Streamed, done: int) -> Iterator[Any]:
    """Not a method: with its loader in a circle of references, workers would be told to end by the
    garbage collector, which takes their queues away first, and each is waited for in vain."""
    joins = data.joins_workers
    workers = min(data.num_workers, data.batch_size) if joins else data.num_workers
    loader: DataLoader[Any] = DataLoader(
        _Reader(data, done=done),
        batch_size=None,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator().manual_seed(data.seed),
    )
    parts = iter(loader)
    if joins and workers > 1:
        while True:
            rows = list(islice(parts, workers))
            yield type(rows[0])(*(torch.cat(tensors) for tensors in zip(*rows, strict=True)))
    for _ in range(done % max(1, workers)):
        next(parts)  # of the workers that had handed out one more than the others
    yield from parts


class _Reader(IterableDataset):  # type: ignore[type-arg]
    """One process's share of the batches, the first of them left out."""

    def __init__(self, data: Streamed, *, done: int) -> None:
        rank, world = data.place()
        self.data = copy.copy(data)
        self.data.trainer = None  # a worker that is spawned must not pickle the trainer
        self.data._ready()
        self.done, self.rank, self.world = done, rank, world

    def __iter__(self) -> Iterator[Any]:
        data, info = self.data, get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        if info is not None:  # the threads of the process that this one was forked from are gone
            os.environ["TOKENIZERS_PARALLELISM"] = "false"
        rows = data.passes(reader=self.rank * workers + worker, readers=self.world * workers)
        batches = data.stream_batches(rows, worker=worker, workers=workers)
        done = self.done if data.joins_workers else self.done // workers
        return islice(batches, done, None)
