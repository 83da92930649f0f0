"""Sentences of words, each word with a tag (parts of speech, names)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel

from data.arrays import Ragged, Split, cut
from data.base import DataModule, Example
from data.batches import IGNORE, SequenceBatch
from data.codec import Codec, TokenizerSettings
from data.labels import check_classes, class_counts, class_name, class_names, name_of
from data.prepared import Prepared
from data.spec import DataSpec
from data.text_codec import PAD, UNK
from data.text_labels import TextCounts


@dataclass(kw_only=True)
class TaggedTextCodec(Codec, kind="tagged_text"):
    """Words → symbols; the tags' names."""

    max_length: int | None = None

    def words(self, text: str | Sequence[str]) -> list[str]:
        """A sentence's words: given, or between spaces, or the longest known from left to right."""
        if not isinstance(text, str):
            return [str(word) for word in text]
        assert self.inputs is not None
        pieces = text.split()
        if text.isascii() or len(pieces) > 1:
            return pieces
        read = self.inputs.settings.ready(text)
        if len(read) != len(text):
            read = text  # a conversion to another length does not say where a word of it lay
        known, words, start = self.inputs.table, [], 0
        longest = 12
        while start < len(text):
            ends = range(min(len(text), start + longest), start, -1)
            end = next((e for e in ends if read[start:e] in known), start + 1)
            words.append(text[start:end])
            start = end
        return words

    def batch(self, raw: Sequence[str | Sequence[str]]) -> SequenceBatch:
        assert self.inputs is not None
        rows = [self.inputs.encode_tokens(self.words(text)) or [UNK] for text in raw]
        inputs, lengths = cut(Ragged.of(rows), self.max_length).pad(range(len(rows)))
        targets = torch.full(inputs.shape, IGNORE)
        return SequenceBatch(inputs, lengths, targets, torch.arange(len(rows)))


@dataclass(kw_only=True, eq=False)
class TaggedText(DataModule):
    """Rows with a list of tokens and a list of tags (or two texts, split at white space)."""

    tokenizer: TokenizerSettings
    tokens_column: str = "tokens"
    tags_column: str = "tags"

    def columns(self) -> list[str]:
        return [self.tokens_column, self.tags_column]

    def prepare(self, rows: dict[str, Any]) -> Prepared:
        given = self.given(TaggedTextCodec)
        if given is None and self.tokenizer.kind != "words":
            raise ValueError(
                f"tagged text is words already: tokenizer={self.tokenizer.kind} does not fit; "
                "use tokenizer=words or tokenizer=whitespace"
            )
        if self.tokenizer.reverse:
            raise ValueError(
                "tokenizer.reverse=true would part words from their tags: set it to false, and "
                "model.bidirectional=true to read from the end as well"
            )
        tokens = {k: _lists(part[self.tokens_column]) for k, part in rows.items()}
        tags = {k: self._tags(part) for k, part in rows.items()}
        for split in rows:
            _check_lengths(split, tokens[split], tags[split])
        inputs = given.inputs if given else self.tokenizer.train_on_tokens(tokens["train"])
        assert inputs is not None
        flat = {k: list(chain.from_iterable(part)) for k, part in tags.items()}
        sample = self.limit is not None
        given_names = given.labels if given else None
        names = given_names or class_names(flat, sample=sample)
        check_classes(names, flat, self.tags_column, sample=sample, given=given is not None)
        number = {name: i for i, name in enumerate(names)}
        # a sentence without words is one unknown word whose tag does not count
        ids = {k: Ragged.of([inputs.encode_tokens(row) or [UNK] for row in part])
               for k, part in tokens.items()}  # fmt: skip
        splits, most = {}, self.max_length
        for split, part in rows.items():
            targets = Ragged.of([[number[tag] for tag in row] or [IGNORE] for row in tags[split]])
            arrays = {"ids": cut(ids[split], most), "targets": cut(targets, most)}
            splits[split] = Split(arrays=dict(arrays), raw=part)
        counts = TextCounts(most)
        for split, words in tokens.items():
            counts.add(split, [" ".join(map(str, row)) for row in words], ids[split])
        report = {"classes": len(names), "vocabulary": inputs.vocabulary.size, **counts.report()}
        codec = TaggedTextCodec(inputs=inputs, labels=names, max_length=most)
        spec = DataSpec(
            per_step=True,
            input_vocabulary=inputs.vocabulary,
            labels=names,
            label_counts=class_counts(splits["train"].ragged("targets").values, names),
        )
        return Prepared(spec=spec, codec=codec, splits=splits, report=report)

    def lengths(self, split: str) -> np.ndarray:
        return self.splits[split].ragged("ids").lengths

    def collate(self, split: str, indices: list[int]) -> SequenceBatch:
        part = self.splits[split]
        inputs, lengths = part.ragged("ids").pad(indices, PAD)
        targets, _ = part.ragged("targets").pad(indices, IGNORE)
        return SequenceBatch(inputs, lengths, targets, torch.tensor(indices))

    def example(self, split: str, index: int) -> Example:
        """The words joined by spaces, and the tags joined by spaces."""
        part = self.splits[split]
        names, targets = self.spec.labels, part.ragged("targets")[index]
        assert names is not None
        tokens = _lists([part.rows[index][self.tokens_column]])[0][: self.max_length]
        return Example(" ".join(tokens), [" ".join(names[t] for t in targets if t != IGNORE)])

    def _tags(self, part: Any) -> list[list[str]]:
        feature = part.features[self.tags_column]
        inner = getattr(feature, "feature", None)
        rows = _lists(part[self.tags_column])
        if isinstance(inner, ClassLabel):
            return [[class_name(int(tag), inner.names) for tag in row] for row in rows]
        return [[name_of(tag) for tag in row] for row in rows]


def _lists(values: Sequence[Any]) -> list[list[Any]]:
    return [
        value.split() if isinstance(value, str) else list(value) if value is not None else []
        for value in values[:]
    ]


def _check_lengths(split: str, tokens: list[list[Any]], tags: list[list[Any]]) -> None:
    for row, (words, marks) in enumerate(zip(tokens, tags, strict=True)):
        if len(words) != len(marks):
            raise ValueError(
                f"row {row} of {split} has {len(words)} tokens and {len(marks)} tags: each token "
                "needs one tag"
            )
