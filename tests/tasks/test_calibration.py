"""Probabilities are held against answers; classes are counted one by one."""

import csv
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from data.batches import IGNORE
from tasks.calibration import Calibration, calibration_error, reliability
from tasks.class_table import class_table
from tasks.metrics import Confusion, macro_f1


def logits(confidence: float, count: int) -> torch.Tensor:
    """Rows that give class 0 of two at this probability."""
    return torch.tensor([confidence, 1 - confidence]).log().expand(count, 2)


def test_the_error_is_the_gap_of_each_bin_by_its_share() -> None:
    counted = Calibration()
    counted.add(logits(0.9, 10), torch.tensor([0] * 7 + [1] * 3))  # says 0.9, is 0.7
    counted.add(logits(0.6, 30), torch.tensor([0] * 18 + [1] * 12))  # says 0.6, is 0.6
    assert calibration_error(counted.result()) == pytest.approx(10 / 40 * 0.2)
    assert math.isnan(calibration_error(Calibration().result()))


def test_batches_add_up_to_the_definition_and_ignored_steps_do_not_count() -> None:
    torch.manual_seed(0)
    outputs, targets = 2 * torch.randn(40, 9, 4), torch.randint(4, (40, 9))
    targets[torch.rand(40, 9) < 0.3] = IGNORE
    counted = Calibration()
    for some, right in zip(outputs.split(7), targets.split(7), strict=True):
        counted.add(some, right)
    kept = targets != IGNORE
    confidence, given = (p.numpy() for p in outputs[kept].softmax(-1).max(-1))
    hit = given == targets[kept].numpy()
    error = 0.0
    edges = np.linspace(0, 1, 16)
    for low, high in itertools.pairwise(edges):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            error += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    assert calibration_error(counted.result()) == pytest.approx(error, abs=1e-6)
    assert counted.result()[0].sum() == kept.sum()


def test_certain_answers_and_no_answers_have_a_place() -> None:
    counted = Calibration()
    counted.add(torch.tensor([[200.0, 0.0]]), torch.tensor([1]))
    counted.add(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long))
    assert counted.result()[0].tolist() == [0] * 14 + [1]
    assert calibration_error(counted.result()) == 1.0


def test_the_picture_draws_empty_bins_too(tmp_path: Path) -> None:
    counted = Calibration()
    counted.add(logits(0.9, 10), torch.zeros(10, dtype=torch.long))
    reliability(counted.result(), tmp_path / "a.png")
    reliability(Calibration().result(), tmp_path / "b.png")
    drawn, empty = (np.asarray(Image.open(tmp_path / f"{n}.png")) for n in "ab")
    assert drawn.shape == empty.shape and (drawn != empty).any()


def test_the_class_table_agrees_with_the_definition_and_macro_f1() -> None:
    confusion = Confusion(num_classes=4)  # c is never predicted, d neither occurs nor is
    confusion.add(torch.tensor([0, 0, 1, 1, 0]), torch.tensor([0, 0, 0, 1, 2]))
    rows = class_table(confusion.result(), "abcd").rows
    assert rows[0] == ["a", pytest.approx(2 / 3), pytest.approx(2 / 3), pytest.approx(2 / 3), 3]
    assert rows[1] == ["b", 0.5, 1.0, pytest.approx(2 / 3), 1]
    assert rows[2] == ["c", None, 0.0, 0.0, 1]
    assert rows[3] == ["d", None, None, None, 0]
    scores = [row[3] for row in rows if row[3] is not None]
    assert sum(scores) / 3 == pytest.approx(macro_f1(confusion.result()))


@pytest.mark.parametrize(
    "shape", [["classification"], ["tagging", "data=recipes_online", "data.batch_size=16"]]
)
@pytest.mark.usefixtures("drawn")
def test_a_test_leaves_the_table_and_the_picture(
    shape: list[str], start: Callable[..., Any], tmp_path: Path
) -> None:
    run = start(*shape)
    measured = run.test()
    folder = Path(run.trainer.default_root_dir)
    with (folder / "classes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["class"] for row in rows] == list(run.data.spec.labels)
    counted = sum(int(row["support"]) for row in rows)
    assert counted == run.task.reliability[0].sum() == run.task.matrix.sum()
    scores = [float(row["f1"]) for row in rows if row["f1"]]
    assert np.mean(scores) == pytest.approx(measured["test/f1"])
    assert 0 <= measured["test/ece"] <= 1
    assert (folder / "pictures" / "reliability.png").exists()


def test_a_lower_calibration_error_is_better(start: Callable[..., Any]) -> None:
    run = start("classification", "task.monitor=val/ece")
    assert run.config.task.mode == run.task.mode == "min"
