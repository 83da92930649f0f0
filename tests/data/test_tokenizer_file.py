"""A tokenizer.json that somebody else trained: its symbols behind our special ones."""

import json
from pathlib import Path

import pytest
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from data.codec import TextCodec, TokenizerSettings
from data.text_codec import SPECIALS, UNK
from data.text_pairs import TextPairs

TEXTS = ["The cat sat on the mat.", "A dog ran to the cat.", "naïve café — 东京 😀"] * 5


def wordpiece(file: Path) -> Path:
    """As BERT's: lower case, [CLS] and [SEP] around a text, ids in an order of its own."""
    own = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer()
    own.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    own.decoder = decoders.WordPiece()
    names = ["[MASK]", "[SEP]", "[UNK]", "[CLS]", "[PAD]"]
    own.train_from_iterator(TEXTS, trainers.WordPieceTrainer(special_tokens=names, vocab_size=90))
    own.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 3), ("[SEP]", 1)]
    )
    own.enable_padding(length=30)
    own.save(str(file))
    return file


def byte_level(file: Path) -> Path:
    """As GPT-2's: bytes, no unknown symbol, one special symbol for a text's end."""
    own = Tokenizer(models.BPE())
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    own.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"]
    )
    own.train_from_iterator(TEXTS, trainer)
    own.save(str(file))
    return file


def loaded(file: Path) -> TextCodec:
    return TokenizerSettings(file=str(file)).train([])


def test_its_special_symbols_take_the_places_of_ours(tmp_path: Path) -> None:
    codec = loaded(wordpiece(tmp_path / "tokenizer.json"))
    assert tuple(codec.symbols[:4]) == SPECIALS and codec.symbols[4] == "[MASK]"
    assert not {"[PAD]", "[UNK]", "[CLS]", "[SEP]"} & set(codec.symbols)
    assert codec.lowercase and codec.vocabulary.size == len(set(codec.symbols))
    ids = codec.encode("The CAT sat")
    assert codec.tokens(ids) == ["the", "cat", "sat"] and codec.decode(ids) == "the cat sat"
    assert codec.encode("\u0378") == [UNK]
    # a text that spells them is a text
    assert min(codec.encode("[SEP] [PAD] cat")) >= UNK and len(codec.encode("[SEP]")) > 1


def test_bytes_of_a_file_give_every_text_back(tmp_path: Path) -> None:
    codec = loaded(byte_level(tmp_path / "tokenizer.json"))
    for text in [*TEXTS, "", " two  spaces ", "<|endoftext|>", "ÿ\0\n"]:
        assert codec.decode(codec.encode(text)) == text and UNK not in codec.encode(text)
        ((ids, ends),) = codec.encode_with_ends([text])
        assert ids.tolist() == codec.encode(text) and (not text or ends[-1] == len(text))
    assert "<|endoftext|>" not in codec.symbols and not codec.lowercase


@pytest.mark.parametrize("kind", ["words", "characters", "bytes", "bpe", "unigram"])
def test_a_tokenizer_of_ours_is_the_same_from_its_file(kind: str, tmp_path: Path) -> None:
    own = TokenizerSettings(kind=kind).train(TEXTS)
    own.tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = loaded(tmp_path / "tokenizer.json")
    assert codec.symbols == own.symbols and codec.hash == own.hash
    for text in TEXTS[:3]:
        assert codec.encode(text) == own.encode(text)
        assert codec.decode(codec.encode(text)) == own.decode(own.encode(text))


def test_a_checkpoint_does_not_need_the_file_any_more(tmp_path: Path) -> None:
    file = wordpiece(tmp_path / "tokenizer.json")
    codec = loaded(file)
    plain = json.loads(json.dumps(codec.to_plain()))
    file.unlink()
    again = TextCodec.from_plain(plain)
    assert again.encode(TEXTS[0]) == codec.encode(TEXTS[0]) and again.lowercase


def test_files_that_are_no_tokenizers_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(ValueError, match=r"tokenizer\.json does not exist: give a tokenizer\.json"):
        loaded(file)
    for text in ("not JSON", "[]", '{"model": 3}', "{}"):
        file.write_text(text)
        with pytest.raises(ValueError, match="is no tokenizer.json|cannot be loaded"):
            loaded(file)
    own = Tokenizer(models.WordLevel({"a": 0}, unk_token="<none>"))
    own.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    own.save(str(file))
    with pytest.raises(ValueError, match="needs an unk_token that is in its vocabulary"):
        loaded(file)


def test_another_file_of_the_same_name_is_other_data(tmp_path: Path) -> None:
    rows = [{"source": text, "target": text[::-1]} for text in TEXTS]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    file = tmp_path / "tokenizer.json"

    def make() -> TextPairs:
        return TextPairs(
            name="mine", path=str(tmp_path / "rows.jsonl"), cache_dir=str(tmp_path / "cache"),
            seed=1, batch_size=4, tokenizer=TokenizerSettings(file=str(file)), joint=True,
        )  # fmt: skip

    wordpiece(file)
    first = make()
    assert first.spec.shared_vocabulary and first.codec.inputs.lowercase
    byte_level(file)
    second = make()
    assert second.fingerprint != first.fingerprint or second.spec != first.spec
    assert not second.codec.inputs.lowercase
    folders = list((tmp_path / "cache").glob("mine-*/"))
    make().setup()
    assert len(folders) == 2 and list((tmp_path / "cache").glob("mine-*/")) == folders
