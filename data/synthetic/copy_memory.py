"""Ten symbols to keep over a long blank and to say again at the end.

    read    3 1 8 ... 0 0 0 ... 0 9 9 9 ... 9     10 symbols of 1 to 8, T - 1 blanks, 11 delimiters
    answer  0 0 0 ... 0 0 0 ... 0 0 3 1 8 ...     blank, but for the last 10 steps

The loss is the mean over all T + 20 steps. Who remembers nothing knows when to answer, but not
what: 10 ln 8 / (T + 20), which is 0.0204 for T = 1000. Most steps are right even then.

Hochreiter and Schmidhuber 1997; Arjovsky et al. 2016, arXiv 1511.06464; laid out as by Bai et al.
2018, arXiv 1803.01271.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.arrays import SPLITS, Split
from data.base import Example
from data.batches import SequenceBatch
from data.codec import TokenizerSettings
from data.prepared import Prepared
from data.spec import DataSpec
from data.synthetic.generated import Generated, Rows
from data.tagged_text import TaggedTextCodec

SYMBOLS = "symbols"
COUNT, KINDS = 10, 8  # symbols to keep, and how many there are to choose from
BLANK, DELIMITER = 0, 9
DIGITS = tuple("0123456789")
ANSWERS = DIGITS[:DELIMITER]  # the delimiter is never one


def laid_out(symbols: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Symbols (N, 10) and T → digits to read and digits to answer, each (N, T + 20)."""
    inputs = np.full((len(symbols), steps + 2 * COUNT), BLANK, np.int64)
    targets = inputs.copy()
    inputs[:, :COUNT] = symbols
    inputs[:, steps + COUNT - 1 :] = DELIMITER
    targets[:, -COUNT:] = symbols
    return inputs, targets


@dataclass(kw_only=True, eq=False)
class CopyMemory(Generated):
    """Rows of `steps` + 20 symbols, each with an answer; `steps` is the T of the papers."""

    train_size: int = 10_000
    steps: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1:
            raise ValueError(f"data.steps must be at least 1, got {self.steps}")
        total, most = sum(self.sizes.values()), KINDS**COUNT
        if total > most:
            raise ValueError(
                f"data.train_size, validation_size and test_size add up to {total} rows, but there "
                f"are {most} different ones: ask for fewer"
            )

    def columns(self) -> list[str]:
        return [SYMBOLS]

    def generate(self) -> dict[str, Rows]:
        random = np.random.default_rng(self.split_seed)
        # ten symbols are one number of ten octal digits: drawing numbers without putting any back
        # keeps the splits apart
        total = sum(self.sizes.values())
        numbers = random.choice(KINDS**COUNT, total, replace=False)
        symbols = 1 + (numbers[:, None] // KINDS ** np.arange(COUNT)) % KINDS
        rows = iter({SYMBOLS: row} for row in symbols.astype(np.uint8))
        return {split: [next(rows) for _ in range(self.sizes[split])] for split in SPLITS}

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        settings = TokenizerSettings(pre_tokenizer="whitespace")
        # a vocabulary of text: its special symbols come first, so that padding is not the blank
        codec = self.given(TaggedTextCodec) or TaggedTextCodec(
            inputs=settings.train_on_tokens([DIGITS]), labels=ANSWERS
        )
        if codec.labels != ANSWERS or codec.inputs is None:
            raise ValueError(
                f"the model was trained on other tags than the digits of data {self.name!r}: use "
                "data=tagged_text"
            )
        splits = {
            split: Split(arrays={SYMBOLS: part.with_format("numpy")[SYMBOLS][:]})
            for split, part in rows.items()
        }
        spec = DataSpec(per_step=True, input_vocabulary=codec.inputs.vocabulary, labels=ANSWERS)
        loss = COUNT * math.log(KINDS) / (self.steps + 2 * COUNT)
        report = {"loss_without_memory": round(loss, 4)}
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        return np.full(len(self.splits[split]), self.steps + 2 * COUNT)

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        inputs, targets = laid_out(self.splits[split].flat(SYMBOLS)[indices], self.steps)
        assert self.codec.inputs is not None
        ids = torch.tensor(self.codec.inputs.encode_tokens(DIGITS))
        lengths = torch.full((len(indices),), inputs.shape[1])
        return SequenceBatch(ids[inputs], lengths, torch.from_numpy(targets), torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        """The digits to read and those to answer, joined by spaces."""
        inputs, targets = laid_out(self.splits[split].flat(SYMBOLS)[[index]], self.steps)
        return Example(" ".join(map(str, inputs[0])), [" ".join(map(str, targets[0]))])
