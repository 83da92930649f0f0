"""Every kind of tokenizer and every setting of it, on texts of all sorts."""

import json
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data import hanzi
from data.codec import TextCodec, TokenizerSettings
from data.large_files import Texts
from data.running_text import Pieces
from data.text_codec import BOS, EOS, PAD, SPECIALS, UNK

ROOT = Path(__file__).parent.parent.parent
TEXTS = [
    "Ein Mann, der auf einem T-Shirt steht.",
    'He said: "Don\'t (ever) do that!"',
    "我们去学校吧。",
    "the cat sat on the mat, the cat sat on the hat",
]
KINDS = ["words", "characters", "bytes", "bpe", "unigram"]
HOSTILE = [
    "", " ", "  \n\t ", "\0", "a\0b", "😀👩‍👩‍👧‍👦🏳️‍🌈",
    "<eos>", "<pad> <unk> <bos> <eos>", "x" * 20_000,
    "▁▁", "\u202e\u200b\ufeff", "e\u0301" * 50, "\U0010ffff", "\ud800 lone", "\\n", "ＡＢＣ，。",
]  # fmt: skip


def cut(text: str, **changes: object) -> list[str]:
    codec = TokenizerSettings(**changes).train([text])
    return codec.tokens(codec.encode(text))


@pytest.mark.parametrize("changes", [*({"kind": kind} for kind in KINDS), {"min_frequency": 99}])
def test_texts_are_learnt_from_whether_a_list_or_read_as_they_come(changes: Any) -> None:
    settings = TokenizerSettings(**changes)
    learnt = settings.train(TEXTS).symbols
    assert settings.train(iter(TEXTS)).symbols == learnt
    assert settings.train(Pieces(TEXTS)).symbols == settings.train(["\n".join(TEXTS)]).symbols
    rows = Dataset.from_dict({"text": TEXTS})
    assert settings.train(Texts(rows, "text")).symbols == learnt


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: ascii(text)[:20])
def test_no_text_breaks_a_tokenizer(kind: str, text: str) -> None:
    for corpus in (TEXTS, [text] * 3, [text, *TEXTS]):
        codec = TokenizerSettings(kind=kind, vocab_size=None).train(corpus)
        ids = codec.encode(text)
        assert all(i not in (PAD, BOS, EOS) and i < len(codec.symbols) for i in ids)
        codec.decode(ids).encode()
        ((again, ends),) = codec.encode_with_ends([text])
        assert again.tolist() == ids and len(ends) == len(ids)
        assert (np.diff(ends) >= 0).all() and (not len(ends) or 0 <= ends[-1] <= len(text))


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_bytes_give_every_text_back(text: str) -> None:
    codec = TokenizerSettings(kind="bytes", normalizer="none").train([])
    assert codec.decode(codec.encode(text)) == text and UNK not in codec.encode(text)
    assert len(codec.encode(text)) == len(text.encode())
    assert codec.encode(text) == codec.tokenizer.encode(text, add_special_tokens=False).ids


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40), st.sampled_from(["characters", "bpe", "unigram"]))
def test_what_is_made_of_known_characters_comes_back(text: str, kind: str) -> None:
    text = unicodedata.normalize("NFC", text.replace("▁", ""))
    codec = TokenizerSettings(kind=kind).train([text, *TEXTS] * 2)
    for one in (text, text[::-1], text + " " + TEXTS[0] + "  "):
        one = unicodedata.normalize("NFC", one)
        if UNK not in codec.encode(one):
            assert codec.decode(codec.encode(one)) == one
    if kind != "characters":  # a space in front stands at every beginning
        assert UNK not in codec.encode(text)


@pytest.mark.parametrize(
    "changes",
    [*({"kind": kind} for kind in KINDS), {"pre_tokenizer": "jieba"}, {"lowercase": True}],
    ids=str,
)
def test_the_pieces_of_a_text_are_what_was_written_known_or_not(changes: dict[str, Any]) -> None:
    if "jieba" in changes.values():
        pytest.importorskip("jieba")
    codec = TokenizerSettings(**changes).train(TEXTS)
    text = "Der Zorblax sat on Ürük, 我们 T-Shirt."
    pieces = codec.pieces(text)
    assert len(pieces) == len(codec.encode(text))
    assert "".join(pieces) == text.replace(" ", "")
    if codec.settings.kind == "words" and "jieba" not in changes.values():
        assert {"Zorblax", "Ürük"} <= set(pieces)
        assert codec.tokens(codec.encode(text))[pieces.index("Zorblax")] == "<unk>"


def test_bytes_that_are_no_text_are_shown() -> None:
    codec = TokenizerSettings(kind="bytes").train([])
    first = len(SPECIALS)
    assert len(codec.symbols) == 256 + first
    assert codec.decode([first + 0xE6, first + 0x88, UNK, first + ord("a")]) == "��a"


def test_unigrams_are_the_same_in_every_process() -> None:
    code = (
        "from data.segmentation import normalizer, pre_tokenizer; import random\n"
        "from data.subwords import train_unigram; r = random.Random(0)\n"
        "words = [''.join(r.choices('abcdefghÄÖÜ', k=r.randint(1, 6))) for _ in range(400)]\n"
        "texts = [' '.join(r.choices(words, k=9)) for _ in range(300)] + ['XYZ ÀÉ']\n"
        "parts = normalizer('nfc', lowercase=False, subwords=True), pre_tokenizer('unigram', '')\n"
        "print(train_unigram(texts, *parts, size=150).to_str())"
    )
    command = [sys.executable, "-c", code]
    runs = [
        subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    assert len(set(runs)) == 1 and len(json.loads(runs[0])["model"]["vocab"]) == 150


def test_unigrams_cut_words_where_it_is_likeliest() -> None:
    corpus = ["walking talking walked talked", "walk talk jumping jumped jump"] * 30
    codec = TokenizerSettings(kind="unigram", vocab_size=40).train(corpus)
    scores = dict(json.loads(codec.tokenizer.to_str())["model"]["vocab"])

    def cuts(word: str) -> Iterator[list[str]]:
        if not word:
            yield []
        for end in range(1, len(word) + 1):
            if word[:end] in scores:
                yield from ([word[:end], *rest] for rest in cuts(word[end:]))

    for word in ("talked", "jumping", "walkinged"):
        likeliest = max(cuts(f"▁{word}"), key=lambda pieces: sum(map(scores.__getitem__, pieces)))
        assert codec.tokens(codec.encode(word)) == likeliest and len(likeliest) < len(word)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_the_rarest_characters_are_unknown_where_there_are_too_many(kind: str) -> None:
    many = "".join(chr(0x4E00 + i) for i in range(300))
    codec = TokenizerSettings(kind=kind, vocab_size=120).train([many[:50] * 9, many])
    assert len(codec.symbols) <= 120
    assert UNK not in codec.encode(many[:50]) and UNK in codec.encode(many)


@pytest.mark.parametrize("kind", ["words", "characters", "bpe", "unigram"])
def test_a_vocabulary_is_as_large_as_asked(kind: str) -> None:
    sizes = [
        len(TokenizerSettings(kind=kind, vocab_size=size).train(TEXTS * 5).symbols)
        for size in (12, 1000)
    ]
    assert sizes[0] == 12 < sizes[1]


@pytest.mark.parametrize(
    "changes",
    [{}, {"pre_tokenizer": "whitespace"}, {"kind": "characters"}],
    ids=["words", "whitespace", "characters"],
)
def test_symbols_are_numbered_by_falling_frequency(changes: dict) -> None:
    """What an adaptive softmax rests on."""
    random = np.random.default_rng(0)
    words = [f"{letter}{number}" for letter in "abcde" for number in range(20)]
    texts = [" ".join(random.choice(words, 30, p=np.arange(1, 101) / 5050)) for _ in range(50)]
    codec = TokenizerSettings(**changes).train(texts)
    counts = np.bincount(np.concatenate([codec.encode(text) for text in texts]))
    assert (np.diff(counts[len(SPECIALS) :]) <= 0).all() and len(counts) > 10


def test_min_frequency_leaves_out_what_is_rare() -> None:
    for kind, corpus in [("words", ["a a a b"]), ("characters", ["aaab"])]:
        codec = TokenizerSettings(kind=kind, min_frequency=2).train(corpus)
        assert codec.symbols[4:] == ["a"]
    merged, single = (
        TokenizerSettings(kind="bpe", min_frequency=n).train(["ab ab ab"]).encode("ab")
        for n in (2, 9)
    )
    assert len(merged) < len(single)


@pytest.mark.parametrize("kind", KINDS)
def test_case_and_form_follow_the_settings(kind: str) -> None:
    text = "ﬁn Cafe\u0301 ΟΔΟΣ"
    for name in ("NFC", "NFD", "NFKC", "NFKD"):
        own = TokenizerSettings(kind=kind, normalizer=name.lower(), lowercase=True)
        expected = unicodedata.normalize(name, text).lower()
        codec = own.train([text] * 3)
        assert codec.lowercase and codec.comparable(text) == expected
        # a vowel mark apart from its letter is no letter to words
        if kind != "words" or not name.endswith("D"):
            assert codec.decode(codec.encode(text)) == expected
    plain = TokenizerSettings(kind=kind, normalizer="none").train([text] * 3)
    assert not plain.lowercase and plain.comparable(text) == text


def test_moses_cuts_english_as_its_rules_say() -> None:
    text = 'Mr. J. Smith doesn\'t own a 3.5-litre car, does he? "No..." (1,000 U.S. cars).'
    expected = (
        'Mr. J. Smith doesn \'t own a 3.5-litre car , does he ? " No ... " ( 1,000 U.S. cars ) .'
    )
    assert cut(text, pre_tokenizer="moses") == expected.split()
    assert cut("It ends. Now.", pre_tokenizer="moses") == "It ends . Now .".split()
    codec = TokenizerSettings(pre_tokenizer="moses").train([text])
    assert codec.decode(codec.encode(text)) == text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "bytes", "vocab_size": 300}, "vocab_size=300: there are 256 bytes"),
        ({"kind": "unigram", "min_frequency": 2}, "min_frequency=2 means nothing"),
        ({"kind": "bpe", "pre_tokenizer": "jieba"}, "jieba cuts words, but tokenizer.kind is bpe"),
        ({"dropout": 0.1}, "dropout=0.1 leaves out merges of BPE"),
        ({"kind": "bpe", "dropout": 1.0}, "share of 0 to below 1, got 1.0"),
        ({"chinese": "taiwan"}, "chinese is 'taiwan'; there are keep, simplified, traditional"),
        ({"min_frequency": 0}, "min_frequency must be at least 1"),
        ({"kind": "file"}, "kind=file needs tokenizer.file=PATH"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerSettings(**wrong)


def test_jieba_cuts_chinese_words_and_decoding_joins_them() -> None:
    jieba = pytest.importorskip("jieba", reason="jieba is in the extra zh")
    text = "我来到北京清华大学，看 Tom 的书。"
    tokens = cut(text, pre_tokenizer="jieba")
    assert tokens == [word for word in jieba.lcut(text) if not word.isspace()]
    assert "清华大学" in tokens and "北京" in tokens
    codec = TokenizerSettings(pre_tokenizer="jieba", normalizer="nfkc").train([text] * 2)
    assert codec.decode(codec.encode("我来到北京清华大学")) == "我来到北京清华大学"
    assert codec.encode("北京") == codec.encode(" 北京 ")
    assert codec.symbols[4:][0] == "," or "," in codec.symbols  # ， is folded
    ((ids, ends),) = codec.encode_with_ends([text])
    assert [text[a:b].strip() for a, b in zip([0, *ends], ends, strict=False)][:4] == tokens[:4]
    assert ids.tolist() == codec.encode(text)
    again = TextCodec.from_plain(codec.to_plain())
    assert again.encode(text) == codec.encode(text)


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "bpe", "unigram"])
def test_chinese_is_written_in_the_form_that_is_chosen(kind: str) -> None:
    pytest.importorskip("opencc", reason="opencc is in the extra zh")
    simplified, traditional = "汉语很难学", "漢語很難學"
    for form, expected in [("simplified", simplified), ("traditional", traditional)]:
        codec = TokenizerSettings(kind=kind, chinese=form).train([simplified, traditional] * 3)
        codec = TextCodec.from_plain(codec.to_plain())
        for text in (simplified, traditional):
            assert codec.decode(codec.encode(text)) == expected == codec.comparable(text)
            assert codec.encode_with_ends([text]).__next__()[1][-1] == len(text)
    kept = TokenizerSettings(kind=kind).train([simplified, traditional] * 3)
    assert kept.encode(simplified) != kept.encode(traditional)
    assert kept.comparable(traditional) == traditional


def test_words_given_as_tokens_are_converted_too() -> None:
    pytest.importorskip("opencc", reason="opencc is in the extra zh")
    codec = TokenizerSettings(chinese="simplified").train_on_tokens([["漢語", "難"], ["汉语"]])
    assert codec.symbols[4:] == ["汉语", "难"]
    assert codec.encode_tokens(["漢語", "难", "難"]) == [4, 5, 5]


@pytest.mark.parametrize(
    ("package", "changes"),
    [("jieba", {"pre_tokenizer": "jieba"}), ("opencc", {"chinese": "simplified"})],
)
def test_a_missing_package_is_named_with_its_extra(
    package: str, changes: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for maker in (hanzi._converter, hanzi._jieba):
        maker.cache_clear()
    with pytest.raises(ValueError, match=f"{package}, which is not installed: install the extra"):
        TokenizerSettings(**changes).train(["汉语"])
    for maker in (hanzi._converter, hanzi._jieba):
        maker.cache_clear()


def test_vocabularies_are_told_apart_by_a_hash() -> None:
    one, same, other = (TokenizerSettings().train([text]) for text in ("a b", "b a", "a c"))
    assert one.hash == same.hash != other.hash
