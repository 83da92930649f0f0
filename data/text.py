"""Running text for language modelling: a few long streams, read on from batch to batch."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch

from data.arrays import ArrayWriter, Ragged, Split
from data.base import Example
from data.batches import StreamBatch
from data.codec import Codec, TokenizerSettings
from data.large_files import Texts, as_texts
from data.prepared import Prepared, Report
from data.running_text import Pieces, stream, words_and_bytes
from data.spec import DataSpec
from data.streaming import Streamed
from data.streams import EvaluationStreams, TrainingStreams, unpacked, windows
from data.text_codec import EOS, PAD, UNK, chunks
from data.window_lengths import WindowLengths

MOST = 1_000_000  # streams, and steps of a window


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
class TextStreams(Streamed):
    """Rows of text, one after the other, as one stream a split.

    With `document_end` every row (a sentence, an abstract) is followed by <eos>; without, rows are
    the lines of one text and joined by line ends. Missing splits are taken from the end, in order.

    Training reads `batch_size` streams a rank in windows of `steps`; where they begin changes with
    every epoch. Evaluation reads `eval_streams` streams, whatever the batch or the ranks, and every
    token of the split is predicted exactly once.
    """

    in_order: ClassVar[bool] = True  # rows go on from one another
    joins_workers: ClassVar[bool] = True  # a state is carried from batch to batch along a stream

    tokenizer: TokenizerSettings
    text_column: str = "text"
    steps: int = 35
    steps_deviation: float = 0.0
    steps_halved: float = 0.05
    eval_streams: int = 8
    document_end: bool = True

    not_prepared: ClassVar[frozenset[str]] = Streamed.not_prepared | {
        "steps", "steps_deviation", "steps_halved", "eval_streams"
    }  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("steps", "eval_streams", "batch_size"):  # a place of each is held
            if not 1 <= getattr(self, name) <= MOST:
                raise ValueError(f"data.{name} must be 1 to {MOST:,}, got {getattr(self, name)}")
        self.window_lengths()
        if self.tokenizer.dropout:
            raise ValueError(
                f"tokenizer.dropout={self.tokenizer.dropout} cuts each example anew, but running "
                "text is one stream whose symbols keep their places: set it to 0"
            )
        if self.tokenizer.reverse and not self.document_end:
            raise ValueError(
                "tokenizer.reverse=true reads each row from its end, but with "
                "data.document_end=false rows are one text: set data.document_end=true"
            )
        if self.max_length is not None:
            raise ValueError(
                f"running text is never cut, so data.max_length={self.max_length} means nothing "
                "here: unset it (data.steps is the length of a window, data.limit takes fewer rows)"
            )

    def columns(self) -> list[str]:
        return [self.text_column]

    @property
    def language(self) -> str | None:
        """The programming language of the text, by the name of its file; None: it is no program."""
        return "python" if (self.path or "").endswith((".py", ".py.gz")) else None

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        texts = {split: Texts(part, self.text_column) for split, part in rows.items()}
        given = self.given(TextStreamsCodec)
        codec = given or TextStreamsCodec(
            inputs=self.tokenizer.train(
                texts["train"] if self.document_end else Pieces(texts["train"])
            ),
            document_end=self.document_end,
        )
        assert codec.inputs is not None
        report: Report = {"vocabulary": codec.inputs.vocabulary.size}
        splits = {}
        for split, part in texts.items():
            arrays, unknown, characters = self._arrays(codec, part, split)
            splits[split] = Split(arrays=dict(arrays))
            report[f"unknown_{split}"] = round(unknown / len(arrays["ids"]), 4)
            report[f"characters_{split}"] = characters
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
                total, lengths=self.window_lengths(), batch_size=self.batch_size, seed=self.seed,
                rank=rank, world_size=world,
            )  # fmt: skip
        return EvaluationStreams(
            total, steps=self.steps, streams=self.eval_streams, rank=rank, world_size=world
        )

    def window_lengths(self) -> WindowLengths:
        """Those of training; evaluation reads windows of `steps`."""
        return WindowLengths(
            steps=self.steps, deviation=self.steps_deviation, halved=self.steps_halved
        )

    def collate(self, split: str, indices: list[int]) -> StreamBatch:
        part, codec = self.splits[split], self.codec
        assert isinstance(codec, TextStreamsCodec)
        ids = part.flat("ids")
        positions, start, steps = unpacked(indices)
        streams = None if split == "train" else self.eval_streams
        places, mask = windows(positions, len(ids), steps=steps, streams=streams)
        targets = np.where(mask, ids[places], PAD).astype(np.int64)
        inputs = np.where(mask, ids[places - 1], PAD).astype(np.int64)
        inputs[mask & (places == 0)] = codec.lead
        counts = np.zeros_like(targets)
        if "characters" in part.arrays:
            counts[mask] = part.flat("characters")[places[mask]]
        return StreamBatch(*map(torch.from_numpy, (inputs, targets, mask, start, counts)))

    def joins_rows(self) -> bool:
        return not self.document_end

    def stream_batches(
        self, rows: Iterator[dict[str, Any]], *, worker: int, workers: int
    ) -> Iterator[StreamBatch]:
        """Texts → windows of this worker's share of the `batch_size` streams.

        A stream goes on with the next text where its own has ended. A text is entered as the first
        of all is: after what stands for the end of the one before.
        """
        count = self.batch_size * (worker + 1) // workers - self.batch_size * worker // workers
        texts = self._streamed_ids(as_texts([row[self.text_column]])[0] for row in rows)
        held = [(np.zeros(0, np.int64), np.zeros(0, np.int64))] * count
        lengths = self.window_lengths()
        for number in itertools.count():
            steps = lengths.draw(np.random.default_rng((self.seed, number)))  # of all workers
            shape = (count, steps)
            batch = np.empty((2, *shape), np.int64)
            for row in range(count):
                parts, size = [held[row]], len(held[row][0])
                while size < steps:
                    parts.append(next(texts))
                    size += len(parts[-1][0])
                inputs, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
                batch[:, row] = inputs[:steps], targets[:steps]
                held[row] = inputs[steps:], targets[steps:]
            yield StreamBatch(
                *torch.from_numpy(batch),
                mask=torch.ones(shape, dtype=torch.bool),
                start=torch.full((count,), number == 0),
                characters=torch.zeros(shape, dtype=torch.int64),
            )

    def _streamed_ids(self, texts: Iterable[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Each text as inputs (n,) and targets (n,)."""
        codec = self.codec
        assert isinstance(codec, TextStreamsCodec) and codec.inputs is not None
        end = [EOS] if codec.document_end else []
        for some in chunks(texts, 200, 200_000):
            encoded = codec.inputs.encode_batch(some)
            for i in range(len(encoded)):
                symbols = np.concatenate(([codec.lead], encoded[i], end)).astype(np.int64)
                yield symbols[:-1], symbols[1:]

    def example(self, split: str, index: int) -> Example:
        """Window `index` of the split as text, and the text that follows it."""
        ids, codec = self.splits[split].flat("ids"), self.codec
        assert isinstance(codec, TextStreamsCodec)
        first = index * self.steps % len(ids)
        cuts = [first, first + self.steps, first + 2 * self.steps]
        before, after = (codec.text(ids[a:b]) for a, b in pairwise(cuts))
        return Example(before, [after])

    def _arrays(
        self, codec: TextStreamsCodec, texts: Texts, split: str
    ) -> tuple[dict[str, np.ndarray], int, int]:
        """The arrays of a split, written as they come; unknown symbols, and characters."""
        assert codec.inputs is not None
        kinds = {"ids": codec.inputs.id_type}
        if split != "train":  # bits per character are for evaluation
            kinds["characters"] = np.dtype(np.int32)
        arrays = {
            name: ArrayWriter(self.scratch and self.scratch / split / f"{name}.npy", kind)
            for name, kind in kinds.items()
        }
        unknown = characters = 0
        for ids, counts in stream(codec.inputs, texts, document_end=codec.document_end):
            for name, values in (("ids", ids), ("characters", counts)):
                if name in arrays:
                    arrays[name].append(values)
            unknown += int((ids == UNK).sum())
            characters += int(counts.sum())
        if not characters:
            raise ValueError(f"the {split} split of data {self.name!r} holds no text")
        return {name: array.finish() for name, array in arrays.items()}, unknown, characters
