"""Vocabularies learnt from training texts: which symbols, in which order."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer

from data import hanzi
from data.backwards import text_codec
from data.segmentation import normalizer, pre_tokenizer
from data.specials import SPECIALS
from data.subwords import byte_tokenizer, train_bpe, train_unigram
from data.text_codec import TextCodec
from data.tokenizer_file import load_tokenizer
from data.tokenizer_settings import TokenizerSettings


def train(settings: TokenizerSettings, texts: Iterable[str]) -> TextCodec:
    """A codec for texts like these. ValueError where a given file or an extra is missing."""
    if settings.file is not None:
        return text_codec(load_tokenizer(settings.file), settings=settings)
    parts = _parts(settings)
    if settings.kind == "bytes":
        return text_codec(byte_tokenizer(*parts), settings=settings)
    # some kinds read them twice; large ones are never held
    texts = _Ready(list(texts) if isinstance(texts, Iterator) else texts, settings)
    size = settings.vocab_size or 8000
    if settings.kind == "bpe":
        learnt = train_bpe(texts, *parts, size=size, least=settings.min_frequency)
        return text_codec(learnt, settings=settings)
    if settings.kind == "unigram":
        return text_codec(train_unigram(texts, *parts, size=size), settings=settings)
    if settings.kind == "characters" or settings.pre_tokenizer == "jieba":
        cut = list if settings.kind == "characters" else hanzi.words
        counts = Counter(chain.from_iterable(cut(parts[0].normalize_str(t)) for t in texts))
        if settings.kind == "words":
            counts = Counter({word: n for word, n in counts.items() if not word.isspace()})
        return _of_counts(settings, counts)
    codec = _of_words(settings, _words(settings, texts, settings.min_frequency))
    if len(codec.symbols) == len(SPECIALS) and settings.min_frequency > 1:
        # texts so few that nothing is frequent: any vocabulary is better than none
        codec = _of_words(settings, _words(settings, texts, 1))
    return codec


@dataclass(frozen=True)
class _Ready:
    """Texts as they are before they are cut, made as often as they are read."""

    texts: Iterable[str]
    settings: TokenizerSettings

    def __iter__(self) -> Iterator[str]:
        return map(self.settings.ready, self.texts)


def train_on_tokens(settings: TokenizerSettings, rows: Iterable[Sequence[str]]) -> TextCodec:
    """A codec for texts that are lists of words already."""
    normalise = _parts(settings)[0].normalize_str
    raw = Counter(chain.from_iterable(rows))
    counts: Counter[str] = Counter()
    for word, count in raw.items():
        counts[normalise(settings.ready(word))] += count
    return _of_counts(settings, counts)


def _parts(settings: TokenizerSettings) -> tuple[Normalizer, PreTokenizer]:
    basic = settings.pre_tokenizer == "basic_english"
    basic = basic and settings.kind not in ("characters", "bytes")
    own = normalizer(
        settings.normalizer,
        lowercase=settings.lowercase,
        basic_english=basic,
        subwords=settings.kind in ("bpe", "unigram"),
    )
    return own, pre_tokenizer(settings.kind, settings.pre_tokenizer)


def _words(settings: TokenizerSettings, texts: Iterable[str], min_frequency: int) -> list[str]:
    """The most frequent first, ties in alphabetical order, as torchtext orders them."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _parts(settings)
    # no special symbols here: the trainer would give one that the text spells a second id
    trainer = trainers.WordLevelTrainer(
        vocab_size=settings.vocab_size or 10_000_000,
        min_frequency=min_frequency,
        special_tokens=[],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    found = tokenizer.get_vocab()
    return sorted(found, key=found.__getitem__)


def _of_counts(settings: TokenizerSettings, counts: Counter[str]) -> TextCodec:
    """In the order of `_words`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = [token for token, count in ranked if token and count >= settings.min_frequency]
    return _of_words(settings, kept or [token for token, _ in ranked if token])


def _of_words(settings: TokenizerSettings, words: Sequence[str]) -> TextCodec:
    kept = [word for word in words if word not in SPECIALS]
    if settings.vocab_size is not None:
        kept = kept[: settings.vocab_size - len(SPECIALS)]
    table = {token: i for i, token in enumerate((*SPECIALS, *kept))}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = _parts(settings)
    if settings.kind == "characters":
        tokenizer.decoder = decoders.Fuse()
    return text_codec(tokenizer, settings=settings)
