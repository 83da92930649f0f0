"""Text to ids and back: words, characters or BPE, on Hugging Face `tokenizers`."""

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, trainers

from data.arrays import Ragged
from data.detokenise import detokenise
from data.segmentation import NORMALIZERS, normalizer, pre_tokenizer
from data.spec import Vocabulary

# said here, or each worker forked after tokenising would print a warning; workers never tokenise
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
PAD, UNK, BOS, EOS = range(4)


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """How text is cut into tokens, and which of them the vocabulary holds."""

    kind: str = "words"  # words | characters | bpe
    pre_tokenizer: str = "words"  # words | whitespace | basic_english (kinds words and bpe)
    lowercase: bool = False
    normalizer: str = "nfc"  # none | nfc | nfkc (folds full-width forms: ， becomes ,)
    vocab_size: int | None = None  # None: as many as min_frequency leaves (for bpe: 8000)
    min_frequency: int = 1

    def __post_init__(self) -> None:
        for name, options in [
            ("kind", ("words", "characters", "bpe")),
            ("pre_tokenizer", ("words", "whitespace", "basic_english")),
            ("normalizer", tuple(NORMALIZERS)),
        ]:
            value = getattr(self, name)
            if value not in options:
                raise ValueError(f"tokenizer.{name} is {value!r}; there are {', '.join(options)}")
        if self.vocab_size is not None and self.vocab_size <= len(SPECIALS):
            raise ValueError(
                f"tokenizer.vocab_size must be over {len(SPECIALS)} (the special symbols), "
                f"got {self.vocab_size}"
            )

    def train(self, texts: Iterable[str]) -> "TextCodec":
        """Learn a vocabulary from training texts."""
        if self.kind == "bpe":
            return self._train_bpe(texts)
        if self.kind == "characters":
            normalise = self._normalizer().normalize_str
            counts: Counter[str] = Counter()
            for text in texts:
                counts.update(normalise(text))
            return self.from_counts(counts)
        texts = list(texts) if isinstance(texts, Iterator) else texts  # they may be read twice
        codec = self._train_words(texts, self.min_frequency)
        if len(codec.symbols) == len(SPECIALS) and self.min_frequency > 1:
            # texts so few that nothing is frequent: any vocabulary is better than none
            codec = self._train_words(texts, 1)
        return codec

    def _train_words(self, texts: Iterable[str], min_frequency: int) -> "TextCodec":
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        self._segment(tokenizer)
        # no special symbols here: the trainer would give one that the text spells a second id
        trainer = trainers.WordLevelTrainer(
            vocab_size=self.vocab_size or 10_000_000,
            min_frequency=min_frequency,
            special_tokens=[],
            show_progress=False,
        )  # the most frequent first, ties in alphabetical order, as torchtext orders them
        tokenizer.train_from_iterator(texts, trainer)
        found = tokenizer.get_vocab()
        return self._of_words(sorted(found, key=found.__getitem__))

    def _of_words(self, words: Sequence[str]) -> "TextCodec":
        kept = [word for word in words if word not in SPECIALS]
        if self.vocab_size is not None:
            kept = kept[: self.vocab_size - len(SPECIALS)]
        table = {token: i for i, token in enumerate((*SPECIALS, *kept))}
        tokenizer = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
        self._segment(tokenizer)
        return TextCodec(tokenizer, settings=self)

    def train_on_tokens(self, rows: Iterable[Sequence[str]]) -> "TextCodec":
        """Learn a vocabulary of words from texts that are lists of tokens already."""
        normalise = self._normalizer().normalize_str
        raw = Counter(chain.from_iterable(rows))
        counts: Counter[str] = Counter()
        for word, count in raw.items():
            counts[normalise(word)] += count
        return self.from_counts(counts)

    def from_counts(self, counts: Counter[str]) -> "TextCodec":
        """The most frequent first, ties in alphabetical order, as the trainer of words does it."""
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        kept = [token for token, count in ranked if token and count >= self.min_frequency]
        return self._of_words(kept or [token for token, _ in ranked if token])

    def _normalizer(self) -> Any:
        basic = self.pre_tokenizer == "basic_english" and self.kind != "characters"
        return normalizer(self.normalizer, lowercase=self.lowercase, basic_english=basic)

    def _segment(self, tokenizer: Tokenizer) -> None:
        tokenizer.normalizer = self._normalizer()
        tokenizer.pre_tokenizer = pre_tokenizer(self.kind, self.pre_tokenizer)

    def _train_bpe(self, texts: Iterable[str]) -> "TextCodec":
        size = self.vocab_size or 8000
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
        self._segment(tokenizer)
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=max(2, self.min_frequency),
            special_tokens=list(SPECIALS),
            limit_alphabet=max(100, size // 2),  # Chinese: the rarest characters are unknown
            show_progress=False,
        )
        tokenizer.train_from_iterator(texts, trainer)
        return TextCodec(_without_added_tokens(tokenizer), settings=self)


class TextCodec:
    """A trained tokenizer: text to ids without special symbols, ids to readable text."""

    def __init__(self, tokenizer: Tokenizer, *, settings: TokenizerSettings) -> None:
        self.tokenizer, self.settings = tokenizer, settings
        names = tokenizer.get_vocab(with_added_tokens=True)
        self.symbols = sorted(names, key=names.__getitem__)
        self.table: dict[str, int] = names
        self._code_points: np.ndarray | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        size = len(self.symbols)
        return Vocabulary(size=size, pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS)

    @property
    def id_type(self) -> np.dtype[Any]:
        """The smallest type that holds every id: large texts take a quarter of the disk."""
        return np.min_scalar_type(len(self.symbols))

    @property
    def lowercase(self) -> bool:
        """Whether case is lost: then references are lower-cased before they are compared."""
        basic = self.settings.pre_tokenizer == "basic_english"
        return self.settings.lowercase or (basic and self.settings.kind != "characters")

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0].tolist()

    def encode_batch(self, texts: Iterable[str], chunk: int = 20_000) -> Ragged:
        """Texts → ids, a row a text; a text that has no token gives an empty row."""
        rows: list[np.ndarray] = []
        if self.settings.kind == "characters":
            normalise = self.tokenizer.normalizer.normalize_str
            lower = self.lowercase
            plain = (t if t.isascii() and not lower else normalise(t) for t in texts)
            rows = [self._characters(text) for text in plain]
        else:
            for some in chunks(texts, chunk):
                fast = self.tokenizer.encode_batch_fast(some, add_special_tokens=False)
                rows += [np.asarray(encoding.ids, np.int32) for encoding in fast]
        encoded = Ragged.of(rows)
        encoded.values[encoded.values < len(SPECIALS)] = UNK  # the text spelled a special symbol
        return encoded

    def encode_tokens(self, tokens: Sequence[str]) -> list[int]:
        """Words that are tokens already → ids, one each."""
        normalise = self.tokenizer.normalizer.normalize_str
        ids = [self.table.get(t, self.table.get(normalise(t), UNK)) for t in tokens]
        return [i if i >= len(SPECIALS) else UNK for i in ids]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return [self.symbols[i] for i in ids]

    def decode(self, ids: Iterable[int]) -> str:
        """Ids, up to the first <eos>, → text as people write it."""
        kept: list[str] = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                kept.append(self.symbols[i])
        if self.settings.kind == "characters":
            return "".join(kept)
        if self.settings.kind == "bpe":
            return "".join(kept).replace("▁", " ").removeprefix(" ")
        return detokenise(kept)

    def to_plain(self) -> dict[str, Any]:
        return {"tokenizer": self.tokenizer.to_str(), "settings": dict(vars(self.settings))}

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> "TextCodec":
        settings = TokenizerSettings(**plain["settings"])
        return cls(Tokenizer.from_str(plain["tokenizer"]), settings=settings)

    def _characters(self, text: str) -> np.ndarray:
        """As the tokenizer does, by one table look-up: a book at once takes milliseconds."""
        if self._code_points is None:
            single = {ord(t): i for t, i in self.table.items() if len(t) == 1}
            self._code_points = np.full(max(single, default=0) + 2, UNK, np.int32)
            self._code_points[list(single)] = list(single.values())
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        return self._code_points[np.minimum(points, len(self._code_points) - 1)]


def _without_added_tokens(tokenizer: Tokenizer) -> Tokenizer:
    """A text that spells "<pad>" is a text: special symbols are not looked for in it."""
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(plain))


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
