"""Rows of raw text as one long text: its symbols, what each of them stands for, its size."""

import itertools
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.text_codec import EOS, TextCodec, chunks

# one space after a letter: the tokenizers put a space in front of every text they are given
_CUT = re.compile(r"(?<=\w) (?=\w)")


def stream(
    codec: TextCodec, rows: Iterable[str], *, document_end: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows → ids (n,), and the characters (n,) of raw text that each of them stands for, as they
    come; without `document_end` rows are joined by line ends.

    What lies between two tokens belongs to the later one, what follows the last one and the line
    end to <eos>: the characters add up to the whole text, so bits per character are comparable
    between tokenizers.
    """
    if document_end:
        some: list[tuple[np.ndarray, np.ndarray]] = []
        for text, ids, ends in _encoded(codec, rows):
            some.append((np.append(ids, EOS), _counts(np.append(ends, len(text) + 1))))
            if len(some) == 1000:
                yield _joined(some)
                some = []
        if some:
            yield _joined(some)
        return
    last: tuple[np.ndarray, np.ndarray] | None = None
    after = 0  # characters that follow the last token so far
    for text, ids, ends in _encoded(codec, Pieces(rows), joined=True):
        if len(ids) == 0:
            after += len(text)
            continue
        counts = _counts(ends)
        counts[0] += after
        after = len(text) - int(ends.max())
        if last is not None:
            yield last
        last = ids, counts
    if last is not None:
        last[1][-1] += after
        yield last


def _joined(parts: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    ids, counts = zip(*parts, strict=True)
    return np.concatenate(ids), np.concatenate(counts)


def _counts(ends: np.ndarray) -> np.ndarray:
    return np.diff(np.maximum.accumulate(ends), prepend=0)


@dataclass(frozen=True)
class Pieces:
    """Rows joined by line ends, cut into pieces that give the whole text when they are joined.

    A piece begins with the space between two words, which `_encoded` leaves out where a tokenizer
    puts one itself, so that none sees the cut; only in a text that has no such space for a million
    characters it begins with a line end.
    """

    rows: Iterable[str]
    least: int = 20_000
    most: int = 1_000_000

    def __iter__(self) -> Iterator[str]:
        waiting: list[str] = []
        held, enough = 0, self.least
        for i, row in enumerate(self.rows):
            waiting.append(f"\n{row}" if i else row)
            held += len(waiting[-1])
            if held <= enough:
                continue
            text, start = "".join(waiting), 0
            while end := self._cut(text, start):
                yield text[start:end]
                start = end
            waiting, held = [text[start:]], len(text) - start
            enough = max(self.least, 2 * held)  # a text without cuts is not looked at for each row
        if waiting:
            yield "".join(waiting)

    def _cut(self, text: str, start: int) -> int:
        """Where the piece that begins at `start` ends; 0: not within this text."""
        if found := _CUT.search(text, start + self.least):
            return found.start()
        return max(0, text.rfind("\n", start + 1)) if len(text) - start > self.most else 0


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


def _encoded(
    codec: TextCodec, texts: Iterable[str], *, joined: bool = False
) -> Iterator[tuple[str, Any, Any]]:
    """Each text, its ids (n,), and where in the raw text each of them ends (n,).

    `joined`: the texts are pieces of one, each but the first with the space at which it was cut.
    """
    spaces = itertools.chain([False], itertools.repeat(joined))
    for some in chunks(texts, 20_000):
        cut = [
            _pieces(text, int(space and text.startswith(" ")))
            if codec.cut_at_spaces
            else ([text], [0])
            for text, space in zip(some, spaces, strict=False)
        ]
        found = codec.encode_with_ends([piece for pieces, _ in cut for piece in pieces])
        for text, (_, starts) in zip(some, cut, strict=True):
            parts = [(ids, start + ends) for start, (ids, ends) in zip(starts, found, strict=False)]
            ids, ends = (np.concatenate(side).astype(np.int64) for side in zip(*parts, strict=True))
            yield text, ids, ends


def _pieces(text: str, place: int, least: int = 20_000) -> tuple[list[str], list[int]]:
    """A long text, from `place` on, cut between words, and where the pieces start: a book at once
    is slow."""
    starts = [place]
    while cut := _CUT.search(text, place + least):
        place = cut.end()
        starts.append(place)
    ends = [start - 1 for start in starts[1:]]
    return [text[a:b] for a, b in zip(starts, [*ends, len(text)], strict=True)], starts
