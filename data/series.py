"""Numbers over time: forecast the next values of a table's columns."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from datasets import Value

from data.arrays import Ragged, Split
from data.base import DataModule, Example
from data.batches import SequenceBatch
from data.codec import Codec
from data.prepared import Prepared, Report
from data.spec import DataSpec
from data.units import mean_and_deviation, standard


@dataclass(kw_only=True)
class SeriesCodec(Codec, kind="series"):
    """Values → standard units of training; forecasts are restored to the data's own."""

    names: tuple[str, ...]
    horizon: int = 1

    def standard(self, values: np.ndarray) -> np.ndarray:
        return standard(values, self.target_mean, self.target_std, self.names)

    def parse(self, text: str) -> list[list[float]]:
        """Rows of numbers: "1 2; 3 4", lines in place of ";", commas in place of spaces."""
        rows = [row for row in re.split(r"[;\n]", text) if row.strip()]
        try:
            table = [[float(v) for v in re.split(r"[\s,]+", row.strip(" ,"))] for row in rows]
        except ValueError as error:
            raise ValueError(f"{text[:60]!r} is not rows of numbers: {error}") from error
        # one line of numbers of a series with one column: a number a step
        if len(self.names) == 1 and len(table) == 1:
            return [[value] for value in table[0]]
        return table

    def batch(self, raw: Sequence[Any]) -> SequenceBatch:
        """Series, each (T, K) or, of one column, (T,) numbers → inputs to forecast from."""
        rows = [self.standard(self._table(values, i)) for i, values in enumerate(raw)]
        inputs, lengths = Ragged.of(rows, np.float32).pad(range(len(rows)))
        return SequenceBatch(inputs, lengths, torch.zeros_like(inputs), torch.arange(len(rows)))

    def _table(self, values: Any, number: int) -> np.ndarray:
        try:
            table = np.asarray(values, np.float64)
        except (TypeError, ValueError) as error:
            raise ValueError(f"series {number} does not hold numbers only: {error}") from error
        table = table[:, None] if table.ndim == 1 and len(self.names) == 1 else table
        if table.ndim != 2 or table.shape[1] != len(self.names) or not len(table):
            raise ValueError(
                f"series {number} has the shape {table.shape}: it needs rows of "
                f"{len(self.names)} numbers ({', '.join(self.names)})"
            )
        if not np.isfinite(table).all():
            raise ValueError(f"series {number} has a value that is missing or infinite")
        return table


@dataclass(kw_only=True, eq=False)
class Series(DataModule):
    """Rows in order of time; every one of `value_columns` is input and forecast.

    At each step the values `horizon` rows later are forecast. Validation and test are the last
    tenths, unless they are files of their own. Rows are cut into windows of `steps`; those of
    training overlap by half. A missing value repeats the one before it, and is counted.
    """

    in_order: ClassVar[bool] = True

    value_columns: list[str] | None = None  # None: all that hold numbers
    steps: int = 50
    horizon: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "horizon"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if self.max_length is not None:
            raise ValueError(
                f"a series is read in windows, so data.max_length={self.max_length} means nothing "
                "here: unset it and choose data.steps"
            )
        if self.value_columns is not None and not self.value_columns:
            raise ValueError("data.value_columns is empty: name columns, or null for all numbers")

    def columns(self) -> list[str] | None:
        given = self.given(SeriesCodec)
        return list(given.names) if given else self.value_columns

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        given = self.given(SeriesCodec)
        names = self.columns() or _numeric(rows["train"])
        horizon = given.horizon if given else self.horizon
        report: Report = {"columns": ", ".join(names)}
        tables = {}
        for split, part in rows.items():
            table = np.stack([_numbers(part, name, split) for name in names], axis=1)
            report[f"missing_{split}"] = int(np.isnan(table).sum())
            tables[split] = _filled(table)
            if len(table) <= horizon:
                raise ValueError(
                    f"{split} has {len(table)} rows: a forecast {horizon} ahead needs more"
                )
        codec = given or _codec(tables["train"], names, horizon)
        splits = {}
        for split, table in tables.items():
            standard = codec.standard(np.where(np.isnan(table), codec.target_mean, table))
            stride = max(1, self.steps // 2) if split == "train" else self.steps
            windows = _windows(len(table) - horizon, self.steps, stride)
            splits[split] = Split(arrays={"examples": windows, "values": standard})
        spec = DataSpec(per_step=True, input_features=len(names), output_features=len(names))
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        first, end = self.splits[split].flat("examples").T
        return end - first

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        values, codec = self.splits[split].flat("values"), self.codec
        assert isinstance(codec, SeriesCodec)
        spans = [tuple(span) for span in self.splits[split].flat("examples")[indices].tolist()]
        ahead = codec.horizon
        inputs = Ragged.of([values[a:b] for a, b in spans], np.float32)
        targets = Ragged.of([values[a + ahead : b + ahead] for a, b in spans], np.float32)
        padded, lengths = inputs.pad(range(len(spans)))
        answers, _ = targets.pad(range(len(spans)))
        return SequenceBatch(padded, lengths, answers, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        """Window `index` as rows of numbers in the data's own units, and the rows to forecast."""
        values, codec = self.splits[split].flat("values"), self.codec
        assert isinstance(codec, SeriesCodec)
        first, end = self.splits[split].flat("examples")[index].tolist()
        rows = values[first : end + codec.horizon].astype(np.float64)
        raw = rows * np.array(codec.target_std) + np.array(codec.target_mean)
        answers = ["/".join(f"{v:.6g}" for v in row) for row in raw[codec.horizon :]]
        return Example(raw[: end - first].tolist(), [" ".join(answers)])


def _numeric(part: Any) -> list[str]:
    """The columns that hold numbers."""
    kinds = {n: f.dtype if isinstance(f, Value) else "" for n, f in part.features.items()}
    names = [name for name, kind in kinds.items() if kind.startswith(("int", "uint", "float"))]
    if not names:
        raise ValueError(f"no column holds numbers; there are: {', '.join(part.column_names)}")
    return names


def _numbers(part: Any, name: str, split: str) -> np.ndarray:
    if name not in part.column_names:
        raise ValueError(
            f"{split} has no column {name!r}; there are {', '.join(part.column_names)}"
        )
    try:
        values = np.array([np.nan if v is None else v for v in part[name][:]], np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"column {name!r} of {split} does not hold numbers: {error}") from error
    if not np.isfinite(values).any():
        raise ValueError(f"column {name!r} of {split} has no value at all")
    return np.where(np.isfinite(values), values, np.nan)


def _filled(table: np.ndarray) -> np.ndarray:
    """Missing values → the value before; what is missing from the beginning stays missing."""
    known = np.where(np.isnan(table), 0, np.arange(1, len(table) + 1)[:, None])
    last = np.maximum.accumulate(known, axis=0) - 1
    return np.where(last >= 0, np.take_along_axis(table, last.clip(0), axis=0), np.nan)


def _codec(train: np.ndarray, names: list[str], horizon: int) -> SeriesCodec:
    mean, std = mean_and_deviation(train, names)
    return SeriesCodec(
        names=tuple(names),
        horizon=horizon,
        target_mean=tuple(mean.tolist()),
        target_std=tuple(std.tolist()),
    )


def _windows(total: int, steps: int, stride: int) -> np.ndarray:
    """(N, 2) first row and the one after the last: together they cover all `total` rows."""
    first = np.arange(0, max(1, total - (steps - stride)), stride)
    return np.stack([first, np.minimum(first + steps, total)], axis=1)
