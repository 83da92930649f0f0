"""Sentences with a label: one of several classes, or a real number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.arrays import Ragged, Split, cut
from data.base import DataModule, Example, Prepared, Report
from data.batches import IGNORE, SequenceBatch
from data.codec import Codec, TokenizerSettings
from data.labels import Labels
from data.spec import DataSpec
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
class TextLabels(DataModule):
    """Rows with a text and a label, from any files.

    Labels may be strings, whole numbers, booleans or `ClassLabel`s (classes), or real numbers
    (regression, learnt in standard units); `real_labels` decides where the column's type does not.
    """

    tokenizer: TokenizerSettings
    text_column: str = "text"
    label_column: str = "label"
    real_labels: bool | None = None

    def columns(self) -> list[str]:
        return [self.text_column, self.label_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        texts = {split: as_texts(part[self.text_column]) for split, part in rows.items()}
        given = self.given(TextLabelsCodec)
        labels = Labels.of(
            rows,
            self.label_column,
            real=self.real_labels,
            sample=self.limit is not None,
            given=given,
        )
        inputs = given.inputs if given else self.tokenizer.train(texts["train"])
        assert inputs is not None
        ids = {split: encode_texts(inputs, part, None) for split, part in texts.items()}
        splits = {}
        for split, part in rows.items():
            short, targets = cut(ids[split], self.max_length), labels.targets[split]
            splits[split] = Split(arrays={"ids": short, "targets": targets}, raw=part)
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
            output_features=None if labels.names is not None else 1,
        )
        report = {
            **labels.report(),
            "vocabulary": inputs.vocabulary.size,
            **text_report(texts, ids, self.max_length),
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


def as_texts(values: Sequence[Any]) -> list[str]:
    """A column as strings: numbers spelled out, missing ones empty."""
    return [v if isinstance(v, str) else "" if v is None else str(v) for v in values[:]]


def encode_texts(codec: TextCodec, texts: Sequence[str], max_length: int | None) -> Ragged:
    """Texts → ids, cut at `max_length`; a text without tokens is one unknown word."""
    ids = codec.encode_batch(texts)
    empty = np.flatnonzero(ids.lengths == 0)
    values = np.insert(ids.values, ids.offsets[empty], UNK)
    offsets = np.concatenate([[0], np.cumsum(np.maximum(ids.lengths, 1))])
    return cut(Ragged(values=values, offsets=offsets), max_length)


def text_report(
    texts: dict[str, list[str]], ids: dict[str, Ragged], max_length: int | None, *, prefix: str = ""
) -> Report:
    """What the log should say: texts that are empty or too long, the share of unknown words."""
    most = np.inf if max_length is None else max_length
    unknown = {k: float((p.values == UNK).mean()) for k, p in ids.items() if len(p.values)}
    return {
        f"{prefix}empty": sum(not text.strip() for part in texts.values() for text in part),
        f"{prefix}too_long": sum(int((part.lengths > most).sum()) for part in ids.values()),
        **{f"{prefix}unknown_{split}": round(share, 4) for split, share in unknown.items()},
    }
