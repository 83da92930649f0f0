"""Two marked numbers to add: the answer needs both, and the first lies far back.

Every step has a random number and a marker, which is 1 at two steps and 0 at all others; the
answer at the end is the sum of the two marked numbers. Who remembers nothing answers 1, the mean,
and has a squared error of 1/6. There is one marker in each half of the row, as in Arjovsky et al.
2016, so that every row asks for a long memory; the code of Bai et al. 2018 places both anywhere.

Hochreiter and Schmidhuber 1997, Long short-term memory, section 5.4; Bai et al. 2018, arXiv
1803.01271, on 200 to 600 steps; Arjovsky et al. 2016, arXiv 1511.06464.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.arrays import SPLITS, Split
from data.base import Example
from data.batches import SequenceBatch
from data.prepared import Prepared
from data.series import SeriesCodec
from data.spec import DataSpec
from data.synthetic.generated import Generated, Rows

VALUES, PLACES = "values", "places"
FEATURES = ("value", "marker")


def marked(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Numbers (N, T) and the two marked steps (N, 2) → inputs (N, T, 2)."""
    markers = np.zeros_like(values)
    np.put_along_axis(markers, places, 1, axis=1)
    return np.stack([values, markers], axis=-1)


def sums(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Numbers (N, T) and the two marked steps (N, 2) → targets (N, 1)."""
    return np.take_along_axis(values, places, axis=1).sum(axis=1, keepdims=True)


@dataclass(kw_only=True, eq=False)
class Adding(Generated):
    """Rows of `steps` numbers from [0, 1), two of them marked; one real answer a row."""

    train_size: int = 20_000
    steps: int = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2:
            raise ValueError(
                f"data.steps must be at least 2 (each half of a row has a marked number), got "
                f"{self.steps}"
            )

    def columns(self) -> list[str]:
        return [VALUES, PLACES]

    def generate(self) -> dict[str, Rows]:
        rows: dict[str, Rows] = {}
        half = self.steps // 2
        for number, split in enumerate(SPLITS):
            # a stream of its own for each split: its rows do not depend on the other sizes
            random = np.random.default_rng((self.split_seed, number))
            size = self.sizes[split]
            first = random.integers(0, half, size)
            places = np.stack([first, random.integers(half, self.steps, size)], axis=1)
            values = random.random((size, self.steps), dtype=np.float32)
            # rows of the arrays, not lists: a list of floats takes eight times the memory
            rows[split] = [
                {VALUES: own, PLACES: pair} for own, pair in zip(values, places, strict=True)
            ]
        return rows

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        codec = self.given(SeriesCodec) or SeriesCodec(
            names=FEATURES,
            horizon=0,
            target_mean=(0.0,),  # small numbers as they are
            target_std=(1.0,),
        )
        if codec.names != FEATURES:
            raise ValueError(
                f"the model was trained on the series {', '.join(codec.names)}, data "
                f"{self.name!r} has a value and a marker: use data=series"
            )
        splits = {}
        for split, part in rows.items():
            numpy = part.with_format("numpy")
            splits[split] = Split(arrays={name: numpy[name][:] for name in (VALUES, PLACES)})
        spec = DataSpec(input_features=len(FEATURES), output_features=1)
        test = splits["test"]
        errors = sums(test.flat(VALUES), test.flat(PLACES)) - 1
        report = {"mse_of_always_1": round(float(np.square(errors).mean()), 4)}
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        return np.full(len(self.splits[split]), self.steps)

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        values, places = (self.splits[split].flat(name)[indices] for name in (VALUES, PLACES))
        return SequenceBatch(
            torch.from_numpy(marked(values, places)),
            torch.full((len(indices),), self.steps),
            torch.from_numpy(sums(values, places)),
            torch.tensor(indices),
        )

    def example(self, split: str, index: int) -> Example:
        """Rows of a number and its marker, and the sum as text."""
        values, places = (self.splits[split].flat(name)[[index]] for name in (VALUES, PLACES))
        answer = f"{sums(values, places).item():.6g}"
        return Example(marked(values, places)[0].astype(float).tolist(), [answer])
