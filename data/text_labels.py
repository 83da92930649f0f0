"""Sentences with a label: one of several classes, or a real number."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.arrays import Ragged, RaggedWriter, Split, cut
from data.base import Example
from data.batches import IGNORE, SequenceBatch
from data.codec import Codec, TokenizerSettings
from data.folds import check_folds, take_fold
from data.labels import Labels
from data.large_files import Texts, as_texts
from data.prepared import Prepared, Report
from data.spec import DataSpec
from data.streaming import Streamed
from data.text_codec import UNK, TextCodec


@dataclass(kw_only=True)
class TextLabelsCodec(Codec, kind="text_labels"):
    """Texts → symbols; the classes' names, or the scale of a real label."""

    max_length: int | None = None

    def batch(self, raw: Sequence[str]) -> SequenceBatch:
        assert self.inputs is not None
        encoded = encode_texts(self.inputs, raw, self.max_length)
        inputs, lengths = encoded.pad(range(len(raw)))
        if self.labels is not None:
            targets = torch.full((len(raw),), IGNORE)
        else:
            targets = torch.zeros(len(raw), len(self.target_mean))
        return SequenceBatch(inputs, lengths, targets, torch.arange(len(raw)))


@dataclass(kw_only=True, eq=False)
class TextLabels(Streamed):
    """Rows with a text and a label, from any files.

    Labels may be strings, whole numbers, booleans or `ClassLabel`s (classes), or real numbers
    (regression, learnt in standard units); `real_labels` decides where the column's type does not.
    With `folds`, all splits are pooled and fold `fold` (0 to folds - 1) is the test.
    """

    tokenizer: TokenizerSettings
    text_column: str = "text"
    label_column: str = "label"
    real_labels: bool | None = None
    folds: int | None = None  # cross-validation; None: the splits as they are
    fold: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_folds(self.folds, self.fold)
        if self.streaming and self.folds is not None:
            raise ValueError(
                f"data.folds={self.folds} pools all rows, and data.streaming=true reads them "
                "as they come: leave one of the two out"
            )

    def columns(self) -> list[str]:
        return [self.text_column, self.label_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        notes: dict[str, str] = {}
        if self.folds is not None and self.fold is not None:
            rows, notes = take_fold(
                rows, text=self.text_column, label=self.label_column, real=self.real_labels,
                folds=self.folds, fold=self.fold, seed=self.split_seed,
            )  # fmt: skip
        texts = {split: Texts(part, self.text_column) for split, part in rows.items()}
        given = self.given(TextLabelsCodec)
        labels = Labels.of(
            rows,
            self.label_column,
            real=self.real_labels,
            sample=self.limit is not None or self.streaming,
            given=given,
        )
        inputs = given.inputs if given else self.tokenizer.train(texts["train"])
        assert inputs is not None
        counts = TextCounts(self.max_length)
        splits = {}
        for split, part in rows.items():
            ids = RaggedWriter(self.scratch and self.scratch / f"{split}.npy", inputs.id_type)
            for some in texts[split].chunks():
                encoded = encode_texts(inputs, some, None)
                counts.add(split, some, encoded)
                ids.append(cut(encoded, self.max_length))
            arrays = {"ids": ids.finish(), "targets": labels.targets[split]}
            splits[split] = Split(arrays=arrays, raw=part)
        codec = TextLabelsCodec(
            inputs=inputs,
            labels=labels.names,
            target_mean=labels.mean,
            target_std=labels.std,
            max_length=self.max_length,
        )
        spec = DataSpec(
            input_vocabulary=inputs.vocabulary,
            labels=labels.names,
            label_counts=labels.counts,
            output_features=None if labels.names is not None else 1,
        )
        report = {
            **notes,
            **labels.report(),
            "vocabulary": inputs.vocabulary.size,
            **counts.report(),
        }
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        return self.splits[split].ragged("ids").lengths

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        part, codec = self.splits[split], self.codec
        assert codec.inputs is not None
        inputs, lengths = self.read(split, "ids", codec.inputs, indices, most=self.max_length)
        targets = torch.from_numpy(part.flat("targets")[indices])
        return SequenceBatch(inputs, lengths, targets, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        row = self.splits[split].rows[index]
        target = self.splits[split].flat("targets")[index]
        names = self.spec.labels
        answer = names[int(target)] if names is not None else str(row[self.label_column])
        return Example(as_texts([row[self.text_column]])[0], [answer])


def encode_texts(codec: TextCodec, texts: Sequence[str], max_length: int | None) -> Ragged:
    """Texts → ids, cut at `max_length`; a text without tokens is one unknown word."""
    ids = codec.encode_batch(texts)
    empty = np.flatnonzero(ids.lengths == 0)
    values = np.insert(ids.values, ids.offsets[empty], UNK)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(ids.lengths, 1))])
    return cut(Ragged(values=values, offsets=offsets), max_length)


class TextCounts:
    """What the log should say: texts that are empty or too long, the share of unknown words."""

    def __init__(self, max_length: int | None, *, prefix: str = "") -> None:
        self.most = np.inf if max_length is None else max_length
        self.prefix, self.empty, self.too_long = prefix, 0, 0
        self.unknown: Counter[str] = Counter()
        self.symbols: Counter[str] = Counter()

    def add(self, split: str, texts: Sequence[str], ids: Ragged) -> None:
        """Some texts of a split, and their symbols before they are cut."""
        self.empty += sum(not text.strip() for text in texts)
        self.too_long += int((ids.lengths > self.most).sum())
        self.unknown[split] += int((ids.values == UNK).sum())
        self.symbols[split] += len(ids.values)

    def report(self) -> Report:
        shares = {k: self.unknown[k] / count for k, count in self.symbols.items() if count}
        return {
            f"{self.prefix}empty": self.empty,
            f"{self.prefix}too_long": self.too_long,
            **{f"{self.prefix}unknown_{split}": round(share, 4) for split, share in shares.items()},
        }
