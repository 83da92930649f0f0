"""Runs are compared on what both answered, or not at all; a sweep is summed up by its kinds."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reproduce import compare, summary
from tasks.captioning_metrics import bleu

ROOT = Path(__file__).parent.parent


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


def job(sweep: Path, number: int, cell: str, fold: int, accuracy: float | None) -> None:
    folder = sweep / str(number)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(
        f"seed: {number}\npaths: {{run_dir: {folder}}}\ntask: {{seed: {number}}}\n"
        f"cell: {{_target_: {cell}}}\nrecurrent: {{cell: {{_target_: {cell}}}}}\n"
        f"callbacks: {{dirpath: {folder}/checkpoints}}\ndata: {{folds: 3, fold: {fold}}}\n"
    )
    tested = "" if accuracy is None else f"9,,{accuracy}\n"
    (folder / "metrics.csv").write_text(f"step,val/loss,test/accuracy\n9,0.1,\n{tested}")


def test_a_sweep_is_summed_up_by_kind_over_folds_and_seeds(tmp_path: Path) -> None:
    scores = [("gru", 0, 0.5), ("gru", 1, 0.7), ("gru", 2, 0.9), ("rnn", 0, 0.4), ("rnn", 1, None)]
    for number, (cell, fold, accuracy) in enumerate(scores):
        job(tmp_path, number, cell, fold, accuracy)
    gru, rnn = summary(str(tmp_path))
    assert (gru["kind"], gru["runs"], gru["missing"]) == ("cell._target_=gru", 3, [])
    assert gru["metrics"]["test/accuracy"] == pytest.approx((0.7, 0.2))
    assert (rnn["runs"], rnn["missing"]) == (1, [1, 2])
    assert rnn["metrics"]["test/accuracy"] == (0.4, None)


def test_a_directory_without_tested_runs_is_refused(tmp_path: Path) -> None:
    job(tmp_path, 0, "gru", 0, None)
    with pytest.raises(ValueError, match="holds no tested run"):
        summary(str(tmp_path))


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


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    unread, output = os.pipe()
    os.close(unread)
    done = subprocess.run(
        [sys.executable, ROOT / "reproduce.py"], stdout=output, stderr=subprocess.PIPE, check=False
    )
    os.close(output)
    assert done.stderr == b""
