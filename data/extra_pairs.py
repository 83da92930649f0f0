"""Synthetic pairs that training reads beside the real ones: back-translation."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset, concatenate_datasets

from data.arrays import Ragged
from data.files import is_rows, read_file
from data.large_files import is_large, read_large
from data.sources import check_columns


@dataclass(frozen=True, kw_only=True)
class ExtraPairs:
    """Pairs of a file, made from texts of the target by a model of the other direction.

    Sennrich et al. 2016, arXiv 1511.06709. `ratio` is how many there are for each real pair, at
    most (drawn once, by the data's `split_seed`); None: all. With `tag` their sources begin with a
    symbol that no real source has, so that the model tells them apart (Caswell et al. 2019, arXiv
    1906.06442).
    """

    file: str | None = None
    ratio: float | None = 1.0
    tag: bool = False

    def __post_init__(self) -> None:
        if self.ratio is not None and not self.ratio > 0:
            raise ValueError(
                f"data.extra.ratio is above 0, or null for all pairs, got {self.ratio}: to leave "
                "the pairs out unset data.extra.file"
            )
        if self.tag and self.file is None:
            raise ValueError("data.extra.tag=true marks the pairs of data.extra.file: set it too")

    def content(self) -> str | None:
        """A hash of the file, for the cache of prepared data."""
        if self.file is None:
            return None
        with self._path().open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=8)).hexdigest()

    def after(
        self, real: Dataset, columns: Sequence[str], *, seed: int, scratch: Path | None
    ) -> Dataset:
        """The real rows with these after them."""
        if self.file is None:
            return real
        file, named = self._path(), list(columns)
        large = scratch is not None and is_large(file)
        rows = read_large(file, named, scratch) if large and scratch else read_file(file, named)
        check_columns(named, rows.column_names, f"data.extra.file={self.file}")
        rows = rows.select_columns(named)
        count = len(rows) if self.ratio is None else round(self.ratio * len(real))
        if count < len(rows):
            drawn = np.random.default_rng(seed).permutation(len(rows))[:count]
            rows = rows.select(np.sort(drawn))
        real = real.select_columns(named)
        return concatenate_datasets([real, rows.cast(real.features)])

    def _path(self) -> Path:
        file = Path(self.file or "").expanduser()
        if not file.is_file() or not is_rows(file):
            raise ValueError(
                f"data.extra.file={self.file} is no file of rows: make one with predict.py "
                "REVERSE_RUN --file TEXTS --format pairs > pairs.jsonl"
            )
        return file


def begun(ids: Ragged, chosen: np.ndarray, symbol: int) -> Ragged:
    """Put a symbol before the rows that are `chosen` (N,)."""
    values = np.insert(ids.values, ids.offsets[:-1][chosen], symbol)
    return Ragged(values=values, offsets=ids.offsets + np.concatenate([[0], np.cumsum(chosen)]))
