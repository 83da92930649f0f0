"""How text is cut into tokens: plain settings, checked before anything is read."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data import hanzi
from data.segmentation import NORMALIZERS, PRE_TOKENIZERS
from data.specials import SPECIALS
from data.surrogates import whole_text
from data.tokenizer_file import content

if TYPE_CHECKING:
    from data.text_codec import TextCodec

KINDS = ("words", "characters", "bytes", "bpe", "unigram", "file")


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """How text is cut into tokens, and which of them the vocabulary holds.

    `dropout` (BPE alone) leaves out merges at random while training. `chinese` writes all Chinese
    text in simplified or in traditional characters, of training and of what is predicted from.
    A `file` (tokenizer.json) brings everything but `dropout`, which it cannot have, and `chinese`.
    `reverse`: texts are read, and written, from their last symbol to their first.
    """

    kind: str = "words"  # words | characters | bytes | bpe | unigram | file
    # of words: words | whitespace | basic_english | moses | jieba (Chinese words: extra `zh`)
    pre_tokenizer: str = "words"
    lowercase: bool = False
    normalizer: str = "nfc"  # none | nfc | nfd | nfkd | nfkc (folds full-width forms: ， becomes ,)
    vocab_size: int | None = None  # None: as many as min_frequency leaves (subwords: 8000)
    min_frequency: int = 1
    dropout: float = 0.0
    chinese: str = "keep"  # keep | simplified | traditional (extra `zh`)
    file: str | None = None
    reverse: bool = False

    def __post_init__(self) -> None:
        if self.file is not None:
            object.__setattr__(self, "kind", "file")  # whatever the group's YAML said
        for name, options in [
            ("kind", KINDS),
            ("pre_tokenizer", PRE_TOKENIZERS),
            ("normalizer", tuple(NORMALIZERS)),
            ("chinese", tuple(hanzi.CONVERSIONS)),
        ]:
            value = getattr(self, name)
            if value not in options:
                raise ValueError(f"tokenizer.{name} is {value!r}; there are {', '.join(options)}")
        for wrong, message in [
            (self.kind == "file" and self.file is None,
             "tokenizer.kind=file needs tokenizer.file=PATH, a tokenizer.json"),
            (self.vocab_size is not None and self.vocab_size <= len(SPECIALS),
             f"tokenizer.vocab_size must be over {len(SPECIALS)} (the special symbols), "
             f"got {self.vocab_size}"),
            (self.min_frequency < 1,
             f"tokenizer.min_frequency must be at least 1, got {self.min_frequency}"),
            (self.kind == "bytes" and self.vocab_size is not None,
             f"tokenizer.vocab_size={self.vocab_size}: there are 256 bytes and {len(SPECIALS)} "
             "special symbols; unset it"),
            (self.kind in ("bytes", "unigram") and self.min_frequency > 1,
             f"tokenizer.min_frequency={self.min_frequency} means nothing for tokenizer.kind="
             f"{self.kind}: set it to 1"),
            (self.kind != "words" and self.pre_tokenizer in ("moses", "jieba"),
             f"tokenizer.pre_tokenizer={self.pre_tokenizer} cuts words, but tokenizer.kind is "
             f"{self.kind}: use tokenizer.kind=words"),
            (not 0.0 <= self.dropout < 1.0,
             f"tokenizer.dropout is a share of 0 to below 1, got {self.dropout}"),
            (self.dropout > 0 and self.kind != "bpe",
             f"tokenizer.dropout={self.dropout} leaves out merges of BPE, but tokenizer.kind is "
             f"{self.kind}: use tokenizer=bpe"),
        ]:  # fmt: skip
            if wrong:
                raise ValueError(message)

    def ready(self, text: str) -> str:
        """A text as it is before it is cut: Chinese in one form, no half of a surrogate pair."""
        return hanzi.converted(whole_text(text), self.chinese)

    def content(self) -> str | None:
        """A hash of what the settings point at, for the cache of prepared data."""
        return None if self.file is None else content(self.file)

    def train(self, texts: Iterable[str]) -> "TextCodec":
        """Learn a vocabulary from training texts, or load the one that is given."""
        from data.vocabularies import train  # makes codecs, which know their settings

        return train(self, texts)

    def train_on_tokens(self, rows: Iterable[Sequence[str]]) -> "TextCodec":
        """Learn a vocabulary of words from texts that are lists of tokens already."""
        from data.vocabularies import train_on_tokens

        return train_on_tokens(self, rows)
