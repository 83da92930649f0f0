"""Pairs of texts from a user's own files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from data.codec import TokenizerSettings, codec_from_plain
from data.text_codec import BOS, EOS, PAD
from data.text_pairs import TextPairs

Make = Callable[..., TextPairs]
NUMBERS = list(zip("one two three four five six".split(), "一二三四五六", strict=True))


def pairs(count: int) -> dict[str, list[str]]:
    random = np.random.default_rng(0)
    picks = [random.integers(0, 6, random.integers(1, 9)) for _ in range(count)]
    english = [" ".join(NUMBERS[i][0] for i in pick) + f" no {n}" for n, pick in enumerate(picks)]
    return {"en": english, "zh": ["".join(NUMBERS[i][1] for i in pick) for pick in picks]}


def write(file: Path, columns: dict[str, list[str]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns).to_parquet(file)
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> TextPairs:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 8, "source_column": "en", "target_column": "zh"}
        tokenizer = changes.pop("tokenizer", TokenizerSettings(kind="bpe", vocab_size=100))
        data = TextPairs(tokenizer=tokenizer, **(settings | changes))
        data.setup()
        return data

    return build


def test_pairs_become_batches_between_bos_and_eos(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.parquet", pairs(200)))
    codec = data.codec
    for batch in data.train_dataloader():
        for source, n, target, m, index in zip(*batch, strict=True):
            example = data.example("train", int(index))
            assert source[n - 1] == EOS and target[0] == BOS and target[m - 1] == EOS
            assert codec.inputs.decode(source) == example.input
            assert codec.outputs.decode(target) == example.references[0]
            assert (source[n:] == PAD).all() and (target[m:] == PAD).all()


def test_padding_of_both_sides_stays_under_a_tenth(make: Make, tmp_path: Path) -> None:
    assert make(write(tmp_path / "all.parquet", pairs(2000))).report()["padding"] < 0.1


def test_a_joint_vocabulary_is_one_table(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "all.parquet", pairs(50))
    data = make(file, joint=True)
    assert data.spec.shared_vocabulary
    assert data.codec.inputs.symbols == data.codec.outputs.symbols
    apart = make(file, target_tokenizer=TokenizerSettings(kind="characters"))
    assert not apart.spec.shared_vocabulary
    assert set(apart.codec.outputs.symbols[4:]) <= set("一二三四五六")
    with pytest.raises(ValueError, match=r"joint=true needs one tokenizer"):
        make(file, joint=True, target_tokenizer=TokenizerSettings(kind="characters"))


def test_vocabularies_are_learnt_from_training_alone(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "d/train.parquet", pairs(40))
    write(tmp_path / "d/test.parquet", {"en": ["seven"], "zh": ["七"]})
    data = make(tmp_path / "d", tokenizer=TokenizerSettings())
    assert "七" not in data.codec.outputs.symbols and data.report()["target_unknown_test"] == 1


def test_odd_pairs_are_left_out_of_training_and_counted(make: Make, tmp_path: Path) -> None:
    odd = {"en": ["", "one", "one " * 50, "two"], "zh": ["一", "", "一" * 50, "二"]}
    usual = pairs(40)
    write(tmp_path / "d/train.parquet", {k: odd[k] + usual[k] for k in odd})
    write(tmp_path / "d/test.parquet", odd)
    data = make(tmp_path / "d", max_length=30, tokenizer=TokenizerSettings())
    report = data.report()
    assert report["left_out_train"] + len(data.splits["train"]) == 44 - report["validation"]
    assert report["source_empty"] == 2 and report["source_too_long"] == 2
    batch = next(iter(data.test_dataloader()))
    by_index = dict(zip(batch.index.tolist(), batch.source_lengths.tolist(), strict=True))
    assert by_index == {0: 1, 1: 2, 2: 31, 3: 2}
    assert data.example("test", 2).references == ["一" * 50]  # references are never cut
    for i in range(len(data.splits["train"])):
        assert data.example("train", i).input and data.example("train", i).references[0]


def test_a_max_length_that_leaves_nothing_is_named(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "all.parquet", {k: [v * 3 for v in c] for k, c in pairs(40).items()})
    with pytest.raises(ValueError, match=r"max_length=1 leaves no training pair: the shortest has"):
        make(file, max_length=1)
    with pytest.raises(ValueError, match="are 'en': name two different"):
        make(file, target_column="en")
    with pytest.raises(ValueError, match="no column 'fr'; there are: en, zh"):
        make(file, target_column="fr")


def test_a_prediction_batch_equals_the_trained_one_after_json(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.parquet", pairs(60)))
    batch = next(iter(data.test_dataloader()))
    codec = codec_from_plain(data.codec.to_plain())
    again = codec.batch([data.example("test", int(i)).input for i in batch.index])
    assert torch.equal(again.source, batch.source)
    assert torch.equal(again.source_lengths, batch.source_lengths)
    assert again.target.tolist() == [[BOS, EOS]] * len(batch.index)
    assert codec.batch(["", "never seen ÿ"]).source_lengths.min() == 1


@pytest.mark.parametrize(("folder", "source", "target"), [
    ("multi30k", "en", "de"), ("tatoeba_en_zh", "en", "zh"),
])  # fmt: skip
def test_real_pairs_load_whole_and_come_back(
    folder: str, source: str, target: str, tmp_path: Path
) -> None:
    if "UNROLL_DATA" not in os.environ:
        pytest.skip("UNROLL_DATA is not set: no local copies of the real data")
    data = TextPairs(
        name=folder, folder=folder, data_dir=os.environ["UNROLL_DATA"], cache_dir=str(tmp_path),
        seed=1, batch_size=64, source_column=source, target_column=target,
        tokenizer=TokenizerSettings(kind="bpe", lowercase=True),
    )  # fmt: skip
    assert data.report()["padding"] < 0.1
    batch = next(iter(data.test_dataloader()))
    same = [
        data.codec.outputs.decode(row) == data.example("test", int(i)).references[0].lower()
        for row, i in zip(batch.target, batch.index, strict=True)
    ]
    assert sum(same) >= 0.85 * len(same)  # the others have a character that training lacks
