"""A text that is read from its end has the same symbols, and is written as people read it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from data.arrays import Ragged
from data.backwards import BackwardCodec, turned
from data.codec import TextCodec, TokenizerSettings
from data.tagged_text import TaggedText
from data.text import TextStreams
from data.text_codec import EOS
from data.text_labels import TextLabels
from data.text_pairs import TextPairs

TEXTS = ["the cat sat on a mat", "", "naïve 我们 cats, and dogs", "a"]
KINDS = ["words", "characters", "bytes", "bpe", "unigram"]


def pair(kind: str, **more: object) -> tuple[TextCodec, TextCodec]:
    forth, back = (
        TokenizerSettings(kind=kind, reverse=reverse, **more).train(TEXTS * 20)  # type: ignore[arg-type]
        for reverse in (False, True)
    )
    return forth, back


@pytest.mark.parametrize("kind", KINDS)
def test_symbols_are_those_of_the_text_from_the_last_to_the_first(kind: str) -> None:
    forth, back = pair(kind)
    assert forth.symbols == back.symbols
    for text, ids in zip(TEXTS, back.encode_batch(TEXTS), strict=True):
        assert ids.tolist() == forth.encode(text)[::-1] == back.encode(text)
        assert back.decode(ids) == forth.decode(forth.encode(text))
        assert back.decode([*ids, EOS, 5, 6]) == back.decode(ids)


@pytest.mark.parametrize("kind", KINDS)
def test_every_character_is_counted_once(kind: str) -> None:
    for text, one, other in zip(
        TEXTS, *(codec.encode_with_ends(TEXTS) for codec in pair(kind)), strict=True
    ):
        (ids, ends), (turned_ids, turned_ends) = one, other
        assert turned_ids.tolist() == ids.tolist()[::-1], text
        counts = np.diff(ends, prepend=0).tolist()
        assert np.diff(turned_ends, prepend=0).tolist() == counts[::-1]


def test_it_travels_in_a_checkpoint_and_is_told_apart() -> None:
    forth, back = pair("words")
    again = TextCodec.from_plain(back.to_plain())
    assert type(again) is BackwardCodec and again.encode("a mat") == back.encode("a mat")
    assert back.hash != forth.hash and back.hash == again.hash
    old = forth.to_plain()
    del old["settings"]["reverse"]  # before there was a choice
    assert type(TextCodec.from_plain(old)) is TextCodec


def test_dropped_merges_leave_the_order() -> None:
    _, back = pair("bpe", vocab_size=80, dropout=0.5)
    ids = back.encode_batch(TEXTS)
    other = back.resegmented(ids, np.random.default_rng(0))
    assert [back.decode(row) for row in other] == [back.decode(row) for row in ids]
    assert other.lengths.sum() > ids.lengths.sum()


def test_rows_are_turned_each_by_itself() -> None:
    rows = Ragged.of([[1, 2, 3], [], [4], [5, 6]])
    assert [row.tolist() for row in turned(rows)] == [[3, 2, 1], [], [4], [6, 5]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "texts.txt").write_text("the cat sat\na dog ran\n" * 20, encoding="utf-8")
    (tmp_path / "rows.csv").write_text("text,label\n" + "the cat sat,0\na dog,1\n" * 10)
    (tmp_path / "pairs.tsv").write_text("en\tfr\n" + "the cat sat\tle chat\n" * 20)
    return tmp_path


WORDS = TokenizerSettings(pre_tokenizer="whitespace", reverse=True)


def test_a_language_model_reads_each_row_from_its_end(folder: Path) -> None:
    data = TextStreams(
        name="t", path=str(folder / "texts.txt"), cache_dir=str(folder / "c"), tokenizer=WORDS,
        document_end=True, steps=8, batch_size=1, seed=1,
    )  # fmt: skip
    data.setup()
    words = data.codec.inputs.tokens(data.splits["train"].flat("ids")[:8].tolist())
    assert words == ["sat", "cat", "the", "<eos>", "ran", "dog", "a", "<eos>"]
    # what it writes after a prompt stands in front of it
    prompt = data.codec.inputs.encode("cat sat")
    assert data.codec.text([*prompt, data.codec.inputs.table["the"]]) == "the cat sat"


def test_a_classifier_reads_from_the_end_in_training_and_prediction(folder: Path) -> None:
    data = TextLabels(
        name="t", path=str(folder / "rows.csv"), cache_dir=str(folder / "c"), tokenizer=WORDS,
        batch_size=4, seed=1,
    )  # fmt: skip
    data.setup()
    text = data.example("test", 0).input
    batch, asked = data.collate("test", [0]), data.codec.batch([text])
    assert torch.equal(batch.inputs, asked.inputs)
    n = int(batch.lengths[0])
    assert data.codec.inputs.tokens(batch.inputs[0, :n].tolist()) == text.split()[::-1]


def test_a_source_may_be_turned_and_its_target_not(folder: Path) -> None:
    data = TextPairs(
        name="t", path=str(folder / "pairs.tsv"), cache_dir=str(folder / "c"), tokenizer=WORDS,
        target_tokenizer=TokenizerSettings(), source_column="en", target_column="fr",
        batch_size=4, seed=1,
    )  # fmt: skip
    data.setup()
    batch = data.collate("test", [0])
    assert data.codec.inputs.tokens(batch.source[0].tolist()) == ["sat", "cat", "the", "<eos>"]
    assert data.codec.outputs.decode(batch.target[0].tolist()) == "le chat"


def test_where_it_means_nothing_it_is_refused(folder: Path) -> None:
    common = {"name": "t", "cache_dir": str(folder / "c"), "tokenizer": WORDS}
    common |= {"seed": 1, "batch_size": 4}
    with pytest.raises(ValueError, match=r"set data\.document_end=true"):
        TextStreams(path=str(folder / "texts.txt"), document_end=False, **common)
    rows = folder / "tags.jsonl"
    rows.write_text('{"tokens": ["a", "b"], "tags": ["x", "y"]}\n' * 20)
    with pytest.raises(ValueError, match="part words from their tags"):
        TaggedText(path=str(rows), **common).setup()
