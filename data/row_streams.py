"""Training rows as a `datasets.IterableDataset`: read on and on, never held or written."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, Features, IterableDataset

from data.files import column_array
from data.large_files import as_texts, chunks
from data.sources import (
    Loaded,
    Source,
    check_columns,
    check_train,
    is_saved,
    load_hub,
    normalised,
    read_saved,
    split_files,
)

PASSAGE = 2000  # characters of running text, at least, that stay together when rows are shuffled
Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RowStream:
    """The training rows of a source, without those that stand in for a missing split.

    A missing validation or test split is `held_out` rows from the beginning of training; only
    files of one's own can give them.
    """

    source: Source
    columns: tuple[str, ...]
    held_out: int

    def rows(self, *, passages: bool = False) -> IterableDataset:
        """In the order of the files; `passages`: of rows of text that are joined by line ends."""
        if self._files:
            settings = {"columns": self.columns, "passages": passages}
            shards = {"shards": [(str(file), first) for file, first in self._first.items()]}
            return IterableDataset.from_generator(_rows_of, gen_kwargs=shards | settings)
        rows = self._found["train"]
        if self.source.root is not None:
            rows = rows.to_iterable_dataset(num_shards=min(64, len(rows)))
        rows = rows.select_columns(list(self.columns))
        return rows.map(_joined, batched=True) if passages else rows

    def load(self, sample: int) -> Loaded:
        """Validation and test, and the first `sample` rows of training."""
        loaded = Loaded({}, {})
        stream = self.rows()
        first = list(islice(stream, sample))
        if not first:
            raise ValueError(
                f"{self.source}: no training row is left beside the {self.held_out} rows that "
                "data.held_out takes for each missing split: set it lower, or give a file for each"
            )
        loaded.splits["train"] = table(first, stream.features)
        loaded.notes["learnt_from"] = f"{len(first)} rows from the beginning"
        for split in ("validation", "test"):
            loaded.splits[split] = self._split(split)
            if split in self._taken:
                count = len(self._taken[split])
                loaded.notes[f"{split}_from"] = f"train, {count} rows from the beginning"
        return loaded

    def _split(self, split: str) -> Dataset:
        if split in self._taken:
            return table(self._taken[split], None)
        if self._files:
            return table(
                list(_rows_of([(str(f), 0) for f in self._files[split]], self.columns)), None
            )
        rows = self._found[split].select_columns(list(self.columns))
        return table(list(rows), rows.features)

    @cached_property
    def _files(self) -> dict[str, list[Path]]:
        """Files by split; none where the source is the Hub or a folder that `datasets` saved."""
        root = self.source.root
        found = {} if root is None or is_saved(root) else split_files(root)
        if found:
            check_train(found, self.source)
        return found

    @cached_property
    def _found(self) -> dict[str, Any]:
        root = self.source.root
        found: dict[str, Any] = (
            normalised(dict(load_hub(self.source, streaming=True)))
            if root is None
            else read_saved(root)
        )
        check_train(found, self.source)
        for split, rows in found.items():
            if rows.column_names is not None:
                check_columns(self.columns, rows.column_names, f"{self.source} ({split})")
        missing = [split for split in ("validation", "test") if split not in found]
        if missing:
            raise ValueError(
                f"{self.source} has no {' and no '.join(missing)} split, and data.streaming=true "
                "takes rows out of files of your own alone (data.path): leave data.streaming out"
            )
        return found

    @cached_property
    def _taken(self) -> dict[str, list[Row]]:
        """Rows from the beginning of the training files, by the split that they are taken for."""
        taken: dict[str, list[Row]] = {}
        for split in ("validation", "test") if self._files else ():
            if split not in self._files:
                before = sum(map(len, taken.values()))
                shards = [(str(file), 0) for file in self._files["train"]]
                rows = _rows_of(shards, self.columns)
                taken[split] = list(islice(rows, before, before + self.held_out))
        return taken

    @cached_property
    def _first(self) -> dict[Path, int]:
        """How many rows of each training file are not trained on."""
        left = sum(map(len, self._taken.values()))
        first = {}
        for file in self._files["train"]:
            inside = islice(_rows_of([(str(file), 0)], self.columns), left)
            first[file] = sum(1 for _ in inside)
            left -= first[file]
        return first


def table(rows: list[Row], features: Features | None) -> Dataset:
    """Rows in memory, of the types of the stream where it says which they are."""
    if features is not None:
        return Dataset.from_list(rows, features=features)
    names = rows[0] if rows else {}
    return Dataset(pa.table({name: column_array([row[name] for row in rows]) for name in names}))


def _rows_of(
    shards: list[tuple[str, int]], columns: Sequence[str], passages: bool = False
) -> Iterator[Row]:
    for file, first in shards:
        place = 0
        for part in chunks(Path(file), columns):
            check_columns(columns, part.column_names, file)
            rows = part.select(list(columns)).slice(max(0, first - place))
            place += len(part)
            batch = rows.to_pydict()
            if passages:
                batch = _joined(batch)
            yield from (
                dict(zip(batch, row, strict=True)) for row in zip(*batch.values(), strict=True)
            )


def _joined(batch: dict[str, list[Any]]) -> dict[str, list[str]]:
    """Rows of one column that go on from one another → passages, each with its line ends."""
    ((column, rows),) = batch.items()
    passages: list[str] = []
    some: list[str] = []
    held = 0
    for row in as_texts(rows):
        some.append(f"{row}\n")
        held += len(row) + 1
        if held >= PASSAGE:
            passages.append("".join(some))
            some, held = [], 0
    if some:
        passages.append("".join(some))
    return {column: passages}
