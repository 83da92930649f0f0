"""Noise in, the same noise out some steps later: how much a state can hold, at every step.

To answer, the last `delay` numbers must be kept in their order, all at once, and each dropped when
its time has come. Who remembers nothing answers 0, with a squared error of 1/3 at all steps but the
first `delay`, where 0 is right.

Jaeger 2001, Short term memory in echo state networks, GMD report 152, measures memory like this.
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

NOISE = "noise"


def delayed(values: np.ndarray, delay: int) -> np.ndarray:
    """Numbers (N, T) → those of `delay` steps before (N, T), 0 where there are none."""
    targets = np.zeros_like(values)
    targets[:, delay:] = values[:, : values.shape[1] - delay]
    return targets


@dataclass(kw_only=True, eq=False)
class Delay(Generated):
    """Rows of `steps` numbers from [-1, 1), each to be said again `delay` steps later."""

    train_size: int = 10_000
    steps: int = 100
    delay: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.delay < 1:
            raise ValueError(
                f"data.delay must be at least 1 (less needs no memory), got {self.delay}"
            )
        if self.steps <= self.delay:
            raise ValueError(
                f"data.steps must be over data.delay, or no answer comes within a row: got "
                f"{self.steps} and {self.delay}"
            )

    def columns(self) -> list[str]:
        return [NOISE]

    def generate(self) -> dict[str, Rows]:
        rows: dict[str, Rows] = {}
        for number, split in enumerate(SPLITS):
            # a stream of its own for each split: its rows do not depend on the other sizes
            random = np.random.default_rng((self.split_seed, number))
            values = random.random((self.sizes[split], self.steps), dtype=np.float32)
            rows[split] = [{NOISE: row} for row in 2 * values - 1]
        return rows

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        codec = self.given(SeriesCodec) or SeriesCodec(
            names=(NOISE,),
            horizon=0,
            target_mean=(0.0,),  # small numbers as they are
            target_std=(1.0,),
        )
        if codec.names != (NOISE,):
            raise ValueError(
                f"the model was trained on the series {', '.join(codec.names)}, data "
                f"{self.name!r} is of noise: use data=series"
            )
        splits = {
            split: Split(arrays={NOISE: part.with_format("numpy")[NOISE][:]})
            for split, part in rows.items()
        }
        spec = DataSpec(per_step=True, input_features=1, output_features=1)
        errors = delayed(splits["test"].flat(NOISE), self.delay)
        report = {"mse_of_always_0": round(float(np.square(errors).mean()), 4)}
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        return np.full(len(self.splits[split]), self.steps)

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        values = self.splits[split].flat(NOISE)[indices]
        inputs, targets = (
            torch.from_numpy(v)[..., None] for v in (values, delayed(values, self.delay))
        )
        lengths = torch.full((len(indices),), self.steps)
        return SequenceBatch(inputs, lengths, targets, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        """The numbers, each in a list of its own, and those to answer as text."""
        values = self.splits[split].flat(NOISE)[[index]]
        answer = " ".join(f"{value:.6g}" for value in delayed(values, self.delay)[0])
        return Example(values[0, :, None].astype(float).tolist(), [answer])
