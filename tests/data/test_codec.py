import json
import unicodedata
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.codec import TextCodec, TokenizerSettings, codec_from_plain
from data.detokenise import detokenise
from data.text_codec import BOS, EOS, PAD, UNK
from data.text_labels import TextLabelsCodec

TEXTS = [
    "Ein Mann, der auf einem T-Shirt steht.",
    'He said: "Don\'t (ever) do that!"',
    "我们去学校吧。",
    "Two men, 3.5 metres tall, are here...",
]
KINDS = ["words", "characters", "bpe"]


def cut(pre_tokenizer: str, text: str) -> list[str]:
    """The tokens that a tokenizer cuts a text into, whatever its vocabulary."""
    codec = TokenizerSettings(kind="words", pre_tokenizer=pre_tokenizer).train([text])
    return codec.tokens(codec.encode(text))


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_gives_the_text_back(kind: str) -> None:
    codec = TokenizerSettings(kind=kind).train(TEXTS * 3)
    for text in TEXTS:
        assert codec.decode(codec.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_a_codec_survives_json(kind: str) -> None:
    codec = TokenizerSettings(kind=kind, lowercase=True).train(TEXTS)
    again = TextCodec.from_plain(json.loads(json.dumps(codec.to_plain())))
    assert again.settings == codec.settings and again.symbols == codec.symbols
    assert all(again.encode(text) == codec.encode(text) for text in TEXTS)


@pytest.mark.parametrize("kind", KINDS)
def test_special_symbols_spelled_in_a_text_stay_text(kind: str) -> None:
    codec = TokenizerSettings(kind=kind, pre_tokenizer="whitespace").train(["<pad> a <eos> b"] * 3)
    assert codec.vocabulary.pad_id == PAD and codec.symbols[:4] == [
        "<pad>",
        "<unk>",
        "<bos>",
        "<eos>",
    ]
    assert not {PAD, BOS, EOS} & set(codec.encode("<pad> a <eos> b <bos>"))


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_unknown_texts_are_handled(kind: str) -> None:
    codec = TokenizerSettings(kind=kind).train(TEXTS)
    assert codec.encode("") == [] and codec.decode([]) == ""
    assert UNK in codec.encode("ÿ") and len(codec.encode_batch([])) == 0


def test_decoding_stops_at_the_end_of_sentence() -> None:
    codec = TokenizerSettings().train(["a b c"])
    a, b, c = codec.encode("a b c")
    assert codec.decode([BOS, a, b, EOS, c, PAD]) == "a b"


def test_words_cut_chinese_by_character_and_keep_words_whole() -> None:
    assert cut("words", "我爱Tom，don't go at 6:30 p.m.!") == [
        "我", "爱", "Tom", "，", "don't", "go", "at", "6:30", "p.m.", "!",
    ]  # fmt: skip
    assert cut("whitespace", "我们 爱 don't!") == ["我们", "爱", "don't!"]


def test_lower_casing_and_full_width_forms_follow_the_settings() -> None:
    codec = TokenizerSettings(lowercase=True, normalizer="nfkc").train(["Ａ Cat，"])
    assert codec.lowercase and codec.decode(codec.encode("Ａ Cat，")) == "a cat,"


def test_characters_are_looked_up_as_the_tokenizer_does() -> None:
    codec = TokenizerSettings(kind="characters", min_frequency=2).train(TEXTS * 2)
    for text in [*TEXTS, "\n\t x\u2028é🎵"]:
        plain = codec.tokenizer.encode(text, add_special_tokens=False).ids
        assert codec.encode(text) == plain


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40))
def test_bpe_and_characters_are_lossless_on_their_alphabet(text: str) -> None:
    text = unicodedata.normalize("NFC", text.replace("▁", ""))
    for kind in ("characters", "bpe"):
        codec = TokenizerSettings(kind=kind).train([text, text])
        if UNK not in codec.encode(text):
            assert codec.decode(codec.encode(text)) == text


def test_words_are_joined_as_people_write_them() -> None:
    assert detokenise("ein mann , der ( hier ) steht .".split()) == "ein mann, der (hier) steht."
    assert detokenise('er sagt : " hallo " !'.split()) == 'er sagt: "hallo"!'
    assert detokenise("do n't , it 's fine".split()) == "don't, it's fine"
    assert detokenise(["„", "ja", "“", "und", "„", "nein", "“"]) == "„ja“ und „nein“"
    assert detokenise(list("我们，去。")) == "我们，去。"


def test_the_vocabulary_is_most_frequent_first_then_alphabetical() -> None:
    codec = TokenizerSettings(min_frequency=2).train(["b a b a c c d e e e"])
    assert codec.symbols[4:] == ["e", "a", "b", "c"]
    assert TokenizerSettings(vocab_size=6).train(["b a b a c"]).symbols[4:] == ["a", "b"]


def test_texts_too_few_for_min_frequency_still_give_a_vocabulary() -> None:
    assert TokenizerSettings(min_frequency=5).train(["a b"]).symbols[4:] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("You can't, (really)!", ["you", "can", "'", "t", ",", "(", "really", ")", "!"]),
        ('A "quoted": thing; end.', ["a", "quoted", "thing", "end", "."]),
        ("line<br />break?", ["line", "break", "?"]),
    ],
)
def test_basic_english_cuts_by_hand_worked_rules(text: str, tokens: list[str]) -> None:
    assert cut("basic_english", text) == tokens


def test_tokens_given_by_the_data_are_not_cut_again() -> None:
    codec = TokenizerSettings(lowercase=True).train_on_tokens([["New York", "我们"], ["new york"]])
    assert codec.symbols[4:] == ["new york", "我们"]
    assert codec.encode_tokens(["NEW YORK", "我们", "他"]) == [4, 5, UNK]
    assert Counter(codec.encode_tokens(["<pad>"])) == {UNK: 1}


def test_codecs_are_found_by_kind_in_a_fresh_process() -> None:
    codec = TextLabelsCodec(inputs=TokenizerSettings().train(TEXTS), labels=("no", "yes"))
    plain = json.loads(json.dumps(codec.to_plain()))
    again = codec_from_plain(plain)
    assert isinstance(again, TextLabelsCodec) and again.labels == ("no", "yes")
    with pytest.raises(ValueError, match=r"no_such_kind.*data/no_such_kind\.py"):
        codec_from_plain({**plain, "kind": "no_such_kind"})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "syllables"}, "kind is 'syllables'; there are words, characters, bytes"),
        ({"pre_tokenizer": "spacy"}, "words, whitespace, basic_english, moses, jieba"),
        ({"normalizer": "nfx"}, "none, nfc, nfkc, nfd, nfkd"),
        ({"vocab_size": 3}, "vocab_size must be over 4"),
    ],
)
def test_unknown_tokenizer_settings_name_what_exists(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TokenizerSettings(**wrong)
