"""Running text for language modelling: a few long streams, read on from batch to batch."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch

from data.arrays import Ragged, Split
from data.base import DataModule, Example, Prepared, Report
from data.batches import StreamBatch
from data.codec import Codec, TokenizerSettings
from data.spec import DataSpec
from data.streams import EvaluationStreams, TrainingStreams, position_and_start, windows
from data.text_codec import EOS, PAD, UNK, TextCodec, chunks
from data.text_labels import as_texts

# one space after a letter: the tokenizers put a space in front of every text they are given
_CUT = re.compile(r"(?<=\w) (?=\w)")


@dataclass(kw_only=True)
class TextStreamsCodec(Codec, kind="text"):
    """Text → symbols to go on from, and symbols → text; <eos> stands for the end of a row."""

    document_end: bool = True

    @property
    def lead(self) -> int:
        """What comes before the first symbol of a text: the end of the one before."""
        assert self.inputs is not None
        return EOS if self.document_end else self.inputs.table.get("\n", EOS)

    def batch(self, raw: Sequence[str]) -> StreamBatch:
        """Texts to go on from; the mask is True on real inputs, the lead and then the text."""
        assert self.inputs is not None
        rows = [np.array([self.lead, *self.inputs.encode(text), EOS]) for text in raw]
        ids, lengths = Ragged.of(rows, np.int64).pad(range(len(rows)), PAD)
        mask = torch.arange(ids.shape[1] - 1) < (lengths - 1)[:, None]
        inputs, targets = ids[:, :-1] * mask, ids[:, 1:]
        start = torch.ones(len(rows), dtype=torch.bool)
        return StreamBatch(inputs, targets, mask, start, torch.zeros_like(inputs))

    def text(self, ids: Iterable[int]) -> str:
        """Symbols → text, a line end for each <eos>."""
        assert self.inputs is not None
        rows: list[list[int]] = [[]]
        for i in map(int, ids):
            if i == EOS:
                rows.append([])
            else:
                rows[-1].append(i)
        return "\n".join(self.inputs.decode(row) for row in rows)


@dataclass(kw_only=True, eq=False)
class TextStreams(DataModule):
    """Rows of text, one after the other, as one stream a split.

    With `document_end` every row (a sentence, an abstract) is followed by <eos>; without, rows are
    the lines of one text and joined by line ends. Missing splits are taken from the end, in order.

    Training reads `batch_size` streams a rank in windows of `steps`; where they begin changes with
    every epoch. Evaluation reads `eval_streams` streams, whatever the batch or the ranks, and every
    token of the split is predicted exactly once.
    """

    in_order: ClassVar[bool] = True  # rows go on from one another

    tokenizer: TokenizerSettings
    text_column: str = "text"
    steps: int = 35
    eval_streams: int = 8
    document_end: bool = True

    not_prepared: ClassVar[frozenset[str]] = DataModule.not_prepared | {"steps", "eval_streams"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "eval_streams"):
            if getattr(self, name) < 1:
                raise ValueError(f"data.{name} must be at least 1, got {getattr(self, name)}")
        if self.tokenizer.dropout:
            raise ValueError(
                f"tokenizer.dropout={self.tokenizer.dropout} cuts each example anew, but running "
                "text is one stream whose symbols keep their places: set it to 0"
            )
        if self.max_length is not None:
            raise ValueError(
                f"running text is never cut, so data.max_length={self.max_length} means nothing "
                "here: unset it (data.steps is the length of a window, data.limit takes fewer rows)"
            )

    def columns(self) -> list[str]:
        return [self.text_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        texts = {split: self._texts(part) for split, part in rows.items()}
        codec = self.given(TextStreamsCodec) or TextStreamsCodec(
            inputs=self.tokenizer.train(texts["train"]), document_end=self.document_end
        )
        assert codec.inputs is not None
        report: Report = {"vocabulary": codec.inputs.vocabulary.size}
        splits = {}
        for split, part in texts.items():
            ids, characters = stream(codec.inputs, part, document_end=codec.document_end)
            if len(ids) == 0 or not characters.sum():
                raise ValueError(f"the {split} split of data {self.name!r} holds no text")
            splits[split] = Split(arrays={"characters": characters, "ids": ids})
            report[f"unknown_{split}"] = round(float((ids == UNK).mean()), 4)
            report[f"characters_{split}"] = int(characters.sum())
            if split != "train":  # of what is evaluated: numbers a word and a byte
                words, size = words_and_bytes(part, document_end=codec.document_end)
                report |= {f"words_{split}": words, f"bytes_{split}": size}
        vocabulary = codec.inputs.vocabulary
        spec = DataSpec(
            input_vocabulary=vocabulary, output_vocabulary=vocabulary, shared_vocabulary=True
        )
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def sampler(self, split: str) -> TrainingStreams | EvaluationStreams:
        rank, world = self.place()
        total = len(self.splits[split])
        if split == "train":
            return TrainingStreams(
                total, steps=self.steps, batch_size=self.batch_size, seed=self.seed,
                rank=rank, world_size=world,
            )  # fmt: skip
        return EvaluationStreams(
            total, steps=self.steps, streams=self.eval_streams, rank=rank, world_size=world
        )

    def collate(self, split: str, indices: list[int]) -> StreamBatch:
        part, codec = self.splits[split], self.codec
        assert isinstance(codec, TextStreamsCodec)
        ids, characters = part.flat("ids"), part.flat("characters")
        positions, start = position_and_start(indices)
        streams = None if split == "train" else self.eval_streams
        places, mask = windows(positions, len(ids), steps=self.steps, streams=streams)
        targets = np.where(mask, ids[places], PAD).astype(np.int64)
        inputs = np.where(mask, ids[places - 1], PAD).astype(np.int64)
        inputs[mask & (places == 0)] = codec.lead
        counts = np.where(mask, characters[places], 0).astype(np.int64)
        return StreamBatch(*map(torch.from_numpy, (inputs, targets, mask, start, counts)))

    def example(self, split: str, index: int) -> Example:
        """Window `index` of the split as text, and the text that follows it."""
        ids, codec = self.splits[split].flat("ids"), self.codec
        assert isinstance(codec, TextStreamsCodec)
        first = index * self.steps % len(ids)
        cuts = [first, first + self.steps, first + 2 * self.steps]
        before, after = (codec.text(ids[a:b]) for a, b in pairwise(cuts))
        return Example(before, [after])

    def _texts(self, part: Any) -> list[str]:
        texts = as_texts(part[self.text_column])
        given = self.given(TextStreamsCodec)
        joined = not (given.document_end if given else self.document_end)
        return ["\n".join(texts)] if joined else texts


def stream(
    codec: TextCodec, texts: Sequence[str], *, document_end: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Texts → ids (N,), and the characters (N,) of raw text that each of them stands for.

    What lies between two tokens belongs to the later one, what follows the last one and the line
    end to <eos>: the characters add up to the whole text, so bits per character are comparable
    between tokenizers.
    """
    rows, counts = [], []
    for text, ids, ends in _encoded(codec, texts):
        if document_end:
            ids, ends = np.append(ids, EOS), np.append(ends, len(text) + 1)
        elif len(ends):
            ends[-1] = len(text)
        rows.append(ids)
        counts.append(np.diff(np.maximum.accumulate(ends), prepend=0))
    return np.concatenate(rows).astype(np.int32), np.concatenate(counts).astype(np.int32)


def words_and_bytes(rows: Iterable[str], *, document_end: bool) -> tuple[int, int]:
    """White-space words and UTF-8 bytes of raw text, whatever its tokens are.

    The end of a row is a byte, and with `document_end`, where it is predicted, a word as well;
    without, rows are joined by line ends.
    """
    count = words = size = 0
    for text in rows:
        count, words, size = count + 1, words + len(text.split()), size + len(text.encode())
    if document_end:
        return words + count, size + count
    return words, size + max(count - 1, 0)


def _encoded(codec: TextCodec, texts: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """Each text, its ids (n,), and where in the raw text each of them ends (n,)."""
    for some in chunks(texts, 20_000):
        cut = [_pieces(text) if codec.cut_at_spaces else ([text], [0]) for text in some]
        found = codec.encode_with_ends([piece for pieces, _ in cut for piece in pieces])
        for text, (_, starts) in zip(some, cut, strict=True):
            parts = [(ids, start + ends) for start, (ids, ends) in zip(starts, found, strict=False)]
            ids, ends = (np.concatenate(side).astype(np.int64) for side in zip(*parts, strict=True))
            yield text, ids, ends


def _pieces(text: str, least: int = 20_000) -> tuple[list[str], list[int]]:
    """A long text cut between words, and where the pieces start: a book at once is slow."""
    starts, place = [0], 0
    while cut := _CUT.search(text, place + least):
        place = cut.end()
        starts.append(place)
    ends = [start - 1 for start in starts[1:]]
    return [text[a:b] for a, b in zip(starts, [*ends, len(text)], strict=True)], starts
