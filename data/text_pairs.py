"""Pairs of texts, one to be turned into the other: translation, and any rewriting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data.arrays import Ragged, Split, cut
from data.base import DataModule, Example, Prepared, Report
from data.batches import PairBatch
from data.codec import Codec, TokenizerSettings
from data.spec import DataSpec
from data.text_codec import BOS, EOS, TextCodec
from data.text_labels import as_texts, text_report


@dataclass(kw_only=True)
class TextPairsCodec(Codec, kind="text_pairs"):
    """Source texts → symbols that end with <eos>; target symbols → text."""

    max_length: int | None = None

    def batch(self, raw: Sequence[str]) -> PairBatch:
        assert self.inputs is not None
        source, lengths = with_ends(encode(self.inputs, raw, self.max_length), after=EOS).pad(
            range(len(raw))
        )
        target = torch.tensor([[BOS, EOS]]).repeat(len(raw), 1)
        full = torch.full((len(raw),), 2)
        return PairBatch(source, lengths, target, full, torch.arange(len(raw)))


@dataclass(kw_only=True, eq=False)
class TextPairs(DataModule):
    """Rows with a source and a target text, from any files.

    Vocabularies are learnt from training alone: one a side, or one for both (`joint`). A training
    pair with an empty side or one over `max_length` is left out (half a sentence is no translation
    of the other's half); in validation and test sources are cut and references never.

    Scores compare with references in the form in which the model can write: with
    `tokenizer.chinese` on the target's side (`target_tokenizer`, else `tokenizer`) they are
    converted to the same characters, as they are folded by NFKC or lower-cased where the tokenizer
    does that (`TextCodec.comparable`).
    """

    tokenizer: TokenizerSettings
    target_tokenizer: TokenizerSettings | None = None  # None: as the source
    source_column: str = "source"
    target_column: str = "target"
    joint: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.joint and self.target_tokenizer not in (None, self.tokenizer):
            raise ValueError("data.joint=true needs one tokenizer: unset data.target_tokenizer")

    def columns(self) -> list[str]:
        return [self.source_column, self.target_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        source, target = (
            {split: as_texts(part[name]) for split, part in rows.items()} for name in self.columns()
        )
        given = self.given(TextPairsCodec)
        if given is not None:
            inputs, outputs = given.inputs, given.outputs
        else:
            inputs, outputs = self._codecs(source["train"], target["train"])
        assert inputs is not None and outputs is not None
        source_ids = {split: inputs.encode_batch(texts) for split, texts in source.items()}
        target_ids = {split: outputs.encode_batch(texts) for split, texts in target.items()}
        report: Report = {
            "vocabulary": inputs.vocabulary.size,
            "target_vocabulary": outputs.vocabulary.size,
            **text_report(source, source_ids, self.max_length, prefix="source_"),
            **text_report(target, target_ids, self.max_length, prefix="target_"),
        }
        splits: dict[str, Split] = {}
        for split, part in rows.items():
            ids = [source_ids[split], target_ids[split]]
            if split == "train":
                kept = self._usable(ids[0].lengths, ids[1].lengths)
                report["left_out_train"] = len(part) - len(kept)
                if len(kept) < len(part):
                    part, ids = part.select(kept), [_rows(side, kept) for side in ids]
            arrays = {
                "source": with_ends(cut(ids[0], self.max_length), after=EOS),
                "target": with_ends(cut(ids[1], self.max_length), before=BOS, after=EOS),
            }
            splits[split] = Split(arrays=dict(arrays), raw=part)
        codec = TextPairsCodec(inputs=inputs, outputs=outputs, max_length=self.max_length)
        spec = DataSpec(
            input_vocabulary=inputs.vocabulary,
            output_vocabulary=outputs.vocabulary,
            shared_vocabulary=inputs.symbols == outputs.symbols if given else self.joint,
        )
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        part = self.splits[split]
        return np.stack([part.ragged("target").lengths, part.ragged("source").lengths], axis=1)

    def collate(self, split: str, indices: list[int]) -> PairBatch:
        codec = self.codec
        assert codec.inputs is not None and codec.outputs is not None
        source, source_lengths = self.read(split, "source", codec.inputs, indices)
        target, target_lengths = self.read(split, "target", codec.outputs, indices)
        return PairBatch(source, source_lengths, target, target_lengths, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        row = self.splits[split].rows[index]
        source, target = as_texts([row[name] for name in self.columns()])
        return Example(source, [target])

    def _codecs(self, sources: list[str], targets: list[str]) -> tuple[TextCodec, TextCodec]:
        if self.joint:
            both = self.tokenizer.train([*sources, *targets])
            return both, both
        target_tokenizer = self.target_tokenizer or self.tokenizer
        return self.tokenizer.train(sources), target_tokenizer.train(targets)

    def _usable(self, sources: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Training rows that have two sides, neither too long."""
        most = np.inf if self.max_length is None else self.max_length
        shortest, longest = np.minimum(sources, targets), np.maximum(sources, targets)
        kept = np.flatnonzero((shortest > 0) & (longest <= most))
        if not (shortest > 0).any():
            raise ValueError("every training pair has an empty source or target")
        if len(kept) == 0:
            raise ValueError(
                f"data.max_length={self.max_length} leaves no training pair: the shortest has "
                f"{longest.min()} symbols in its longer text"
            )
        return kept


def encode(codec: TextCodec, texts: Sequence[str], max_length: int | None) -> Ragged:
    return cut(codec.encode_batch(texts), max_length)


def with_ends(ids: Ragged, *, before: int | None = None, after: int | None = None) -> Ragged:
    """Put a symbol before and after every row."""
    values, offsets = ids.values, ids.offsets
    if after is not None:
        values = np.insert(values, offsets[1:], after)
        offsets = offsets + np.arange(len(offsets))
    if before is not None:
        values = np.insert(values, offsets[:-1], before)
        offsets = offsets + np.arange(len(offsets))
    return Ragged(values=values, offsets=offsets)


def _rows(ids: Ragged, kept: np.ndarray) -> Ragged:
    return Ragged.of([ids[row] for row in kept])
