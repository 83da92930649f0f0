"""Vocabularies of parts of words, learnt from texts: bytes, byte-pair encoding and unigrams."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from tokenizers import Tokenizer, decoders, models, trainers
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import ByteLevel, PreTokenizer

from data.specials import SPECIALS


def byte_symbols() -> list[str]:
    """A visible character for each of the 256 bytes, in the bytes' order (as GPT-2 has them)."""
    shown = sorted(ByteLevel.alphabet(), key=ord)
    own = {ord(c): c for c in shown if ord(c) < 256}  # most printable bytes stand for themselves
    rest = iter(c for c in shown if ord(c) >= 256)  # the others, in order, from Ā on
    return [own[b] if b in own else next(rest) for b in range(256)]


def byte_tokenizer(normalizer: Normalizer, cut: PreTokenizer) -> Tokenizer:
    """UTF-8's bytes: every text, no unknown symbol, nothing to learn."""
    table = {symbol: i for i, symbol in enumerate((*SPECIALS, *byte_symbols()))}
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cut
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_bpe(
    texts: Iterable[str], normalizer: Normalizer, cut: PreTokenizer, *, size: int, least: int
) -> Tokenizer:
    """Byte-pair encoding over characters. Sennrich et al. 2016, arXiv 1508.07909."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, cut
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=max(2, least),
        special_tokens=list(SPECIALS),
        limit_alphabet=_alphabet(size),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = []  # a text that spells "<pad>" is a text
    return Tokenizer.from_str(json.dumps(plain))


def train_unigram(
    texts: Iterable[str], normalizer: Normalizer, cut: PreTokenizer, *, size: int
) -> Tokenizer:
    """A unigram model of pieces, the likeliest cut of each word. Kudo 2018, arXiv 1804.10959."""
    texts = [normalizer.normalize_str(text) for text in texts]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    rare = [c for c, _ in sorted(counts.items(), key=lambda x: (-x[1], x[0]))[_alphabet(size) :]]
    if rare:  # the trainer would keep every character, whatever the size
        apart = re.compile(f"[{re.escape(''.join(rare))}]")
        texts = [apart.sub(" ", text) for text in texts]
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = cut, decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=size, special_tokens=list(SPECIALS), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.normalizer = normalizer
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = []
    pieces = _in_one_order(plain["model"]["vocab"][len(SPECIALS) :])
    # ▁ is never but at a word's beginning, so no text holds a piece that ends with it
    plain["model"]["vocab"] = [[f"{name}▁", 0.0] for name in SPECIALS] + pieces
    return Tokenizer.from_str(json.dumps(plain))


def _alphabet(size: int) -> int:
    """How many characters a vocabulary may spend on the alphabet: of Chinese, the frequent ones."""
    return max(1, min(max(100, size // 2), size - len(SPECIALS) - 1))


def _in_one_order(pieces: list[list[Any]]) -> list[list[Any]]:
    """The likeliest first, the same in every process.

    The trainer adds the characters that its pieces lack with scores that fall by 1e-4 in an order
    that differs between processes: they all get the lowest score.
    """
    scores = {piece: round(score, 6) for piece, score in pieces}
    lowest = min(
        (s for p, s in scores.items() if len(p) > 1), default=min(scores.values(), default=0)
    )
    characters = [piece for piece in scores if len(piece) == 1]
    edge = lowest + 1e-4 * (len(characters) + 1)
    scores.update({piece: lowest for piece in characters if scores[piece] < edge})
    return [[p, s] for p, s in sorted(scores.items(), key=lambda item: (-item[1], item[0]))]
