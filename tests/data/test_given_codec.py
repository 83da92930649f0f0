"""Data encoded as a trained model expects: `train.py fit=false ckpt=RUN data=OTHER`."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.base import DataModule
from data.codec import TokenizerSettings, codec_from_plain
from data.rows import PictureRows
from data.tagged_text import TaggedText
from data.text_labels import TextLabels
from data.text_pairs import TextPairs

WORDS = {"tokenizer": TokenizerSettings()}


def numbers(folder: Path, word: str) -> list[dict[str, Any]]:
    """Rows that fit every kind; `word` occurs in each."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(40):
        file = folder / f"{i}.png"
        Image.fromarray(np.full((5, 4 + len(word)), 5 * i, np.uint8)).save(file)
        text = f"{word} number {i}"
        mark = {"label": "ba"[i % 2], "grade": 2.5 * i + 100 * len(word)}
        rows.append({"text": text, "source": text, "target": text.upper(), "image": str(file)})
        rows[-1] |= {"tokens": text.split(), "tags": [f"T{i % 2}", "N", "N"], **mark}
    return rows


KINDS: dict[str, tuple[type[DataModule], dict[str, Any]]] = {
    "labels": (TextLabels, WORDS),
    "grades": (TextLabels, {**WORDS, "label_column": "grade"}),
    "pairs": (TextPairs, WORDS),
    "joint pairs": (TextPairs, {**WORDS, "joint": True}),
    "tags": (TaggedText, WORDS),
    "pictures": (PictureRows, {}),
}


def make(kind: str, rows: list[dict[str, Any]], folder: Path, **changes: Any) -> DataModule:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    data, settings = KINDS[kind]
    settings = {"name": "mine", "seed": 1, "batch_size": 4, **settings, **changes}
    return data(path=str(file), cache_dir=str(folder.parent / "cache"), **settings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_given_codec_takes_the_place_of_a_new_one(kind: str, tmp_path: Path) -> None:
    trained = make(kind, numbers(tmp_path / "a", "cat"), tmp_path / "a")
    other = numbers(tmp_path / "b", "zebra")
    new, again = (make(kind, other, tmp_path / "b") for _ in range(2))
    again.given_codec = codec_from_plain(json.loads(json.dumps(trained.codec.to_plain())))
    assert again.codec.to_plain() == trained.codec.to_plain() != new.codec.to_plain()
    assert again.spec == trained.spec and again.fingerprint != new.fingerprint
    shapes = [batch[0].shape for batch in again.test_dataloader()]
    assert shapes and shapes[0][0] == 4


def test_a_label_that_the_trained_model_lacks_is_named(tmp_path: Path) -> None:
    trained = make("labels", numbers(tmp_path / "a", "cat"), tmp_path / "a")
    rows = [{**row, "label": "new"} for row in numbers(tmp_path / "b", "cat")]
    again = make("labels", rows, tmp_path / "b")
    again.given_codec = trained.codec
    with pytest.raises(ValueError, match="'new', which is not among the classes of the trained"):
        again.setup()


def test_one_class_alone_is_enough_for_a_trained_model(tmp_path: Path) -> None:
    trained = make("labels", numbers(tmp_path / "a", "cat"), tmp_path / "a")
    rows = [{**row, "label": "a"} for row in numbers(tmp_path / "b", "cat")]
    again = make("labels", rows, tmp_path / "b")
    again.given_codec = trained.codec
    assert again.spec.labels == ("a", "b") and again.report()["majority_test"] == 1


def test_a_codec_of_another_kind_is_refused(tmp_path: Path) -> None:
    trained = make("labels", numbers(tmp_path / "a", "cat"), tmp_path / "a")
    for kind in ("pairs", "tags", "pictures"):
        again = make(kind, numbers(tmp_path / "b", "cat"), tmp_path / "b")
        again.given_codec = trained.codec
        with pytest.raises(
            ValueError, match="trained on data of kind text_labels, but data 'mine'"
        ):
            again.setup()
