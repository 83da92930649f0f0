"""Cross-validation tests every row once, each class in its share, equal texts together."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset

from data.codec import TokenizerSettings
from data.text_labels import TextLabels

LABELS = ["up"] * 60 + ["down"] * 30 + ["flat"] * 10


def make(tmp_path: Path, texts: list[str], labels: list[Any], **changes: Any) -> TextLabels:
    """The rows in the three files of a published split."""
    order = np.random.default_rng(1).permutation(len(texts))
    for split, part in zip(("train", "valid", "test"), np.split(order, [-20, -10]), strict=True):
        rows = {"text": [texts[i] for i in part], "label": [labels[i] for i in part]}
        path = tmp_path / "rows" / f"{split}.jsonl"
        path.parent.mkdir(exist_ok=True)
        Dataset.from_dict(rows).to_pandas().to_json(path, orient="records", lines=True)
    settings = {"name": "mine", "path": str(tmp_path / "rows"), "cache_dir": str(tmp_path / "c")}
    settings |= {"seed": 1, "batch_size": 8, "folds": 5, "fold": 0}
    return TextLabels(tokenizer=TokenizerSettings(), **settings | changes)


def texts_of(data: TextLabels, split: str) -> list[str]:
    return [data.example(split, i).input for i in range(len(data.splits[split]))]


def test_the_tests_of_all_folds_are_every_row_once_each_class_in_its_share(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(100)]
    tested: list[str] = []
    for fold in range(5):
        data = make(tmp_path, texts, LABELS, fold=fold)
        data.setup()
        parts = {split: texts_of(data, split) for split in ("train", "validation", "test")}
        assert sorted(text for part in parts.values() for text in part) == sorted(texts)
        assert [len(part) for part in parts.values()] == [72, 8, 20]
        found = Counter(data.example("test", i).references[0] for i in range(20))
        assert found == {"up": 12, "down": 6, "flat": 2}
        tested += parts["test"]
    assert sorted(tested) == sorted(texts)


def test_the_report_says_that_splits_were_pooled(tmp_path: Path) -> None:
    report = make(tmp_path, [f"text {i}" for i in range(100)], LABELS, fold=3).report()
    assert report["test_from"] == (
        "fold 3 of 5 by seed 0, all rows pooled (80 train + 10 validation + 10 test)"
    )


def test_the_split_seed_alone_decides(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(100)]
    first = texts_of(make(tmp_path, texts, LABELS), "test")
    assert texts_of(make(tmp_path, texts, LABELS, seed=7), "test") == first
    assert texts_of(make(tmp_path, texts, LABELS, split_seed=7), "test") != first


def test_equal_texts_stay_on_one_side(tmp_path: Path) -> None:
    texts = [f"text {i // 2}" for i in range(100)]
    data = make(tmp_path, texts, LABELS)
    parts = [set(texts_of(data, split)) for split in ("train", "validation", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 50


def test_real_labels_are_dealt_too(tmp_path: Path) -> None:
    data = make(tmp_path, [f"text {i}" for i in range(100)], [i / 3 for i in range(100)])
    assert data.spec.labels is None and len(data.splits["test"]) == 20


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folds": 1}, "data.folds must be at least 2, got 1"),
        ({"fold": 5}, "data.fold must be 0 to 4 with data.folds=5, got 5"),
        ({"fold": -1}, "got -1"),
        ({"fold": None}, r"data.folds=5 needs data.fold, 0 to 4"),
        ({"folds": None}, "data.fold=0 needs the number of folds"),
        ({"folds": 20}, "label 'flat' has 10 different texts, fewer than data.folds=20"),
    ],
)
def test_folds_that_cannot_be_are_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=said):
        make(tmp_path, [f"text {i}" for i in range(100)], LABELS, **changes).setup()
