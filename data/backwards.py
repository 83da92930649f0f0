"""Texts that are read from their end, for models that run from right to left."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from tokenizers import Tokenizer

from data.arrays import Ragged
from data.specials import EOS
from data.text_codec import TextCodec
from data.tokenizer_settings import TokenizerSettings


class BackwardCodec(TextCodec):
    """Hands out the symbols of a text from the last to the first, and writes them so as well.

    A language model that learns from them predicts what stood before, for the backward half of a
    classifier (Howard and Ruder 2018, arXiv 1801.06146); a translator that reads its source so has
    the first words near (Sutskever et al. 2014, arXiv 1409.3215).
    """

    cut_at_spaces = False  # type: ignore[assignment]  # parts of a text would stand in its order

    @property
    def hash(self) -> str:
        return f"{super().hash}, from the end"

    def encode_batch(self, texts: Iterable[str], chunk: int = 20_000) -> Ragged:
        return turned(super().encode_batch(texts, chunk))

    def encode_with_ends(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for ids, ends in super().encode_with_ends(texts):
            yield ids[::-1], np.cumsum(np.diff(ends, prepend=0)[::-1])

    def resegmented(self, ids: Ragged, random: np.random.Generator) -> Ragged:
        return turned(super().resegmented(turned(ids), random))

    def decode(self, ids: Iterable[int]) -> str:
        kept = list(map(int, ids))
        end = kept.index(EOS) if EOS in kept else len(kept)
        return super().decode(kept[:end][::-1])


def turned(ids: Ragged) -> Ragged:
    """Every row from its last value to its first."""
    ends = np.repeat(ids.offsets[:-1] + ids.offsets[1:] - 1, ids.lengths)
    return Ragged(values=ids.values[ends - np.arange(len(ids.values))], offsets=ids.offsets)


def text_codec(tokenizer: Tokenizer, *, settings: TokenizerSettings) -> TextCodec:
    """A trained tokenizer that reads as its settings say."""
    kind = BackwardCodec if settings.reverse else TextCodec
    return kind(tokenizer, settings=settings)
