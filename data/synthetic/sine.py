"""A sine wave in, its cosine out: at every step the answer depends on the steps before.

One value of a sine says nothing about the sign of its slope, so a network without memory can only
give the mean of both signs and keeps a squared error near one half. Two values determine period and
amplitude, which are others in every row: a recurrent network can bring the error near zero. Rows
begin at phase zero and the cosine has amplitude one, else the first answers could not be known.
"""

from collections.abc import Sequence
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

INPUT, TARGET = "sine", "cosine"


def wave(period: float, amplitude: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Sine of an amplitude and cosine of amplitude one (steps,), from phase zero."""
    phase = 2 * np.pi * np.arange(steps) / period
    return amplitude * np.sin(phase), np.cos(phase)


@dataclass(kw_only=True, eq=False)
class Sine(Generated):
    """Rows of `steps` values, of periods drawn between `min_period` and `max_period` steps."""

    train_size: int = 2000
    validation_size: int = 400
    test_size: int = 400
    steps: int = 50
    min_period: float = 10.0
    max_period: float = 50.0
    min_amplitude: float = 0.5
    max_amplitude: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 2:
            raise ValueError(f"data.steps must be at least 2, got {self.steps}")
        if not 4 <= self.min_period <= self.max_period:
            raise ValueError(
                "data.min_period must be at least 4 steps (a shorter wave can hardly be told from "
                f"a longer one) and data.max_period no less: got {self.min_period} and "
                f"{self.max_period}"
            )
        if not 0 < self.min_amplitude <= self.max_amplitude:
            raise ValueError(
                "data.min_amplitude must be above 0 and data.max_amplitude no less: got "
                f"{self.min_amplitude} and {self.max_amplitude}"
            )

    def columns(self) -> list[str]:
        return [INPUT, TARGET]

    def generate(self) -> dict[str, Rows]:
        random = np.random.default_rng(self.split_seed)
        rows: dict[str, Rows] = {}
        for split in SPLITS:
            periods = random.uniform(self.min_period, self.max_period, self.sizes[split])
            heights = random.uniform(self.min_amplitude, self.max_amplitude, self.sizes[split])
            pairs = zip(periods.tolist(), heights.tolist(), strict=True)
            waves = [wave(period, height, self.steps) for period, height in pairs]
            rows[split] = [
                {INPUT: sine.tolist(), TARGET: cosine.tolist()} for sine, cosine in waves
            ]
        return rows

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        codec = self.given(SeriesCodec) or SeriesCodec(
            names=(INPUT,),
            horizon=0,
            target_mean=(0.0,),  # the values are in standard units as they are
            target_std=(1.0,),
        )
        if codec.names != (INPUT,):
            raise ValueError(
                f"the model was trained on the series {', '.join(codec.names)}, data "
                f"{self.name!r} is of sines: use data=series"
            )
        splits = {
            split: Split(arrays={name: _column(part[name]) for name in (INPUT, TARGET)})
            for split, part in rows.items()
        }
        spec = DataSpec(per_step=True, input_features=1, output_features=1)
        return Prepared(spec=spec, codec=codec, splits=splits)

    def lengths(self, split: str) -> np.ndarray:
        return np.full(len(self.splits[split]), self.steps)

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        part = self.splits[split]
        inputs, targets = (torch.from_numpy(part.flat(n)[indices]) for n in (INPUT, TARGET))
        lengths = torch.full((len(indices),), inputs.size(1))
        return SequenceBatch(inputs, lengths, targets, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        """The sine's values, each in a list of its own, and the cosine's as text."""
        part = self.splits[split]
        answer = " ".join(f"{value:.6g}" for value in part.flat(TARGET)[index, :, 0])
        return Example(part.flat(INPUT)[index].astype(float).tolist(), [answer])


def _column(values: Sequence[Any]) -> np.ndarray:
    """Rows of equal length → (N, T, 1)."""
    return np.array(values[:], np.float32)[..., None]
