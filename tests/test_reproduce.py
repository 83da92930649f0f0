"""Runs are compared on what both answered, or not at all."""

import json
from pathlib import Path

import pytest

from reproduce import compare
from tasks.captioning_metrics import bleu


def run(folder: Path, task: str, rows: list[dict]) -> str:
    (folder / "predictions").mkdir(parents=True)
    (folder / "config.yaml").write_text(f"task:\n  _target_: {task}\n")
    lines = "".join(json.dumps({"index": i, **row}) + "\n" for i, row in enumerate(rows))
    (folder / "predictions" / "test.jsonl").write_text(lines)
    return str(folder)


def test_accuracy_counts_classes(tmp_path: Path) -> None:
    right = [{"prediction": ["a"], "target": ["a"]}] * 40
    half = right[:20] + [{"prediction": ["b"], "target": ["a"]}] * 20
    one, other = run(tmp_path / "a", "t", half), run(tmp_path / "b", "t", right)
    found = compare(one, other, samples=200, seed=1)["accuracy"]
    assert (found["first"], found["second"]) == (0.5, 1.0) and found["p"] < 0.01


def test_other_tasks_and_other_examples_are_refused(tmp_path: Path) -> None:
    rows = [{"prediction": ["a"], "target": ["a"]}]
    one = run(tmp_path / "a", "t", rows)
    with pytest.raises(ValueError, match="different tasks"):
        compare(one, run(tmp_path / "b", "u", rows), samples=9, seed=1)
    with pytest.raises(ValueError, match="different test examples"):
        compare(one, run(tmp_path / "c", "t", rows * 2), samples=9, seed=1)
    with pytest.raises(ValueError, match="does not exist"):
        compare(one, str(tmp_path / "d"), samples=9, seed=1)


def test_an_empty_file_of_answers_is_named(tmp_path: Path) -> None:
    one, other = (run(tmp_path / name, "t", []) for name in "ab")
    with pytest.raises(ValueError, match=r"test.jsonl is empty"):
        compare(one, other, samples=9, seed=1)


def test_captions_are_compared_by_the_coco_bleu(tmp_path: Path) -> None:
    references = [["a man rides a horse", "one man on a horse"], ["two dogs run in the snow"]]
    texts = ["a man rides a horse", "two dogs run on snow"]
    rows = [
        {"prediction": text, "references": several}
        for text, several in zip(texts, references, strict=True)
    ]
    one, other = (run(tmp_path / name, "tasks.captioning.Captioning", rows) for name in "ab")
    found = compare(one, other, samples=9, seed=1)
    assert list(found) == ["bleu4", "chrf", "exact_match", "cider"]
    assert found["bleu4"]["first"] == pytest.approx(bleu(texts, references)[3])
    assert found["bleu4"]["difference"] == 0
