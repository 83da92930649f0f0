"""Text to ids and back, by a trained tokenizer."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data import hanzi
from data.arrays import Ragged
from data.bpe_dropout import BPEDropout
from data.declared import check_values
from data.detokenise import detokenise
from data.segmentation import normalizer
from data.spec import Vocabulary
from data.specials import BOS, EOS, PAD, SPECIALS, UNK
from data.tokenizer_file import our_symbols
from data.tokenizer_settings import TokenizerSettings

__all__ = [
    "BOS",
    "EOS",
    "PAD",
    "SPECIALS",
    "UNK",
    "TextCodec",
    "TokenizerSettings",
    "chunks",
    "symbols_hash",
]

# said here, or each worker forked after tokenising would print a warning; workers never tokenise
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


class TextCodec:
    """A trained tokenizer: text to ids without special symbols, ids to readable text."""

    def __init__(self, tokenizer: Tokenizer, *, settings: TokenizerSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        self._ours: np.ndarray | None = None  # the tokenizer's ids → ours; None: they are the same
        if settings.kind == "file":
            self.symbols, self._ours = our_symbols(tokenizer)
        else:
            names = tokenizer.get_vocab(with_added_tokens=True)
            self.symbols = [*SPECIALS, *sorted(names, key=names.__getitem__)[len(SPECIALS) :]]
        self.table: dict[str, int] = {symbol: i for i, symbol in enumerate(self.symbols)}

    @property
    def vocabulary(self) -> Vocabulary:
        size = len(self.symbols)
        return Vocabulary(size=size, pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS)

    @property
    def hash(self) -> str:
        """Tells vocabularies apart: a model's numbers mean nothing in another one."""
        return symbols_hash(self.symbols)

    @property
    def id_type(self) -> np.dtype[Any]:
        """The smallest type that holds every id: large texts take a quarter of the disk."""
        return np.min_scalar_type(len(self.symbols))

    @cached_property
    def lowercase(self) -> bool:
        """Whether case is lost: then references are lower-cased before they are compared."""
        if self.settings.kind == "file":
            own = self.tokenizer.normalizer
            return own is not None and "A" not in own.normalize_str("A")
        basic = self.settings.pre_tokenizer == "basic_english"
        return self.settings.lowercase or (basic and self.settings.kind not in _SINGLE)

    @cached_property
    def cut_at_spaces(self) -> bool:
        """Whether a text in two parts, at a space that is left out, has the tokens of the whole."""
        if self.settings.kind == "file":  # it may put a space in front of a text, or drop them all
            return self.encode("a a") == 2 * self.encode("a")
        return self.settings.kind in ("words", "bpe", "unigram")

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Iterable[str], chunk: int = 20_000) -> Ragged:
        """Texts → ids, a row a text; a text that has no token gives an empty row."""
        rows: list[np.ndarray] = []
        if self._fast:
            rows = [self._looked_up(self._normalised(self.settings.ready(text))) for text in texts]
        else:
            for some in chunks(map(self.settings.ready, texts), chunk):
                fast = self.tokenizer.encode_batch_fast(some, add_special_tokens=False)
                rows += [self._own(encoding.ids) for encoding in fast]
        return Ragged.of(rows)

    def encode_with_ends(self, texts: Sequence[str]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Texts → for each its ids (n,), and after how many of its characters each ends (n,)."""
        ready = [self.settings.ready(text) for text in texts]
        # not the fast way of `encode_batch`: that one does not say where the tokens lie
        slow = [] if self._fast else self.tokenizer.encode_batch(ready, add_special_tokens=False)
        for i, (text, read) in enumerate(zip(texts, ready, strict=True)):
            if self._fast:
                read = self._normalised(read)
                ids, ends = self._looked_up(read), self._ends(read)
            else:
                ids = self._own(slow[i].ids)
                ends = np.array([end for _, end in slow[i].offsets], np.int64)
            if len(read) != len(text):  # converted or normalised to another length
                ends = ends * len(text) // max(1, len(read))
            yield ids, ends

    def pieces(self, text: str) -> list[str]:
        """A text → what each of its tokens was written as, known to the vocabulary or not."""
        read = self.settings.ready(text)
        if self._fast:
            read = self._normalised(read)
            ends = self._ends(read).tolist()
            places = list(zip([0, *ends], ends, strict=False))
        else:
            places = self.tokenizer.encode(read, add_special_tokens=False).offsets
        before = [0, *(end for _, end in places)]  # a ▁ put in front claims what the next one has
        return [
            read[max(start, last) : end].strip()
            for (start, end), last in zip(places, before, strict=False)
        ]

    def encode_tokens(self, tokens: Sequence[str]) -> list[int]:
        """Words that are tokens already → ids, one each."""
        found = [
            self.table.get(t, self.table.get(self._normalised(self.settings.ready(t)), UNK))
            for t in tokens
        ]
        return [i if i >= len(SPECIALS) else UNK for i in found]

    def resegmented(self, ids: Ragged, random: np.random.Generator) -> Ragged:
        """The same texts in other pieces where the settings have a `dropout`."""
        return ids if self._dropout is None else self._dropout(ids, random)

    def comparable(self, text: str) -> str:
        """A reference as this codec could have written it, so that scores compare like with like.

        Chinese is converted as the training texts were, full-width forms are folded where
        `normalizer` folds them, and case is lost where the codec loses it.
        """
        text = self.settings.ready(text)
        if self.settings.kind != "file":
            text = normalizer(self.settings.normalizer, lowercase=False).normalize_str(text)
        return text.lower() if self.lowercase else text

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.symbols[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids, up to the first <eos>, → text as people write it."""
        kept: list[int] = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                kept.append(i)
        if self.settings.kind == "bytes":
            # an unknown byte, or bytes that are no character, are shown as �
            first = len(SPECIALS)
            return bytes(i - first if i >= first else 0xFF for i in kept).decode(errors="replace")
        if self._theirs is not None and self.tokenizer.decoder is not None:
            numbers = [int(n) for n in self._theirs[kept] if n >= 0]
            return str(self.tokenizer.decode(numbers, skip_special_tokens=False))
        symbols = self.tokens(kept)
        if self.settings.kind == "characters":
            return "".join(symbols)
        if self.settings.kind in ("bpe", "unigram"):
            return "".join(symbols).replace("▁", " ").removeprefix(" ")
        return detokenise(symbols)

    def to_plain(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_str(), "settings": dict(vars(self.settings))}

    @staticmethod
    def from_plain(plain: dict[str, Any]) -> "TextCodec":
        from data.backwards import text_codec  # which knows this class

        check_values(plain["settings"], TokenizerSettings, "codec.settings.")
        settings = TokenizerSettings(**plain["settings"])
        return text_codec(Tokenizer.from_str(plain["tokenizer"]), settings=settings)

    @property
    def _fast(self) -> bool:
        """Whether ids are looked up here, not by the tokenizer."""
        jieba = self.settings.pre_tokenizer == "jieba" and self.settings.kind == "words"
        return jieba or self.settings.kind in _SINGLE

    def _normalised(self, text: str) -> str:
        own = self.tokenizer.normalizer
        plain = own is None or (text.isascii() and not self.lowercase)
        return text if plain else own.normalize_str(text)

    def _looked_up(self, text: str) -> np.ndarray:
        """As the tokenizer does, by one table look-up: a book at once takes milliseconds."""
        if self.settings.kind == "bytes":
            return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + len(SPECIALS)
        if self.settings.kind == "words":
            return self._own([self.table.get(word, UNK) for word in _chinese_words(text)])
        points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        return self._code_points[np.minimum(points, len(self._code_points) - 1)]

    def _ends(self, text: str) -> np.ndarray:
        """After how many characters each id of `_looked_up` ends."""
        if self.settings.kind == "bytes":
            raw = np.frombuffer(text.encode(), np.uint8)
            return np.cumsum((raw & 0xC0) != 0x80)  # the bytes that begin a character
        if self.settings.kind == "characters":
            return np.arange(1, len(text) + 1)
        pieces = hanzi.words(text)
        ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)
        return ends[[not piece.isspace() for piece in pieces]] if pieces else ends

    def _own(self, ids: Sequence[int]) -> np.ndarray:
        """Ids of the tokenizer → ours; where the text spelled a special symbol, unknown."""
        found = np.asarray(ids, np.int32)
        if self._ours is not None:
            found = self._ours[found]
        return np.where(found < len(SPECIALS), UNK, found).astype(np.int32)

    @cached_property
    def _theirs(self) -> np.ndarray | None:
        """Our ids → the tokenizer's, -1 where it has none."""
        if self._ours is None:
            return None
        theirs = np.full(len(self.symbols), -1, np.int64)
        known = np.array(sorted(self.tokenizer.get_vocab(with_added_tokens=True).values()), int)
        theirs[self._ours[known]] = known
        return theirs

    @cached_property
    def _code_points(self) -> np.ndarray:
        single = {ord(t): i for t, i in self.table.items() if len(t) == 1}
        points = np.full(max(single, default=0) + 2, UNK, np.int32)
        points[list(single)] = list(single.values())
        return points

    @cached_property
    def _dropout(self) -> BPEDropout | None:
        dropout = self.settings.dropout
        return BPEDropout(self.tokenizer, dropout) if dropout else None


_SINGLE = ("characters", "bytes")


def _chinese_words(text: str) -> list[str]:
    return [word for word in hanzi.words(text) if not word.isspace()]


def symbols_hash(symbols: Sequence[str]) -> str:
    return hashlib.blake2b(json.dumps(list(symbols)).encode(), digest_size=4).hexdigest()


def chunks(texts: Iterable[str], size: int, characters: int = 1_000_000) -> Iterator[list[str]]:
    """At most `size` texts at a time, and no further one after so many characters."""
    some: list[str] = []
    held = 0
    for text in texts:
        some.append(text)
        held += len(text)
        if len(some) == size or held >= characters:
            yield some
            some, held = [], 0
    if some:
        yield some
