"""Pairs of texts, one to be turned into the other: translation, and any rewriting."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from data.arrays import Ragged, RaggedWriter, Split, cut
from data.base import Example
from data.batches import PairBatch
from data.codec import Codec, TokenizerSettings
from data.extra_pairs import ExtraPairs, begun
from data.large_files import OneAfterTheOther, Texts, as_texts
from data.prepared import Prepared, Report
from data.spec import DataSpec
from data.streaming import Streamed
from data.text_codec import BOS, EOS, TextCodec
from data.text_labels import TextCounts


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
class TextPairs(Streamed):
    """Rows with a source and a target text, from any files.

    Vocabularies are learnt from training alone: one a side, or one for both (`joint`). A training
    pair with an empty side or one over `max_length` is left out (half a sentence is no translation
    of the other's half); in validation and test sources are cut and references never. Training
    has synthetic pairs (`extra`) as well; a tag before their source is <bos>, which no other has.

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
    extra: ExtraPairs = field(default_factory=ExtraPairs)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.joint and self.target_tokenizer not in (None, self.tokenizer):
            raise ValueError("data.joint=true needs one tokenizer: unset data.target_tokenizer")
        if self.streaming and self.extra.file is not None:
            raise ValueError(
                f"data.extra.file={self.extra.file} is read whole, a stream never: set "
                "data.streaming=false, or put the pairs among the files that are streamed"
            )

    def columns(self) -> list[str]:
        return [self.source_column, self.target_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        real = len(rows["train"])
        train = self.extra.after(
            rows["train"], self.columns(), seed=self.split_seed, scratch=self.scratch
        )
        rows = {**rows, "train": train}
        source, target = (
            {split: Texts(part, name) for split, part in rows.items()} for name in self.columns()
        )
        given = self.given(TextPairsCodec)
        if given is not None:
            inputs, outputs = given.inputs, given.outputs
        else:
            inputs, outputs = self._codecs(source["train"], target["train"])
        assert inputs is not None and outputs is not None
        sides = (inputs, outputs)
        counts = [TextCounts(self.max_length, prefix=name) for name in ("source_", "target_")]
        report: Report = {
            "vocabulary": inputs.vocabulary.size,
            "target_vocabulary": outputs.vocabulary.size,
        }
        if len(train) > real:
            report["extra_train"] = len(train) - real
        splits: dict[str, Split] = {}
        for split, part in rows.items():
            arrays = [
                RaggedWriter(self.scratch and self.scratch / split / f"{name}.npy", side.id_type)
                for name, side in zip(("source", "target"), sides, strict=True)
            ]
            lengths: list[np.ndarray] = []
            done = 0
            for texts in zip(source[split].chunks(), target[split].chunks(), strict=True):
                ids = [side.encode_batch(some) for side, some in zip(sides, texts, strict=True)]
                for count, some, encoded in zip(counts, texts, ids, strict=True):
                    count.add(split, some, encoded)
                lengths.append(np.stack([encoded.lengths for encoded in ids]))
                tagged = np.arange(done, done := done + len(texts[0])) >= real
                if split == "train":
                    usable = self._usable(lengths[-1])
                    ids = [_rows(encoded, usable) for encoded in ids]
                    tagged = tagged[usable]
                cut_ids = [cut(encoded, self.max_length) for encoded in ids]
                if split == "train" and self.extra.tag:
                    cut_ids[0] = begun(cut_ids[0], tagged, BOS)
                arrays[0].append(with_ends(cut_ids[0], after=EOS))
                arrays[1].append(with_ends(cut_ids[1], before=BOS, after=EOS))
            if split == "train":
                kept = self._kept(np.concatenate(lengths, axis=1))
                report["left_out_train"] = len(part) - len(kept)
                if len(kept) < len(part):
                    part = part.select(kept)
            splits[split] = Split(
                arrays={"source": arrays[0].finish(), "target": arrays[1].finish()}, raw=part
            )
        report |= counts[0].report() | counts[1].report()
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

    def _codecs(self, sources: Texts, targets: Texts) -> tuple[TextCodec, TextCodec]:
        if self.joint:
            both = self.tokenizer.train(OneAfterTheOther((sources, targets)))
            return both, both
        target_tokenizer = self.target_tokenizer or self.tokenizer
        return self.tokenizer.train(sources), target_tokenizer.train(targets)

    def _usable(self, lengths: np.ndarray) -> np.ndarray:
        """(2, N) → (N,): which training rows have two sides, neither too long."""
        most = np.inf if self.max_length is None else self.max_length
        return (lengths.min(axis=0) > 0) & (lengths.max(axis=0) <= most)

    def _kept(self, lengths: np.ndarray) -> np.ndarray:
        """The numbers of the usable training rows; ValueError where there are none."""
        kept = np.flatnonzero(self._usable(lengths))
        if not lengths.min(axis=0).any():
            raise ValueError("every training pair has an empty source or target")
        if len(kept) == 0:
            raise ValueError(
                f"data.max_length={self.max_length} leaves no training pair: the shortest has "
                f"{lengths.max(axis=0).min()} symbols in its longer text"
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
    """The rows of which `kept` (N,) is true."""
    offsets = np.concatenate([[0], np.cumsum(ids.lengths[kept])])
    return Ragged(values=ids.values[np.repeat(kept, ids.lengths)], offsets=offsets)
